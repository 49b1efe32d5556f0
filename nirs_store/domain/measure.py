"""The calibration's domain as a file of numbers, and what it says about new spectra; needs numpy alone.

A script exported from a chain carries the source of this module, so it imports nothing of this library, and has no
dataclasses, which look for the module that they are in.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_VERSION = 1
_BLOCK = 64
_DTYPES = ("<f8", "|u1")
_UNREADABLE = (zipfile.BadZipFile, KeyError, TypeError, EOFError, NotImplementedError, RecursionError)
_SPACE = ("mean", "scale", "rotations", "loadings", "center", "spread", "scores", "sums")

#: The words of the flags.
OUTSIDE = "outside"
SOME_FOLDS = "outside for some folds"
EXTRAPOLATED = "extrapolated"
NO_CLASS = "no class"
NOT_KNOWN = "domain not known"
_ASKED = {"h": "high leverage", "gh": "high GH", "nh": "high NH"}


def t2_limit_of(n: int, components: int, alpha: float) -> float | None:
    """Return the F limit of T2 for a new spectrum; None where A >= n leaves it undefined."""
    from scipy.stats import f

    if n <= components:
        return None
    factor = components * (n**2 - 1) / (n * (n - components))
    return float(factor * f.ppf(1 - alpha, components, n - components))


def q_limit_of(
    sums: tuple[float, float, float], mean: float, variance: float, alpha: float
) -> tuple[float, str]:
    """Return the limit of Q and its method, from power sums of eigenvalues and from the calibration's Q."""
    from scipy.stats import chi2, norm

    theta1, theta2, theta3 = sums
    if theta2 == 0 or variance == 0:
        return 0.0, "Box"
    # Not a number where the eigenvalues were not asked for: then neither condition below holds.
    h0 = 1 - 2 * theta1 * theta3 / (3 * theta2**2)
    base = norm.ppf(1 - alpha) * np.sqrt(2 * theta2 * h0**2) / theta1 + 1 + theta2 * h0 * (h0 - 1) / theta1**2
    if h0 > 0 and base > 0:
        return float(theta1 * base ** (1 / h0)), "Jackson-Mudholkar"
    g, h = variance / (2 * mean), 2 * mean**2 / variance
    return float(g * chi2.ppf(1 - alpha, h)), "Box"


def ranked(values: Floats, n: int, level: float) -> float | None:
    """Return the ceil((n + 1) level)-th smallest of n values; None where n < 1 / (1 - level) - 1."""
    # Of repeated cross-validations `values` holds several per sample; the rank then moves in proportion.
    rank = math.ceil((n + 1) * level - 1e-9)
    if not n or rank > n:
        return None
    place = math.ceil(rank / n * len(values) - 1e-9) - 1
    return float(np.partition(values, place)[place])


class Space:
    """The latent space of one fitted model with its calibration's scores.

    Attributes
    ----------
    mean, scale : ndarray, shape (n_features,)
    rotations, loadings : ndarray, shape (n_features, A)
    center, spread : ndarray, shape (A,)
    scores : ndarray, shape (n, A)
        Of the calibration samples.
    sums : ndarray, shape (5,)
        Three power sums of the eigenvalues of the residuals (the last two NaN where they were not computed), mean
        and variance of the calibration's Q.
    """

    def __init__(
        self,
        mean: Floats,
        scale: Floats,
        rotations: Floats,
        loadings: Floats,
        center: Floats,
        spread: Floats,
        scores: Floats,
        sums: Floats,
    ) -> None:
        self.mean, self.scale = mean, scale
        self.rotations, self.loadings = rotations, loadings
        self.center, self.spread = center, spread
        self.scores, self.sums = scores, sums

    @property
    def n(self) -> int:
        """Return the number of calibration samples."""
        return len(self.scores)

    @property
    def components(self) -> int:
        """Return the number of latent variables, A."""
        return len(self.center)

    @cached_property
    def _neighbours(self) -> Any:
        from scipy.spatial import cKDTree

        return cKDTree((self.scores - self.center) / self.spread)

    @cached_property
    def largest_leverage(self) -> float:
        """Return the largest leverage of a calibration sample."""
        t2 = (((self.scores - self.center) / self.spread) ** 2).sum(axis=1)
        return float(1 / self.n + t2.max(initial=0.0) / max(self.n - 1, 1))

    def measure(self, X: Any) -> dict[str, Floats]:
        """Return t2, q, h, gh and nh of spectra at the model's input."""
        spectra = np.asarray(X.toarray() if hasattr(X, "toarray") else X, dtype=float)
        if spectra.ndim != 2 or spectra.shape[1] != len(self.mean):
            raise ValueError(
                f"expected {len(self.mean)} channels at the model's input, found {spectra.shape}"
            )
        n = len(spectra)
        t2, q, nearest = np.empty(n), np.empty(n), np.empty(n)
        # Blocks of one size: a product of one row is summed in another order than one of many rows.
        block = np.zeros((_BLOCK, spectra.shape[1]))
        for start in range(0, n, _BLOCK):
            rows = min(_BLOCK, n - start)
            np.subtract(spectra[start : start + rows], self.mean, out=block[:rows])
            block[:rows] /= self.scale
            scores = block @ self.rotations
            rest = block - scores @ self.loadings.T
            scaled = ((scores - self.center) / self.spread)[:rows]
            t2[start : start + rows] = (scaled**2).sum(axis=1)
            q[start : start + rows] = np.einsum("ij,ij->i", rest, rest)[:rows]
            nearest[start : start + rows] = self._neighbours.query(np.nan_to_num(scaled))[0]
        gh = t2 / self.components
        return {
            "t2": t2,
            "q": q,
            "h": 1 / self.n + t2 / max(self.n - 1, 1),
            "gh": gh,
            "nh": nearest**2 / self.components,
        }

    def formula_limits(self, alpha: float) -> tuple[float | None, float, str]:
        """Return the limits of T2 and Q by their formulas, and the name of the one for Q."""
        q, method = q_limit_of(tuple(self.sums[:3]), float(self.sums[3]), float(self.sums[4]), alpha)
        return t2_limit_of(self.n, self.components, alpha), q, method


class Measured(NamedTuple):
    """What a domain says about some predictions, column by column.

    Attributes
    ----------
    values : dict
        t2, q, h, gh, nh: arrays, NaN where no domain is known.
    lower, upper : ndarray, shape (n, targets), or None
        The interval, where there is one.
    sets : list of list, or None
        The labels that a classifier's conformal set holds.
    flags : list of list of list of str
        For every sample, for every target, the words.
    refused : str
        Why there is no interval or set; empty where there is.
    """

    values: dict[str, Floats]
    lower: Floats | None
    upper: Floats | None
    sets: list[list[Any]] | None
    flags: list[list[list[str]]]
    refused: str


class Domain:
    """Domain of a calibration: the distance of new samples from it, and the interval of a prediction.

    Attributes
    ----------
    facts : dict
        ``kind`` (where the latent variables come from), ``task``, ``n`` (samples of the calibration), ``left_out``
        (samples that a fold model left out), ``refused`` (why there is no interval; empty text where there is),
        ``unknown`` (why there is no space), ``before`` (how many of the last steps the space includes), ``classes``.
    spaces : tuple of Space
        The refit's, or one per fold model where the chain has no refit.
    distances : ndarray, shape (m,)
        max(T2 / median T2, Q / median Q) of every left-out sample; empty without folds.
    medians : ndarray, shape (2,)
        Those medians.
    errors, leverages : ndarray, shape (m, targets) and (m,)
        Absolute out-of-fold residuals, and the leverages of these samples in the fold models; of a classifier
        1 - p(true class).
    y_range : ndarray, shape (targets, 2)
    """

    def __init__(
        self,
        facts: Mapping[str, Any],
        spaces: tuple[Space, ...] = (),
        distances: Floats | None = None,
        medians: Floats | None = None,
        errors: Floats | None = None,
        leverages: Floats | None = None,
        y_range: Floats | None = None,
    ) -> None:
        self.facts = facts
        self.spaces = spaces
        self.distances = np.empty(0) if distances is None else distances
        self.medians = np.empty(0) if medians is None else medians
        self.errors = np.empty((0, 0)) if errors is None else errors
        self.leverages = np.empty(0) if leverages is None else leverages
        self.y_range = np.empty((0, 2)) if y_range is None else y_range

    @property
    def before(self) -> int:
        """Return how many of the last steps before the model the space includes: 1 for a PCA step, else 0."""
        return int(self.facts.get("before", 0))

    # -- limits ---------------------------------------------------------------------------------

    def limits(self, alpha: float = 0.05) -> dict[str, Any]:
        """Return the limit above which a sample is outside, its method, and the conventional limits of the columns.

        Returns
        -------
        dict
            ``joint`` and ``method``; ``t2`` and ``q`` (values that flag a sample each on its own); ``h``, ``h_max``,
            ``gh``, ``nh``. ``joint`` is None, and ``method`` says why, where nothing can be flagged.
        """
        if not self.spaces:
            method = str(self.facts.get("unknown") or "not known")
            return {"joint": None, "method": method, "t2": None, "q": None}
        space = self.spaces[0]
        a, n = space.components, space.n
        found: dict[str, Any] = {"h": 3 * (a + 1) / n, "h_max": space.largest_leverage, "gh": 3.0, "nh": 0.6}
        joint = None
        if len(self.distances):
            joint = ranked(self.distances, int(self.facts.get("left_out", 0)), 1 - alpha)
        if joint is not None:
            t2, q = (float(joint * each) for each in self.medians)
            return found | {"joint": joint, "method": "left-out samples", "t2": t2, "q": q}
        limits = [each.formula_limits(alpha / 2) for each in self.spaces]
        if any(t2 is None for t2, _, _ in limits):
            why = f"no limit: {a} latent variables of {n} samples, and too few left-out samples"
            return found | {"joint": None, "method": why, "t2": None, "q": None}
        method = f"F distribution and {limits[0][2]}, alpha / 2 each"
        return found | {"joint": 1.0, "method": method, "t2": limits[0][0], "q": limits[0][1]}

    def _distances(
        self, values: Sequence[Mapping[str, Floats]], limits: Mapping[str, Any], alpha: float
    ) -> list[Floats]:
        if limits["method"] == "left-out samples":
            scales = [tuple(self.medians)] * len(values)
        else:
            scales = [each.formula_limits(alpha / 2)[:2] for each in self.spaces]
        tiny = np.finfo(float).tiny
        return [
            np.maximum(each["t2"] / max(t2, tiny), each["q"] / max(q, tiny))
            for each, (t2, q) in zip(values, scales, strict=True)
        ]

    # -- measuring ------------------------------------------------------------------------------

    def measure(
        self,
        inputs: Sequence[Any],
        y: Any,
        proba: Any = None,
        *,
        level: float = 0.90,
        alpha: float = 0.05,
        scaled: bool = False,
        margin: float = 5.0,
        flag: Mapping[str, float] | Iterable[str] = (),
    ) -> Measured:
        """Measure new samples.

        Parameters
        ----------
        inputs : sequence of ndarray
            The spectra at the input of each space's model.
        y : ndarray, shape (n,) or (n, targets)
            The predictions.
        proba : ndarray, shape (n, n_classes), optional
            Probabilities, columns in the order of ``facts["classes"]``.
        level : float
            Level of the interval.
        alpha : float
            Share of normal samples above the limit.
        scaled : bool
            Scale the interval by sqrt(1 + h).
        margin : float
            How far a prediction may be outside the calibration's range of y, in percent of that range.
        flag : iterable of {"h", "gh", "nh"}, or mapping to limits
            Further columns that flag samples.
        """
        predicted = np.asarray(y)
        n = len(predicted)
        predicted = predicted.reshape(n, -1)
        each = [space.measure(X) for space, X in zip(self.spaces, inputs, strict=True)]
        names = ("t2", "q", "h", "gh", "nh")
        values = {
            name: _middle([one[name] for one in each]) if each else np.full(n, np.nan) for name in names
        }
        words: list[list[str]] = [[] for _ in range(n)]
        conventional = self.limits(alpha)
        limit = conventional["joint"]
        if limit is None:
            words = [[NOT_KNOWN] for _ in range(n)]
        else:
            distances = self._distances(each, conventional, alpha)
            middle, worst = _middle(distances), np.max(distances, axis=0)
            # NaN is not inside.
            _add(words, ~(middle <= limit), OUTSIDE)
            _add(words, (middle <= limit) & ~(worst <= limit), SOME_FOLDS)
        chosen = dict(flag) if isinstance(flag, Mapping) else {name: conventional.get(name) for name in flag}
        for name, most in chosen.items():
            if most is not None:
                _add(words, values[name] > most, _ASKED[name])
        if self.facts.get("task") == "classification":
            sets, refused = self._sets(proba, level)
            if sets is not None:
                _add(words, np.array([not labels for labels in sets], dtype=bool), NO_CLASS)
            return Measured(values, None, None, sets, [[row] for row in words], refused)
        half, refused = self._half_width(values["h"], level, scaled)
        lower = None if half is None else predicted - half
        upper = None if half is None else predicted + half
        return Measured(values, lower, upper, None, self._extrapolated(predicted, words, margin), refused)

    def _extrapolated(
        self, predicted: NDArray[Any], words: list[list[str]], margin: float
    ) -> list[list[list[str]]]:
        one = predicted.shape[1] == 1
        found = [[row] for row in words] if one else [[list(row) for _ in predicted[0]] for row in words]
        if self.y_range.shape != (predicted.shape[1], 2):
            return found
        slack = (self.y_range[:, 1] - self.y_range[:, 0]) * margin / 100
        beyond = (predicted < self.y_range[:, 0] - slack) | (predicted > self.y_range[:, 1] + slack)
        for row, target in np.argwhere(beyond):
            found[row][target].append(EXTRAPOLATED)
        return found

    def _rank(self, values: Floats, level: float) -> tuple[float | None, str]:
        if self.facts.get("refused") or not len(values):
            return None, str(self.facts.get("refused") or "no out-of-fold predictions")
        n = int(self.facts.get("left_out", 0))
        found = ranked(values, n, level)
        if found is None:
            need = math.ceil((1 - 1e-9) / (1 - level) - 1)
            return None, f"a level of {level:g} needs at least {need} left-out samples, found {n}"
        return found, ""

    def _half_width(self, h: Floats, level: float, scaled: bool) -> tuple[Floats | None, str]:
        """Return half the width of the interval, (n, targets) or (1, targets), or the reason why there is none."""
        if scaled and (not self.spaces or len(self.leverages) != len(self.errors)):
            return None, "scaled=True needs the leverages of the left-out samples, which are not known"
        divisor = np.sqrt(1 + self.leverages)[:, None] if scaled else 1.0
        errors = self.errors / divisor
        columns = errors.T if errors.size else np.empty((1, 0))
        found = [self._rank(np.ascontiguousarray(column), level) for column in columns]
        refused = next((reason for _, reason in found if reason), "")
        if refused:
            return None, refused
        half = np.array([value for value, _ in found], dtype=float)[None, :]
        return (half * np.sqrt(1 + h)[:, None] if scaled else half), ""

    def no_interval(self, level: float = 0.90, scaled: bool = False) -> str:
        """Say why there is no interval, or set of labels, at a level; empty text where there is one."""
        if self.facts.get("task") == "classification":
            return self._rank(self.errors.ravel(), level)[1]
        return self._half_width(np.empty(0), level, scaled)[1]

    def _sets(self, proba: Any, level: float) -> tuple[list[list[Any]] | None, str]:
        most, refused = self._rank(self.errors.ravel(), level)
        if most is None:
            return None, refused
        classes = list(self.facts.get("classes") or ())
        if proba is None or np.shape(proba)[1] != len(classes):
            return None, "the model gives no probabilities of the calibration's classes"
        # Without the slack, a class whose probability is that of the limit could be lost to rounding.
        held = 1 - np.asarray(proba, dtype=float) <= most + 1e-12
        return [[label for label, inside in zip(classes, row, strict=True) if inside] for row in held], ""

    # -- the file -------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """Return the domain as an npz file; the same domain gives the same bytes."""
        header = json.dumps({"version": _VERSION, **self.facts}, sort_keys=True, ensure_ascii=True)
        arrays = {"header": np.frombuffer(header.encode(), dtype="|u1")}
        for name in ("distances", "medians", "errors", "leverages", "y_range"):
            arrays[name] = getattr(self, name)
        for place, space in enumerate(self.spaces):
            arrays |= {f"space{place}_{name}": getattr(space, name) for name in _SPACE}
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
            for name, values in arrays.items():
                kind = "|u1" if name == "header" else "<f8"
                member = io.BytesIO()
                np.lib.format.write_array(
                    member, np.ascontiguousarray(values, dtype=kind), allow_pickle=False
                )
                # A fixed date: the bytes decide the name under which they are stored.
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), member.getvalue())
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Domain:
        """Read a domain; it cannot contain code, and no array can be larger than the file.

        Raises
        ------
        ValueError
            The file is not a domain, or its arrays do not match each other.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                    raise ValueError("its members are compressed")
                if sum(info.file_size for info in archive.infolist()) > len(data):
                    raise ValueError("its members overlap")
                arrays = {
                    info.filename.removesuffix(".npy"): _array(archive.read(info))
                    for info in archive.infolist()
                }
            facts = json.loads(bytes(arrays.pop("header")))
            if not isinstance(facts, dict) or facts.pop("version", None) != _VERSION:
                raise ValueError("it was written by a newer version")
            count = sum(name.endswith("_mean") for name in arrays)
            spaces = tuple(
                Space(**{name: arrays.pop(f"space{place}_{name}") for name in _SPACE})
                for place in range(count)
            )
            found = cls(facts, spaces, **arrays)
        except _UNREADABLE as error:
            raise ValueError(f"it cannot be read ({type(error).__name__}: {error})") from error
        found._check()
        return found

    def _check(self) -> None:
        good = self.medians.shape in ((0,), (2,)) and self.distances.ndim == self.leverages.ndim == 1
        good = good and self.errors.ndim == 2 and self.y_range.ndim == 2 and self.y_range.shape[1] == 2
        good = good and (not len(self.distances) or len(self.medians) == 2)
        for space in self.spaces:
            p, a = space.rotations.shape if space.rotations.ndim == 2 else (-1, -1)
            good = good and a > 0 and space.loadings.shape == (p, a) and space.sums.shape == (5,)
            good = good and space.mean.shape == space.scale.shape == (p,)
            good = good and space.center.shape == space.spread.shape == (a,)
            good = good and space.scores.ndim == 2 and space.scores.shape[1] == a and len(space.scores) > 0
        counts = [self.facts.get(key, 0) for key in ("before", "left_out", "n")]
        if not good or not all(isinstance(each, int) and each >= 0 for each in counts):
            raise ValueError("its arrays do not fit each other")


def _middle(values: Sequence[Floats]) -> Floats:
    return values[0] if len(values) == 1 else np.asarray(np.median(values, axis=0), dtype=float)


def _add(words: list[list[str]], where: NDArray[np.bool_], word: str) -> None:
    for row in np.flatnonzero(where):
        words[row].append(word)


def _array(data: bytes) -> NDArray[Any]:
    stream = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("another version of numpy's format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except MemoryError:
        raise
    except Exception as error:
        # numpy parses the header as Python text, and a broken one fails in the parser's many ways.
        raise ValueError(f"the header of an array cannot be read ({error})") from error
    if fortran or dtype.str not in _DTYPES or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError("an array is not made of plain numbers, or its header does not fit its length")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape)
