"""Select representative samples by their spectra: Kennard-Stone, SPXY."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from nirs_store.errors import InvalidInput, ShapeMismatch

# One row of distances at a time would be slow, and all at once too large for 20,000 spectra.
_BLOCK = 2_000_000


def kennard_stone(X: Any, y: Any = None, n_samples: int | None = None) -> NDArray[np.intp]:
    """Order samples so that the first ones cover the spectra evenly: the algorithm of Kennard and Stone.

    The two samples farthest apart come first. Each next sample is the one whose distance to the nearest
    selected one is largest. Ties go to the sample that comes first in `X`.

    Parameters
    ----------
    X : array-like, shape (n, n_features)
        Spectra, or scores of a PCA; preprocess them first where scatter dominates. Distances are Euclidean.
    y : array-like, shape (n,) or (n, n_targets), optional
        Measured values. With them this is SPXY: the distance is that of X plus that of y, each divided by its largest.
    n_samples : int, optional
        How many to select; by default all, in order.

    Returns
    -------
    ndarray of int, shape (n_samples,)
        Row numbers, in the order of selection.

    Raises
    ------
    InvalidInput
        Fewer than two samples, values that are missing, or a number to select that is not from 2 to n.
    ShapeMismatch
        X and y have different lengths.

    Notes
    -----
    Kennard and Stone (1969), Technometrics 11, 137-148; SPXY: Galvao et al. (2005), Talanta 67, 736-740.

    Examples
    --------
    >>> kennard_stone([[0.0], [1.0], [4.0], [9.0], [10.0]]).tolist()
    [0, 4, 2, 1, 3]
    """
    spectra = _matrix("X", X)
    n = len(spectra)
    if n < 2:
        raise InvalidInput(f"X: expected two samples at least; found {n}.")
    blocks = [spectra]
    if y is not None:
        values = _matrix("y", y)
        if len(values) != n:
            raise ShapeMismatch(f"y: expected one value for each of {n} samples; found {len(values)}.")
        blocks.append(values)
    count = n if n_samples is None else n_samples
    if isinstance(count, bool) or not isinstance(count, Integral) or not 2 <= count <= n:
        raise InvalidInput(
            f"n_samples: expected a whole number from 2 to {n}, the samples of X; found {n_samples!r}."
        )
    largest, first = _farthest(blocks)
    chosen = [*first]
    nearest = np.minimum(*(_distances(blocks, largest, row) for row in first))
    nearest[chosen] = -1.0
    while len(chosen) < count:
        row = int(nearest.argmax())
        chosen.append(row)
        np.minimum(nearest, _distances(blocks, largest, row), out=nearest)
        nearest[row] = -1.0
    return np.array(chosen, dtype=np.intp)


class KennardStoneSplit:
    """Split once into a calibration set that covers the spectra evenly and a test set: a splitter of scikit-learn.

    Use it for a test set, not for cross-validation: the calibration set gets the extreme samples, so the scores of
    the rest are optimistic.

    Parameters
    ----------
    test_size : int or float
        Samples of the test set, as a number or a share.
    use_y : bool
        Also spread the measured values (SPXY).

    Examples
    --------
    >>> train, test = next(KennardStoneSplit(2).split([[0.0], [1.0], [4.0], [9.0], [10.0]]))
    >>> train.tolist(), test.tolist()
    ([0, 2, 4], [1, 3])
    """

    def __init__(self, test_size: float = 0.25, *, use_y: bool = False) -> None:
        self.test_size = test_size
        self.use_y = use_y

    def split(
        self, X: Any, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield the one pair of row numbers, calibration and test, each in the order of `X`.

        Parameters
        ----------
        X, y
            As for `kennard_stone`; y counts with ``use_y=True`` only.
        groups : None
            Not supported: select among the means of the groups.

        Raises
        ------
        InvalidInput, ShapeMismatch
            As `kennard_stone`; or `groups` are given, or `test_size` does not leave two samples for calibration.
        """
        if groups is not None:
            raise InvalidInput(
                "groups: KennardStoneSplit would tear them apart. Select among the means of the groups."
            )
        if self.use_y and y is None:
            raise InvalidInput("y: use_y=True needs the measured values.")
        n = len(_matrix("X", X))
        order = kennard_stone(X, y if self.use_y else None, n - self._held_out(n))
        rest = np.ones(n, dtype=bool)
        rest[order] = False
        yield np.sort(order), np.flatnonzero(rest)

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return 1."""
        return 1

    def _held_out(self, n: int) -> int:
        size = self.test_size
        if isinstance(size, bool) or not isinstance(size, Real):
            raise InvalidInput(f"test_size: expected a number of samples or a share; found {size!r}.")
        count = (
            int(size) if isinstance(size, Integral) else int(np.ceil(float(size) * n)) if 0 < size < 1 else 0
        )
        if not 1 <= count <= n - 2:
            raise InvalidInput(
                f"test_size: expected a share between 0 and 1, or from 1 to {n - 2} of {n} samples; found {size!r}."
            )
        return count

    def __repr__(self) -> str:
        return f"KennardStoneSplit({self.test_size!r}{', use_y=True' if self.use_y else ''})"


def _matrix(name: str, values: Any) -> NDArray[np.float64]:
    found = np.asarray(getattr(values, "X", values) if name == "X" else values, dtype=np.float64)
    if found.ndim == 1 and name == "y":
        found = found[:, None]
    if found.ndim != 2:
        raise InvalidInput(f"{name}: expected one row per sample; found the shape {found.shape}.")
    if not np.isfinite(found).all():
        raise InvalidInput(
            f"{name}: expected finite numbers; {int((~np.isfinite(found)).any(axis=1).sum())} samples have others."
        )
    return found


def _farthest(blocks: list[NDArray[np.float64]]) -> tuple[list[float], tuple[int, int]]:
    """Return the largest distance of each block (1 where there is only one), and the two samples farthest apart."""
    n = len(blocks[0])
    step = max(1, _BLOCK // n)
    largest = [1.0]
    if len(blocks) > 1:
        # Where all samples are alike in a block, that block has no say.
        tops = [max(float(cdist(b[i : i + step], b).max()) for i in range(0, n, step)) for b in blocks]
        largest = [top or 1.0 for top in tops]
    best, pair = -1.0, (0, 1)
    for start in range(0, n, step):
        found = sum(cdist(b[start : start + step], b) / top for b, top in zip(blocks, largest, strict=True))
        found = np.asarray(found)
        rows = np.arange(len(found))
        found[rows, rows + start] = -1.0
        place = int(found.argmax())
        if found.flat[place] > best:
            best, pair = float(found.flat[place]), (start + place // n, place % n)
    return largest, (min(pair), max(pair))


def _distances(blocks: list[NDArray[np.float64]], largest: list[float], row: int) -> NDArray[np.float64]:
    return np.asarray(
        sum(cdist(b, b[row : row + 1])[:, 0] / top for b, top in zip(blocks, largest, strict=True))
    )
