"""What a reader of an instrument's format returns, bounded access to its bytes, and the signal that spectra hold."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.reading.cells import tidy
from nirs_store.reading.dialect import Unreadable, largest

_LARGEST = 2**25

_SIGNALS = (
    (r"absorb\w*|log ?\(?1 ?/ ?[rt]\)?|-log ?\(?[rt]\)?|extinction|optical density|a\.?u\.?|abs\.?", "absorbance"),
    (r"transmi\w*|%? ?t", "transmittance"),
    (r"refle\w*|remission|%? ?r", "reflectance"),
    (r"kubelka.*|km", "Kubelka-Munk"),
    (r"counts?|raw.*|digital numbers?|dn|intensity|scope|single.?beam.*|arbitrary.*", "raw"),
)  # fmt: skip


def most_values() -> int:
    """Return how many values, usually 256 MiB, may come out of one instrument file; a packed one could claim any."""
    return min(_LARGEST, largest() // 8)


@dataclass(frozen=True)
class Measured:
    """Spectra on one grid, as an instrument stored them."""

    X: NDArray[np.float64]
    wavelengths: NDArray[np.float64] | None
    unit: str | None
    signal: str | None = None
    ids: Sequence[str] | None = None
    labels: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    instrument: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Binary:
    """The bytes of a file; what lies outside of them is refused by name."""

    def __init__(self, data: bytes, kind: str) -> None:
        self.data, self.kind = data, kind

    def __len__(self) -> int:
        return len(self.data)

    def _check(self, at: int, size: int, what: str) -> None:
        if at < 0 or size < 0 or at + size > len(self.data):
            raise Unreadable(
                f"it is not a complete {self.kind} file: {what} should take bytes {at} to {at + size}, but the file "
                f"has {len(self.data)}. It was cut off or damaged; copy it again."
            )

    def fields(self, form: str, at: int, what: str) -> tuple[Any, ...]:
        """Return numbers of a fixed layout, as the struct module names it."""
        self._check(at, struct.calcsize(form), what)
        return struct.unpack_from(form, self.data, at)

    def array(self, kind: str, count: int, at: int, what: str) -> NDArray[np.float64]:
        """Return `count` numbers of a numpy type as float64."""
        size = np.dtype(kind).itemsize
        self._check(at, count * size, what)
        return np.frombuffer(self.data, dtype=kind, count=count, offset=at).astype(np.float64)

    def text(self, at: int, size: int, what: str = "text") -> str:
        """Return text up to its first zero byte."""
        self._check(at, size, what)
        return printable(self.data[at : at + size].split(b"\0", 1)[0])


def printable(data: bytes) -> str:
    """Decode text of an instrument, which is seldom UTF-8; characters that steer a terminal become blanks."""
    text = data.decode("latin-1")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text).strip()


def check_finite(X: NDArray[np.float64], wavelengths: NDArray[np.float64] | None = None) -> None:
    """Refuse values that are not numbers, and a grid that neither rises nor falls."""
    bad = np.argwhere(~np.isfinite(X))
    if bad.size:
        row, column = bad[0]
        raise Unreadable(
            f"it holds {len(bad)} values that are missing or infinite; the first is in spectrum {row + 1}, "
            f"channel {column + 1}."
        )
    if wavelengths is None:
        return
    steps = np.diff(wavelengths)
    if not np.isfinite(wavelengths).all() or not ((steps > 0).all() or (steps < 0).all()):
        raise Unreadable(
            f"its wavelengths must rise or fall from {wavelengths[0]:g} to {wavelengths[-1]:g}; they do not."
        )


def name_signal(text: str) -> str | None:
    """Name the signal that words such as "log(1/R)", "ABSORBANCE" or "% Reflectance" mean; None for no words."""
    words = tidy(text)
    percent = "%" in words or re.search(r"percent", words, re.IGNORECASE) is not None
    bare = re.sub(r"\(?%\)?|percent|[\[\]]", " ", words, flags=re.IGNORECASE).strip(" ()")
    for pattern, name in _SIGNALS:
        if re.fullmatch(pattern, bare, re.IGNORECASE) or (
            percent and len(bare) == 1 and re.fullmatch(pattern, "%" + bare, re.IGNORECASE)
        ):
            return f"{name} (%)" if percent and name in ("reflectance", "transmittance") else name
    return words or None


def to_signal(
    X: NDArray[np.float64], signal: str | None, wanted: str, stated: bool = False
) -> NDArray[np.float64]:
    """Convert reflectance or transmittance to absorbance, A = -log10 R, or back."""
    if signal == wanted:
        return X
    base = ("reflectance", "transmittance")
    if wanted not in ("absorbance", *base):
        raise Unreadable(f"to: expected 'absorbance', 'reflectance' or 'transmittance', found {wanted!r}.")
    if signal is None:
        raise Unreadable(
            f"the file does not say what its values are, so they are not converted to {wanted}. Say it: "
            "signal='reflectance', or 'reflectance (%)' (--signal)."
        )
    kind, percent = signal.removesuffix(" (%)"), signal.endswith(" (%)")
    if kind in base and wanted in (kind, "absorbance"):
        if not percent and not stated and X.max() > 2:
            raise Unreadable(
                f"its {kind} goes up to {X.max():.4g}, so it may be in percent. Say it: signal='{kind} (%)', or "
                f"signal='{kind}' where it is a share (--signal)."
            )
        share = X / 100 if percent else X
        if wanted == kind:
            return share
        bad = np.argwhere(share <= 0)
        if bad.size:
            row, column = bad[0]
            raise Unreadable(
                f"the {kind} of sample {row + 1} at channel {column + 1} is {X[row, column]:g} and has no absorbance "
                f"-log10 R; {len(bad)} such values. Leave out these channels or samples."
            )
        return np.asarray(-np.log10(share), dtype=np.float64)
    if signal == "absorbance" and wanted in base:
        return np.asarray(10.0**-X, dtype=np.float64)
    raise Unreadable(f"its values are {signal}; there is no conversion from that to {wanted}.")
