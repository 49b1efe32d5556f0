"""Bruker OPUS files (.0, .1, ...): the spectrum of a measurement, found through the directory of blocks.

The layout is not published; this follows what the open readers brukeropus (Python) and opusreader2 (R) agree on.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

from nirs_store.reading.dialect import Unreadable
from nirs_store.reading.measured import Binary, Measured, check_finite, most_values, printable

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
    names = sorted(found, key=lambda name: [*_order(), name].index(name))
    if block is not None and block.lower() not in [name.lower() for name in names]:
        raise Unreadable(f"it holds no spectrum {block!r}; it holds {', '.join(names) or 'none'}.")
    if not names:
        raise Unreadable(
            "it holds no spectrum, perhaps interferograms only. Compute the spectrum in OPUS first."
        )
    name = next((each for each in names if block is not None and each.lower() == block.lower()), names[0])
    # The last in the file is what OPUS shows: later blocks are results of manipulating earlier ones.
    last = max(found[name], key=lambda each: each.start)
    X, wavelengths, unit, told = _spectrum(file, last, states[last.code & _TYPE])
    check_finite(X[None], wavelengths)
    notes = [f"block {name} of {', '.join(names)}"] if len(names) > 1 else []
    if len(found[name]) > 1:
        notes.append(f"the last of {len(found[name])} blocks {name}")
    instrument = {"format": "Bruker OPUS"}
    for each in blocks:
        # Parameters of the sample's measurement before those of the reference's.
        if each.parameters > 1 and each.sample != 2:
            instrument |= _told(_parameters(file, each))
    when = " ".join(filter(None, (str(told.get("dat", "")), str(told.get("tim", "")))))
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


def _order() -> list[str]:
    return [*(short for short, _ in _KINDS.values() if short != "SC"), "ScSm", "ScRf"]


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
    told = _matching(file, block, states)
    missing = [key for key in ("npt", "fxv", "lxv") if not isinstance(told.get(key), int | float)]
    if missing:
        raise Unreadable(f"the status of its block {name} has no {missing[0].upper()}.")
    y = _values(file, block, told)
    count = len(y)
    x = np.linspace(float(told["fxv"]), float(told["lxv"]), count)
    axis = str(told.get("dxu", "")).strip().upper()
    if axis == "MI":
        return y, x * 1000, "nm", told
    if axis == "LGW":
        return y, np.exp(x), "cm-1", told
    return y, x, "cm-1" if axis == "WN" else None, told


def _values(file: Binary, block: _Block, told: dict[str, Any]) -> np.ndarray:
    count, factor = int(told["npt"]), told.get("csf", 1.0)
    if not 2 <= count <= most_values() or 4 * count > block.size or not isinstance(factor, int | float):
        raise Unreadable(
            f"its block {_name(block)} names {count} points, but has room for {block.size // 4}; it is damaged."
        )
    at = block.start + block.size - 4 * count if block.form == _COMPACT else block.start
    kind = "<i4" if told.get("dpf") == 2 else "<f4"
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


def _axis(told: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(told.get(key) for key in ("npt", "fxv", "lxv", "dxu", "csf", "dpf"))


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


def _told(parameters: dict[str, Any]) -> dict[str, str]:
    return {
        _WORDS[key]: f"{value:g}" if isinstance(value, float) else str(value)
        for key, value in parameters.items()
        if key in _WORDS and str(value).strip()
    }
