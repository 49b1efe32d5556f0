"""Galactic (Thermo GRAMS) SPC files: one spectrum or many, even or own X values, the new formats and the old one.

Layout: "A Brief Guide to SPC File Format" and the header SPC.H (Galactic Industries, 1997).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from nirs_store.reading.dialect import Unreadable
from nirs_store.reading.measured import Binary, Measured, check_finite, most_values, printable

_SHORT, _MULTI, _LABELS, _OWN_X, _X_VALUES = 0x01, 0x04, 0x20, 0x40, 0x80
_FLOATS = -128
"""The exponent that says that values are float32."""
_X_UNITS = {1: "cm-1", 2: "um", 3: "nm"}
_X_WORDS = {
    0: "arbitrary", 4: "seconds", 5: "minutes", 6: "Hz", 7: "kHz", 8: "MHz", 9: "m/z", 10: "ppm", 11: "days",
    12: "years", 13: "Raman shift (cm-1)", 14: "eV", 16: "diode number", 17: "channel", 22: "points",
}  # fmt: skip
_SIGNALS = {
    0: None, 1: "interferogram", 2: "absorbance", 3: "Kubelka-Munk", 4: "raw", 5: "volts", 10: "absorbance",
    11: "percent", 12: "intensity", 13: "relative intensity", 14: "energy", 128: "transmittance",
    129: "reflectance", 130: "single beam", 131: "emission",
}  # fmt: skip
_NEW_HEADER, _OLD_HEADER, _SUBHEADER = 512, 224, 32


def is_spc(head: bytes) -> bool:
    """Tell the first bytes of an SPC file, as far as they can be told."""
    return len(head) >= 256 and head[1] in (0x4B, 0x4C, 0x4D)


def read_spc(data: bytes) -> Measured:
    """Read the spectra of an SPC file."""
    file = Binary(data, "SPC")
    version = file.fields("<BB", 0, "the header")[1]
    if version in (0x4B, 0x4C):
        return _read_new(file, "<" if version == 0x4B else ">")
    if version == 0x4D:
        return _read_old(file)
    if version == 0xCF:
        raise Unreadable(
            "this is an SPC file of Shimadzu, which has another layout. Export it as JCAMP-DX or CSV."
        )
    raise Unreadable(
        f"this is not an SPC file of Galactic: its version is 0x{version:02X}, not 0x4B, 0x4C or 0x4D."
    )


def _read_new(file: Binary, end: str) -> Measured:
    flags, _, _, exponent, points, first, last, count, x_type, y_type, _, _, date = file.fields(
        f"{end}BBBbiddIBBBBI", 0, "the header"
    )
    log_at = file.fields(f"{end}I", 248, "the header")[0]
    file.fields(f"{end}512x", 0, "the header")
    size = 2 if flags & _SHORT else 4
    own = bool(flags & _OWN_X)
    count = max(count, 1)
    # Each spectrum has a header at least, so the file bounds their number before anything is allotted.
    least = count * (_SUBHEADER + (0 if own else points * size))
    if least > len(file) or (not own and not 1 <= points <= most_values() // count):
        raise Unreadable(
            f"its header names {count} spectra of {points} points; the file has {len(file)} bytes."
        )
    at = _NEW_HEADER
    grid = np.linspace(first, last, points) if not own else np.empty(0)
    if flags & _X_VALUES and not own:
        grid = file.array(f"{end}f4", points, at, "the X values")
        at += 4 * points
    rows: list[np.ndarray] = []
    times: list[float] = []
    for k in range(count):
        what = f"spectrum {k + 1}"
        _, own_exponent, _, time, _, _, own_points = file.fields(f"{end}BbHfffi", at, what)
        n = own_points if own else points
        power = own_exponent if flags & _MULTI else exponent
        at += _SUBHEADER
        if own:
            if not 1 <= n <= most_values() // count:
                raise Unreadable(f"{what} names {n} points; the file has {len(file)} bytes.")
            x = file.array(f"{end}f4", n, at, f"the X values of {what}")
            at += 4 * n
            if k and not np.array_equal(x, grid):
                raise Unreadable(
                    f"{what} has other X values than the first. Bring them to one grid in GRAMS first."
                )
            grid = x
        width = 4 if power == _FLOATS else size
        kind = "f4" if power == _FLOATS else f"i{size}"
        rows.append(file.array(f"{end}{kind}", n, at, what) * _scale(power, width))
        at += width * n
        times.append(float(time))
    told = {
        "format": "Galactic SPC" + ("" if end == "<" else ", big-endian"),
        "measured": _date(date),
        "resolution": file.text(36, 9),
        "instrument": file.text(45, 9),
        "comment": file.text(88, 130),
        "method": file.text(264, 48),
    }
    if flags & _LABELS:
        told["axes"] = _labels(file.data[218:248])
    if log_at:
        told = _log(file, log_at, end) | told
    labels = {"z": times} if count > 1 and any(times) else {}
    return _measured(np.vstack(rows), grid, x_type, y_type, told, labels, [])


def _read_old(file: Binary) -> Measured:
    flags, _, exponent, points, first, last, x_type, y_type, year = file.fields("<BBhfffBBH", 0, "the header")
    month, day, hour, minute = file.fields("<4B", 20, "the header")
    if flags & (_OWN_X | _X_VALUES):
        raise Unreadable("it is of the old format 0x4D with X values of its own. Save it again in GRAMS.")
    if not 1 <= points <= most_values() or points != int(points) or not -128 <= exponent <= 128:
        raise Unreadable(f"its header names {points} points and the exponent {exponent}.")
    n, at = int(points), _OLD_HEADER
    rows: list[np.ndarray] = []
    while at + _SUBHEADER <= len(file) and (not rows or flags & _MULTI):
        what = f"spectrum {len(rows) + 1}"
        own = file.fields("<Bb", at, what)[1]
        power = own if flags & _MULTI and own else exponent
        at += _SUBHEADER
        if power in (_FLOATS, 128):
            y = file.array("<f4", n, at, what)
        elif flags & _SHORT:
            y = file.array("<i2", n, at, what) * _scale(power, 2)
        else:
            # The two halves of each integer are swapped.
            halves = file.array("<u2", 2 * n, at, what).reshape(n, 2)
            whole = halves[:, 0] * 65536 + halves[:, 1]
            y = np.where(whole >= 2**31, whole - 2.0**32, whole) * _scale(power, 4)
        at += n * (2 if flags & _SHORT else 4)
        rows.append(y)
        if (len(rows) + 1) * n > most_values():
            raise Unreadable(f"it holds more than {most_values()} values.")
    if not rows:
        raise Unreadable(f"it was cut off in its header: the file has {len(file)} bytes.")
    year &= 0xFFF
    when = f"{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}" if year else ""
    told = {
        "format": "Galactic SPC, old format",
        "measured": when,
        "resolution": file.text(24, 8),
        "comment": file.text(64, 130),
    }
    return _measured(np.vstack(rows), np.linspace(first, last, n), x_type, y_type, told, {}, [])


def _scale(power: int, size: int) -> float:
    return 1.0 if power == _FLOATS else 2.0 ** (power - 8 * size)


def _measured(
    X: np.ndarray,
    grid: np.ndarray,
    x_type: int,
    y_type: int,
    told: Mapping[str, str],
    labels: Mapping[str, list[float]],
    notes: list[str],
) -> Measured:
    check_finite(X, grid if len(grid) > 1 else None)
    unit = _X_UNITS.get(x_type)
    if unit is None:
        notes = [*notes, f"the X axis is {_X_WORDS.get(x_type, f'of type {x_type}')}"]
    return Measured(
        X=X,
        wavelengths=grid * 1000 if unit == "um" else grid,
        unit="nm" if unit == "um" else unit,
        signal=_SIGNALS.get(y_type, f"type {y_type}"),
        ids=[str(k + 1) for k in range(len(X))] if len(X) > 1 else None,
        labels=labels,
        instrument={name: value for name, value in told.items() if value},
        notes=notes,
    )


def _date(packed: int) -> str:
    if not packed:
        return ""
    year, month, day = packed >> 20, packed >> 16 & 15, packed >> 11 & 31
    # Some programs store the year as C does, counted from 1900.
    year += 1900 if year < 200 else 0
    return f"{year:04}-{month:02}-{day:02} {packed >> 6 & 31:02}:{packed & 63:02}"


def _labels(data: bytes) -> str:
    return ", ".join(filter(None, (printable(part) for part in data.split(b"\0"))))


def _log(file: Binary, at: int, end: str) -> dict[str, str]:
    """Read the lines KEY=VALUE of the log."""
    size, _, offset = file.fields(f"{end}III", at, "the log")
    start = at + offset
    file.fields(f"{end}0s", start, "the log")
    found: dict[str, str] = {}
    for line in file.data[start : min(at + max(size, offset), len(file))].split(b"\0")[0].splitlines():
        key, sign, value = printable(line).partition("=")
        if sign and re.fullmatch(r"[\w ./()-]{1,40}", key.strip()) and value.strip():
            found.setdefault(key.strip(), value.strip()[:200])
    return found
