"""ASD FieldSpec files (.asd): one spectrum, versions 1 to 8 of the format.

Layout: "ASD File Format version 8: Revision B" (ASD Inc. document 600592).
"""

from __future__ import annotations

import numpy as np

from nirs_store.reading.dialect import Unreadable
from nirs_store.reading.measured import Binary, Measured, check_finite

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
    told = {
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
        instrument={name: value for name, value in told.items() if value},
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
