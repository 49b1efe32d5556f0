"""Binary files of instruments: ASD FieldSpec, Bruker OPUS and Galactic SPC."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nirs_store.reading.dialect import Unreadable
from nirs_store.reading.measured import Binary, Measured, check_finite, most_values, printable

# -- ASD FieldSpec files (.asd): one spectrum, versions 1 to 8 of the format.
# Layout: "ASD File Format version 8: Revision B" (ASD Inc. document 600592).

_HEADER = 484
_VERSIONS = (b"ASD", b"as2", b"as3", b"as4", b"as5", b"as6", b"as7", b"as8")
_SIGNALS = (
    "raw", "reflectance", "radiance", None, "irradiance", "quality index", "transmittance", None, "absorbance",
)  # fmt: skip
_NUMBERS = ("<f4", "<i4", "<f8")
_INSTRUMENTS = (
    "unknown", "PSII", "LSVNIR", "FSVNIR", "FSFR", "FSNIR", "CHEM", "LabSpec Pro", None, None, "HandHeld",
)  # fmt: skip


def is_asd(head: bytes) -> bool:
    """Tell the first bytes of an ASD file."""
    return head[:3] in _VERSIONS and len(head) >= 205 and head[199] < 4 and b"\0" in head[3:160]


def read_asd(data: bytes, to: str | None = None) -> Measured:
    """Read the spectrum of an ASD file; with a white reference, reflectance is its ratio to that."""
    file = Binary(data, "ASD")
    if data[:3] not in _VERSIONS:
        raise Unreadable(
            f"this is not an ASD file: it begins with {data[:3]!r}, not with 'ASD' or 'as2' to 'as8'."
        )
    version = 1 if data[:3] == b"ASD" else int(data[2:3])
    kind = file.fields("<B", 186, "the header")[0]
    first, step, form = file.fields("<ffB", 191, "the header")
    channels = file.fields("<H", 204, "the header")[0]
    ms, _, _, _, number = file.fields("<IHHHH", 390, "the header")
    model = file.fields("<B", 431, "the header")[0]
    count = file.fields("<H", 429, "the header")[0]
    if form >= len(_NUMBERS) or kind >= len(_SIGNALS) or not channels:
        raise Unreadable(
            f"its header names the data format {form}, the data type {kind} and {channels} channels."
        )
    size = np.dtype(_NUMBERS[form]).itemsize * channels
    X = file.array(_NUMBERS[form], channels, _HEADER, "the spectrum")
    signal, notes = _SIGNALS[kind], []
    ratio = signal in ("reflectance", "transmittance")
    if version >= 2 and (ratio or (signal == "raw" and to in ("reflectance", "absorbance"))):
        reference = _reference(file, _HEADER + size, channels, _NUMBERS[form])
        if reference is not None:
            signal = signal if ratio else "reflectance"
            if (reference == 0).any():
                place = int(np.argmax(reference == 0))
                raise Unreadable(
                    f"the white reference is 0 at channel {place + 1}; {signal} cannot be computed."
                )
            X = X / reference
            notes.append(f"{signal} to the white reference in the file")
    wavelengths = float(first) + float(step) * np.arange(channels)
    check_finite(X[None], wavelengths)
    names = _INSTRUMENTS[model] if model < len(_INSTRUMENTS) else None
    parameters = {
        "format": f"ASD version {version}",
        "instrument": names or f"model {model}",
        "instrument number": str(number),
        "integration time": f"{ms} ms",
        "scans": str(count),
        "measured": _when(file),
        "comments": file.text(3, 157),
    }
    return Measured(
        X=X[None],
        wavelengths=wavelengths,
        unit="nm",
        signal=signal,
        instrument={name: value for name, value in parameters.items() if value},
        notes=notes,
    )


def _reference(file: Binary, at: int, channels: int, kind: str) -> np.ndarray | None:
    """Return the white reference behind the spectrum; None where none was taken."""
    if len(file) <= at:
        return None
    flag, _, _, length = file.fields("<hddH", at, "the header of the white reference")
    white = file.array(kind, channels, at + 20 + length, "the white reference")
    return white if flag and white.any() else None


def _when(file: Binary) -> str:
    second, minute, hour, day, month, year = file.fields("<6h", 160, "the header")
    fits = 0 <= month < 12 and 1 <= day <= 31 and 0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 62
    return f"{year + 1900:04}-{month + 1:02}-{day:02} {hour:02}:{minute:02}:{second:02}" if fits else ""


# -- Bruker OPUS files (.0, .1, ...): the spectrum of a measurement, found through the directory of blocks.
# The layout is not published; this follows what the open readers brukeropus (Python) and opusreader2 (R) agree on.

OPUS_MAGIC = b"\n\n\xfe\xfe"
_MOST_BLOCKS = 4096
# What a block holds: bits 0-1 real or imaginary, 2-3 sample, reference or their ratio, 4-9 kind of parameters,
# 10-16 kind of data, 17-18 derivative, 19-21 form.
_TYPE = 0x3FFFFF & ~(0x3F << 4)
_SERIES, _COMPACT = 2, 4
# In this order the spectrum is chosen where a file holds several kinds.
_KINDS = {
    4: ("AB", "absorbance"),
    15: ("LR", "absorbance"),
    12: ("RE", "reflectance"),
    5: ("TR", "transmittance"),
    6: ("KM", "Kubelka-Munk"),
    16: ("ATR", "ATR"),
    17: ("PAS", "photoacoustic"),
    10: ("RA", "Raman"),
    11: ("EM", "emission"),
    1: ("SC", "raw"),
}
_WORDS = {
    "ins": "instrument", "srn": "serial number", "snm": "sample name", "sfm": "sample form", "cnm": "operator",
    "exp": "experiment", "res": "resolution", "nss": "scans", "src": "source", "dtc": "detector",
    "bms": "beam splitter", "apt": "aperture", "vsn": "firmware",
}  # fmt: skip


class _Block(NamedTuple):
    code: int
    start: int
    size: int

    @property
    def data(self) -> int:
        return self.code >> 10 & 0x7F

    @property
    def form(self) -> int:
        return self.code >> 19 & 7

    @property
    def sample(self) -> int:
        return self.code >> 2 & 3

    @property
    def parameters(self) -> int:
        return self.code >> 4 & 0x3F


def read_opus(data: bytes, block: str | None = None) -> Measured:
    """Read the spectrum of an OPUS file."""
    file = Binary(data, "OPUS")
    if data[:4] != OPUS_MAGIC:
        raise Unreadable(f"this is not an OPUS file: it begins with {data[:4]!r}.")
    blocks = _directory(file)
    states: dict[int, list[dict[str, Any]]] = {}
    for each in blocks:
        if each.parameters == 1:
            states.setdefault(each.code & _TYPE, []).append(_parameters(file, each))
    found: dict[str, list[_Block]] = {}
    for each in blocks:
        # Blocks without a status are previews and the like.
        if (
            each.parameters == 0
            and each.data in _KINDS
            and each.code & 3 in (1, 3)
            and each.code & _TYPE in states
        ):
            found.setdefault(_name(each), []).append(each)
    order = [*(short for short, _ in _KINDS.values() if short != "SC"), "ScSm", "ScRf"]
    names = sorted(found, key=order.index)
    if block is not None and block.lower() not in [name.lower() for name in names]:
        raise Unreadable(f"it holds no spectrum {block!r}; it holds {', '.join(names) or 'none'}.")
    if not names:
        raise Unreadable(
            "it holds no spectrum, perhaps interferograms only. Compute the spectrum in OPUS first."
        )
    name = next((each for each in names if block is not None and each.lower() == block.lower()), names[0])
    # The last in the file is what OPUS shows: later blocks are results of manipulating earlier ones.
    last = max(found[name], key=lambda each: each.start)
    X, wavelengths, unit, parameters = _spectrum(file, last, states[last.code & _TYPE])
    check_finite(X[None], wavelengths)
    notes = [f"block {name} of {', '.join(names)}"] if len(names) > 1 else []
    if len(found[name]) > 1:
        notes.append(f"the last of {len(found[name])} blocks {name}")
    instrument = {"format": "Bruker OPUS"}
    for each in blocks:
        # Parameters of the sample's measurement before those of the reference's.
        if each.parameters > 1 and each.sample != 2:
            told_there = _parameters(file, each)
            instrument |= {
                _WORDS[key]: f"{value:g}" if isinstance(value, float) else str(value)
                for key, value in told_there.items()
                if key in _WORDS and str(value).strip()
            }
    when = " ".join(filter(None, (str(parameters.get("dat", "")), str(parameters.get("tim", "")))))
    label = instrument.pop("sample name", "")
    return Measured(
        X=X[None],
        wavelengths=wavelengths,
        unit=unit,
        signal=_KINDS[last.data][1],
        labels={"sample name": [label]} if label else {},
        instrument=instrument | ({"measured": when} if when else {}),
        notes=notes,
    )


def _name(block: _Block) -> str:
    short = _KINDS[block.data][0]
    if short == "SC":
        return "ScRf" if block.sample == 2 else "ScSm"
    return short


def _directory(file: Binary) -> list[_Block]:
    start, _, count = file.fields("<3i", 12, "the header")
    if not 0 < count <= _MOST_BLOCKS:
        raise Unreadable(f"its header names {count} blocks; it is damaged.")
    blocks = []
    for k in range(count):
        code, size, place = file.fields("<Iii", start + 12 * k, f"entry {k + 1} of the directory")
        if place <= 0:
            break
        blocks.append(_Block(code, place, size * 4))
    return blocks


def _spectrum(
    file: Binary, block: _Block, states: list[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray, str | None, dict[str, Any]]:
    name = _name(block)
    if block.form == _SERIES:
        raise Unreadable(
            f"its block {name} is a series of spectra over time. Extract single spectra in OPUS."
        )
    parameters = _matching(file, block, states)
    missing = [key for key in ("npt", "fxv", "lxv") if not isinstance(parameters.get(key), int | float)]
    if missing:
        raise Unreadable(f"the status of its block {name} has no {missing[0].upper()}.")
    y = _values(file, block, parameters)
    count = len(y)
    x = np.linspace(float(parameters["fxv"]), float(parameters["lxv"]), count)
    axis = str(parameters.get("dxu", "")).strip().upper()
    if axis == "MI":
        return y, x * 1000, "nm", parameters
    if axis == "LGW":
        return y, np.exp(x), "cm-1", parameters
    return y, x, "cm-1" if axis == "WN" else None, parameters


def _values(file: Binary, block: _Block, parameters: dict[str, Any]) -> np.ndarray:
    count, factor = int(parameters["npt"]), parameters.get("csf", 1.0)
    if not 2 <= count <= most_values() or 4 * count > block.size or not isinstance(factor, int | float):
        raise Unreadable(
            f"its block {_name(block)} names {count} points, but has room for {block.size // 4}; it is damaged."
        )
    at = block.start + block.size - 4 * count if block.form == _COMPACT else block.start
    kind = "<i4" if parameters.get("dpf") == 2 else "<f4"
    return file.array(kind, count, at, f"the block {_name(block)}") * float(factor)


def _matching(file: Binary, block: _Block, states: list[dict[str, Any]]) -> dict[str, Any]:
    """Choose among the status blocks of several spectra of one kind: by the room there is, then by the extremes."""
    fits = [
        each for each in states if isinstance(each.get("npt"), int) and 0 < 4 * each["npt"] <= block.size
    ] or states[:1]
    if len(fits) > 1:
        for each in fits:
            y = _values(file, block, each)
            low, high = each.get("mny"), each.get("mxy")
            if (
                isinstance(low, float)
                and isinstance(high, float)
                and np.allclose([y.min(), y.max()], [low, high])
            ):
                return each
        if any(_axis(each) != _axis(fits[0]) for each in fits):
            raise Unreadable(
                f"it holds {len(states)} blocks {_name(block)}; which status is whose cannot be told."
            )
    return fits[0]


def _axis(parameters: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(parameters.get(key) for key in ("npt", "fxv", "lxv", "dxu", "csf", "dpf"))


def _parameters(file: Binary, block: _Block) -> dict[str, Any]:
    """Read a block of parameters: three letters, type, size in words of 16 bits, value."""
    found: dict[str, Any] = {}
    at, stop = block.start, min(block.start + block.size, len(file))
    while at + 8 <= stop:
        key, kind, words = struct.unpack_from("<3sxHH", file.data, at)
        if key == b"END":
            break
        size = 2 * words
        if at + 8 + size > stop:
            raise Unreadable(f"the parameter {printable(key)!r} goes beyond its block; the file is damaged.")
        value = file.data[at + 8 : at + 8 + size]
        name = printable(key).lower()
        if kind == 0 and size >= 4:
            found[name] = struct.unpack_from("<i", value)[0]
        elif kind == 1 and size >= 8:
            found[name] = struct.unpack_from("<d", value)[0]
        else:
            found[name] = printable(value.split(b"\0", 1)[0])
        at += 8 + size
    return found


# -- Galactic (Thermo GRAMS) SPC files: one spectrum or many, even or own X values, the new formats and the old one.
# Layout: "A Brief Guide to SPC File Format" and the header SPC.H (Galactic Industries, 1997).

_SHORT, _MULTI, _LABELS, _OWN_X, _X_VALUES = 0x01, 0x04, 0x20, 0x40, 0x80
_FLOATS = -128
"""The exponent that says that values are float32."""
_X_UNITS = {1: "cm-1", 2: "um", 3: "nm"}
_X_WORDS = {
    0: "arbitrary", 4: "seconds", 5: "minutes", 6: "Hz", 7: "kHz", 8: "MHz", 9: "m/z", 10: "ppm", 11: "days",
    12: "years", 13: "Raman shift (cm-1)", 14: "eV", 16: "diode number", 17: "channel", 22: "points",
}  # fmt: skip
_SPC_SIGNALS = {
    0: None, 1: "interferogram", 2: "absorbance", 3: "Kubelka-Munk", 4: "raw", 5: "volts", 10: "absorbance",
    11: "percent", 12: "intensity", 13: "relative intensity", 14: "energy", 128: "transmittance",
    129: "reflectance", 130: "single beam", 131: "emission",
}  # fmt: skip
_NEW_HEADER, _OLD_HEADER, _SUBHEADER = 512, 224, 32


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
    parameters = {
        "format": "Galactic SPC" + ("" if end == "<" else ", big-endian"),
        "measured": _date(date),
        "resolution": file.text(36, 9),
        "instrument": file.text(45, 9),
        "comment": file.text(88, 130),
        "method": file.text(264, 48),
    }
    if flags & _LABELS:
        parameters["axes"] = ", ".join(filter(None, map(printable, file.data[218:248].split(b"\0"))))
    if log_at:
        parameters = _log(file, log_at, end) | parameters
    labels = {"z": times} if count > 1 and any(times) else {}
    return _measured(np.vstack(rows), grid, x_type, y_type, parameters, labels, [])


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
    parameters = {
        "format": "Galactic SPC, old format",
        "measured": when,
        "resolution": file.text(24, 8),
        "comment": file.text(64, 130),
    }
    return _measured(np.vstack(rows), np.linspace(first, last, n), x_type, y_type, parameters, {}, [])


def _scale(power: int, size: int) -> float:
    return 1.0 if power == _FLOATS else 2.0 ** (power - 8 * size)


def _measured(
    X: np.ndarray,
    grid: np.ndarray,
    x_type: int,
    y_type: int,
    parameters: Mapping[str, str],
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
        signal=_SPC_SIGNALS.get(y_type, f"type {y_type}"),
        ids=[str(k + 1) for k in range(len(X))] if len(X) > 1 else None,
        labels=labels,
        instrument={name: value for name, value in parameters.items() if value},
        notes=notes,
    )


def _date(packed: int) -> str:
    if not packed:
        return ""
    year, month, day = packed >> 20, packed >> 16 & 15, packed >> 11 & 31
    # Some programs store the year as C does, counted from 1900.
    year += 1900 if year < 200 else 0
    return f"{year:04}-{month:02}-{day:02} {packed >> 6 & 31:02}:{packed & 63:02}"


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
