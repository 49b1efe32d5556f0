"""Real spectra that ship with the package, to try things on."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

_TARGETS = ("water", "fat", "protein")


@dataclass(frozen=True, eq=False)
class Tecator:
    """215 meat samples: absorbance spectra and three reference values each.

    Attributes
    ----------
    X : ndarray of shape (215, 100), float64
        Absorbance, -log10 of the transmittance.
    wavelengths : ndarray of shape (100,), float64
        Nanometres, 850 to 1050.
    water, fat, protein : ndarray of shape (215,), float64
        Percent by mass.
    sample_names : tuple of str
        One name per row of ``X``.
    """

    X: NDArray[np.float64]
    wavelengths: NDArray[np.float64]
    water: NDArray[np.float64]
    fat: NDArray[np.float64]
    protein: NDArray[np.float64]
    sample_names: tuple[str, ...]

    @property
    def y(self) -> dict[str, NDArray[np.float64]]:
        """The three targets by name, in percent by mass."""
        return {"water": self.water, "fat": self.fat, "protein": self.protein}

    def __repr__(self) -> str:
        n_samples, n_channels = self.X.shape
        first, last = self.wavelengths[0], self.wavelengths[-1]
        return (
            f"Tecator({n_samples} samples, {n_channels} channels {first:.0f}-{last:.0f} nm, "
            f"targets {', '.join(_TARGETS)})"
        )


def load_tecator() -> Tecator:
    """Load the Tecator meat spectra that ship with the package.

    Returns
    -------
    Tecator
        New arrays at each call: change them as you like.

    Notes
    -----
    The data set of StatLib, in the public domain, as distributed in the R package modeldata (MIT
    license); the note next to the file, ``nirs_store/data/README.md``, must travel with copies.

    Examples
    --------
    >>> from nirs_store.datasets import load_tecator
    >>> tecator = load_tecator()
    >>> tecator
    Tecator(215 samples, 100 channels 850-1050 nm, targets water, fat, protein)
    >>> round(float(tecator.y["fat"].max()), 1)
    49.1
    """
    source = files("nirs_store") / "data" / "tecator.csv"
    lines = source.read_text(encoding="utf-8").splitlines()
    header = lines[0].split(",")
    names, rows = zip(*(line.split(",", 1) for line in lines[1:]), strict=True)
    table = np.loadtxt(rows, delimiter=",", dtype=np.float64)
    n_targets = len(_TARGETS)
    targets = {name: table[:, header.index(name) - 1].copy() for name in _TARGETS}
    return Tecator(
        X=np.ascontiguousarray(table[:, n_targets:]),
        wavelengths=np.array(header[1 + n_targets :], dtype=np.float64),
        sample_names=tuple(names),
        **targets,
    )
