"""Coded checks of a chain: what a reviewer of a calibration would ask first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains.family import components_of
from nirs_store.chains.one_target import one_target, targets_of
from nirs_store.choosing.components import suggest_components
from nirs_store.errors import InvalidInput, UnknownDataset
from nirs_store.ids import spectrum_hashes
from nirs_store.lazy import polars as pl
from nirs_store.protocol import ReadsChains, chain_of
from nirs_store.reading import Spectra

__all__ = ["CODES", "Finding", "Review", "review"]

Floats = NDArray[np.float64]
_ALPHA = 0.05


class Check(NamedTuple):
    """One check: its code, severity, title and the function that finds something or not."""

    code: str
    severity: str
    title: str
    function: Callable[[Material], Iterator[str]]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    code : str
        Such as ``"R03"``; the page docs/review/<code>.md says why it matters and what to do.
    severity : str
        ``"error"`` (the figures are too good), ``"warning"`` or ``"note"``.
    title, message : str
        The check and its result, with numbers.
    """

    code: str
    severity: str
    title: str
    message: str

    @property
    def page(self) -> str:
        """Return the page of the documentation about this code."""
        return f"docs/review/{self.code}.md"


@dataclass(frozen=True)
class Review:
    """The findings about one chain, the most severe first; `checked` lists the codes that were applied."""

    chain_id: str
    findings: tuple[Finding, ...]
    checked: tuple[str, ...]

    @property
    def frame(self) -> pl.DataFrame:
        """Return the findings as a data frame."""
        names = ("code", "severity", "title", "message")
        rows = [asdict(each) for each in self.findings]
        return pl.DataFrame(
            {name: [row[name] for row in rows] for name in names}, schema=dict.fromkeys(names, pl.String)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "chain_id": self.chain_id,
            "checked": list(self.checked),
            "findings": [asdict(f) for f in self.findings],
        }

    def __repr__(self) -> str:
        if not self.findings:
            return f"<Review of {self.chain_id[-8:]}: {len(self.checked)} checks, nothing found>"
        lines = [f"{each.code} {each.severity}: {each.message}" for each in self.findings]
        return "\n".join([f"<Review of {self.chain_id[-8:]}: {len(self.checked)} checks>", *lines])


class Missing(Exception):
    """A check cannot be applied: what it needs is not stored."""


class Material:
    """What the checks read of a chain, each part when it is first asked for."""

    def __init__(self, store: Any, chain: dict[str, Any]) -> None:
        self.store, self.chain = store, chain
        self.metadata: dict[str, Any] = chain.get("metadata") or {}

    @cached_property
    def parts(self) -> list[dict[str, Any]]:
        """Return each stored prediction with its arrays."""
        rows = self.store.query_predictions(chain_id=self.chain["chain_id"]).sort("prediction_id")
        arrays = self.store.get_prediction_arrays(rows["prediction_id"].to_list())
        return [row | arrays.get(row["prediction_id"], {}) for row in rows.iter_rows(named=True)]

    @property
    def folds(self) -> list[Any]:
        """Return the folds with out-of-fold predictions; raise where there are none."""
        validated = {part["fold_id"] for part in self.parts if part["partition"] == "val"}
        found = sorted(fold for fold in validated if not _is_final(fold))
        if not found:
            raise Missing
        return found

    def pooled(self, partition: str, *, final: bool) -> tuple[Floats, Floats]:
        """Return measured and predicted values of a partition, of the refit or of all folds together."""
        chosen = [p for p in self.parts if p["partition"] == partition and _is_final(p["fold_id"]) == final]
        pairs = [(p.get("y_true"), p.get("y_pred")) for p in chosen]
        if self.metadata.get("task_type", "regression") != "regression" or not pairs:
            raise Missing
        measured, predicted = [], []
        seen: set[Any] = set()
        for part, (y_true, y_pred) in zip(chosen, pairs, strict=True):
            if y_true is None or y_pred is None or y_true.size != len(y_true) or y_pred.size != len(y_pred):
                raise Missing
            # Repeats of a cross-validation predict the same samples again; tests count each sample once.
            names = part.get("sample_indices")
            ids = [] if names is None else np.asarray(names).tolist()
            new = np.array([name not in seen for name in ids] or [True] * len(y_true), dtype=bool)
            seen.update(ids)
            measured.append(np.asarray(y_true, dtype=float).ravel()[new])
            predicted.append(np.asarray(y_pred, dtype=float).ravel()[new])
        return np.concatenate(measured), np.concatenate(predicted)

    def unseen(self) -> tuple[str, Floats, Floats]:
        """Return the test set, else the out-of-fold predictions: name, measured, predicted."""
        try:
            return ("test set", *self.pooled("test", final=True))
        except Missing:
            return ("cross-validation", *self.pooled("val", final=False))

    def ids(self, partition: str, fold: str | None = None) -> set[Any]:
        """Return the samples of a partition, by name; raise where samples have no names of their own."""
        found: set[Any] = set()
        for part in self.parts:
            if part["partition"] == partition and fold in (None, part["fold_id"]):
                names = part.get("sample_indices")
                if names is None or np.asarray(names).dtype.kind not in "UOST":
                    raise Missing
                found |= set(np.asarray(names).tolist())
        return found

    @cached_property
    def calibration(self) -> Spectra:
        """Return the stored samples that the chain was fitted on; raise where they are in no data set."""
        return self._samples("calibration")

    @cached_property
    def test(self) -> Spectra:
        """Return the stored samples of its test set."""
        return self._samples("test")

    def _samples(self, role: str) -> Spectra:
        datasets = getattr(self.store, "datasets", None)
        if datasets is None:
            raise Missing
        try:
            found: Spectra = datasets.of_chain(self.chain["chain_id"], role)
        except (InvalidInput, UnknownDataset) as error:
            raise Missing from error
        return found

    def rows(self, partition: str, fold: str) -> NDArray[np.intp]:
        """Return the rows of the calibration that a fold has in a partition; raise where names do not tell them."""
        ids, n = self.calibration.ids, len(self.calibration)
        if ids is not None and np.unique(ids).size < n:
            raise Missing
        place = {name: row for row, name in enumerate(range(n) if ids is None else ids.tolist())}
        found = []
        for part in self.parts:
            if part["partition"] == partition and part["fold_id"] == fold:
                names = part.get("sample_indices")
                if names is None:
                    raise Missing
                found += [place.get(name, -1) for name in np.asarray(names).tolist()]
        if -1 in found:
            raise Missing
        return np.array(found, dtype=np.intp)

    @property
    def unit(self) -> str:
        """Return the unit of the target with a space before it, or nothing."""
        unit = self.chain.get("target_unit") or self.metadata.get("target_unit")
        return f" {unit}" if unit else ""


def _is_final(fold: Any) -> bool:
    return str(fold).removeprefix("fold_") == "final"


def _split_names(m: Material) -> Iterator[str]:
    for fold in m.folds:
        both = m.ids("val", fold) & m.ids("train", fold)
        if both:
            yield f"{fold}: {len(both)} samples, for example {sorted(map(str, both))[0]}, are fitted and predicted."
            return


def _test_in_calibration(m: Material) -> Iterator[str]:
    test, fitted = m.ids("test"), m.ids("train")
    if not test:
        raise Missing
    both = test & fitted
    if both:
        first = sorted(map(str, both))[0]
        yield f"{len(both)} of {len(test)} test samples, for example {first}, are calibration samples too."


def _few_samples(m: Material) -> Iterator[str]:
    count, n = components_of(m.chain), m.metadata.get("n_samples")
    if count is None or not isinstance(n, int):
        raise Missing
    needed = max(24, 6 * (count + 1))
    if n < needed:
        yield f"{n} calibration samples for {count} latent variables; at least {needed} are advised."


def _test_range(m: Material) -> Iterator[str]:
    measured, _ = m.pooled("test", final=True)
    known, _ = m.pooled("train", final=True)
    outside = int(((measured < known.min()) | (measured > known.max())).sum())
    if outside:
        yield (
            f"{outside} of {measured.size} test samples lie outside the calibration's range of "
            f"{known.min():.4g} to {known.max():.4g}{m.unit}."
        )


def _t_limit(df: int) -> float:
    # Not from scipy.stats, which takes 70 MB and most of a second to import.
    from scipy.special import stdtrit

    return float(stdtrit(df, 1 - _ALPHA / 2))


def _bias(m: Material) -> Iterator[str]:
    where, measured, predicted = m.unseen()
    error, n = predicted - measured, measured.size
    if n < 10:
        raise Missing
    limit = _t_limit(n - 1) * error.std(ddof=1) / np.sqrt(n)
    if abs(error.mean()) > limit:
        bias = f"bias (predicted - measured) {error.mean():+.4g}{m.unit}"
        yield f"{bias} in the {where}, beyond ±{limit:.4g}{m.unit} (n = {n}, 95 %)."


def _slope(m: Material) -> Iterator[str]:
    where, measured, predicted = m.unseen()
    n = measured.size
    if n < 10 or np.ptp(predicted) == 0:
        raise Missing
    (xx, xy), (_, yy) = np.cov(predicted, measured, ddof=0)
    slope, unexplained = xy / xx, max(yy - xy**2 / xx, 0.0)
    error = np.sqrt(unexplained / xx / (n - 2))
    if error > 0 and abs(slope - 1) / error > _t_limit(n - 2):
        yield f"slope {slope:.4g} of measured on predicted in the {where} differs from 1 (n = {n}, 95 %)."


def _overfit(m: Material) -> Iterator[str]:
    from scipy.special import fdtri

    known, fitted = m.pooled("train", final=True)
    measured, predicted = m.pooled("val", final=False)
    freedom = known.size - (components_of(m.chain) or 0) - 1
    if freedom < 5:
        raise Missing
    sec2 = ((fitted - known) ** 2).sum() / freedom
    press = ((predicted - measured) ** 2).mean()
    if sec2 == 0 == press:
        raise Missing
    ratio = press / sec2 if sec2 > 0 else np.inf
    if ratio > fdtri(measured.size, freedom, 1 - _ALPHA):
        yield f"RMSECV is {np.sqrt(ratio):.2f} times SEC; the fit does not carry over to samples left out."


def _tails(m: Material) -> Iterator[str]:
    where, measured, predicted = m.unseen()
    error = predicted - measured
    if error.size < 20 or error.std() == 0:
        raise Missing
    excess = (((error - error.mean()) / error.std()) ** 4).mean() - 3
    # Half of the spread of normal residuals is never beyond the test's limit: SciPy's statistics are not needed.
    if excess < np.sqrt(24 / error.size) / 2:
        return
    from scipy.stats import kurtosistest

    test = kurtosistest(error, alternative="greater")
    if test.pvalue < 0.01:
        yield f"residuals of the {where} have heavy tails (excess kurtosis {excess:.2g}, p = {test.pvalue:.1g})."


def _one_sample(m: Material) -> Iterator[str]:
    where, measured, predicted = m.unseen()
    squares = (predicted - measured) ** 2
    if squares.size < 10 or squares.sum() == 0:
        raise Missing
    share = float(squares.max() / squares.sum())
    if share > max(0.25, 10 / squares.size):
        yield f"one sample makes {100 * share:.0f} % of the squared error of the {where} (n = {squares.size})."


def _few_values(m: Material) -> Iterator[str]:
    measured, _ = m.pooled("val", final=False)
    different = np.unique(measured).size
    if different < min(10, measured.size):
        yield f"the reference values take only {different} different values in {measured.size} samples."


def _irregular(m: Material) -> Iterator[str]:
    grid = m.chain.get("wavelengths")
    if grid is None or len(grid) < 4:
        raise Missing
    ordered = np.diff(np.asarray(grid, dtype=float))
    if not (np.all(ordered > 0) or np.all(ordered < 0)):
        place = int(np.argmax(ordered <= 0 if ordered[0] > 0 else ordered >= 0))
        yield f"the wavelengths neither rise nor fall: {grid[place]:g} is followed by {grid[place + 1]:g}."
        return
    steps = np.abs(ordered)
    # A grid in one unit is regular in that unit, or in the other (1e7 / x).
    other = np.abs(np.diff(1e7 / np.asarray(grid, dtype=float))) if np.all(np.asarray(grid) > 0) else steps
    if min(steps.max() / np.median(steps), other.max() / np.median(other)) > 3:
        place = int(np.argmax(steps))
        yield (
            f"the wavelengths leave a gap between {grid[place]:g} and {grid[place + 1]:g}; "
            "derivatives across it are wrong."
        )


def _test_spectra(m: Material) -> Iterator[str]:
    known = dict(zip(spectrum_hashes(m.calibration.X), _labels(m.calibration), strict=True))
    both = [
        (name, known[digest])
        for name, digest in zip(_labels(m.test), spectrum_hashes(m.test.X), strict=True)
        if digest in known
    ]
    if both:
        yield (
            f"{len(both)} of {len(m.test)} test spectra are in the calibration to the last digit, for example "
            f"{both[0][0]}, there {both[0][1]}."
        )


def _replicates(m: Material) -> Iterator[str]:
    earlier = m.metadata.get("updated_from")
    if isinstance(earlier, str) and "n_groups" not in m.metadata:
        chain = m.store.get_chain(earlier)
        groups = ((chain or {}).get("metadata") or {}).get("n_groups")
        if groups is not None:
            yield (
                f"the version that this one updates kept {groups} groups together; this one was recorded without "
                "groups, so replicates may be on both sides of a fold."
            )
            return
    folds = m.folds
    labels = _labels(m.calibration)
    marks = {"spectrum": spectrum_hashes(m.calibration.X)}
    if m.calibration.groups is not None:
        marks["group"] = m.calibration.groups.tolist()
    for fold in folds:
        fitted, left_out = m.rows("train", fold), m.rows("val", fold)
        for word, mark in marks.items():
            there = {mark[row] for row in fitted}
            split = [row for row in left_out if mark[row] in there]
            if split:
                shown = f" ({mark[split[0]]})" if word == "group" else ""
                yield (
                    f"{fold}: {len(split)} left-out samples, for example {labels[split[0]]}, have the same "
                    f"{word}{shown} as samples that the fold is fitted on."
                )
                return


def _constant(m: Material) -> Iterator[str]:
    X, labels = np.asarray(m.calibration.X, dtype=float), _labels(m.calibration)
    flat = np.flatnonzero(np.ptp(X, axis=1) == 0)
    if flat.size:
        yield f"{flat.size} spectra have the same value in every channel, for example {labels[flat[0]]}."


def _saturated(m: Material) -> Iterator[str]:
    X, labels = np.asarray(m.calibration.X, dtype=float), _labels(m.calibration)
    least = max(5, X.shape[1] // 50)
    if X.shape[1] <= least:
        raise Missing
    # A detector that has reached its end gives the same value again and again, at the top or at the bottom.
    for word, end in (("highest", X.max(axis=1)), ("lowest", X.min(axis=1))):
        at_end = (end[:, None] == X) & (np.ptp(X, axis=1) > 0)[:, None]
        windows = np.lib.stride_tricks.sliding_window_view(at_end, least, axis=1)
        rows = np.flatnonzero(np.any(np.all(windows, axis=2), axis=1))
        if rows.size:
            yield (
                f"{rows.size} spectra stay at their {word} value over {least} neighbouring channels or more, for "
                f"example {labels[rows[0]]}."
            )


def _duplicated(m: Material) -> Iterator[str]:
    labels, again = _labels(m.calibration), []
    first: dict[bytes, int] = {}
    for row, digest in enumerate(spectrum_hashes(m.calibration.X)):
        if digest in first:
            again.append((first[digest], row))
        first.setdefault(digest, row)
    if again:
        y = m.calibration.y
        other = 0 if y is None else sum(bool(np.any(y[a] != y[b])) for a, b in again)
        values = f"; {other} of them with other reference values" if other else ""
        a, b = again[0]
        yield f"{len(again)} spectra are stored twice, for example {labels[a]} and {labels[b]}{values}."


def _labels(spectra: Spectra) -> list[str]:
    """Name samples: by their names, else by their rows."""
    return list(spectra.places) if spectra.ids is None else [str(name) for name in spectra.ids.tolist()]


def _no_refit(m: Material) -> Iterator[str]:
    models = m.chain.get("fold_artifacts") or {}
    if not models and {"screening", "search"} & set(m.chain.get("metadata") or {}):
        yield "only the scores of this candidate are stored; it has no fitted model and cannot predict."
    elif not any(_is_final(fold) for fold in models):
        yield "the chain has no refit on all samples; it predicts with the mean of its folds."


def _too_many(m: Material) -> Iterator[str]:
    count = components_of(m.chain)
    if count is None:
        raise Missing
    try:
        choice: Any = suggest_components(m.store, str(m.chain["chain_id"]))
    except InvalidInput as error:
        raise Missing from error
    if count > choice.components:
        yield f"{count} latent variables, where {choice.components} are within one standard error of the lowest RMSECV."


#: All checks, by code. R14 to R18 need a chain that was recorded from a stored data set.
CODES: dict[str, Check] = {
    check.code: check
    for check in (
        Check("R01", "error", "samples on both sides of a fold", _split_names),
        Check("R02", "error", "test samples in the calibration", _test_in_calibration),
        Check("R03", "warning", "few samples for the latent variables", _few_samples),
        Check("R04", "warning", "test set outside the calibration range", _test_range),
        Check("R05", "warning", "significant bias", _bias),
        Check("R06", "warning", "slope differs from 1", _slope),
        Check("R07", "warning", "fit and cross-validation far apart", _overfit),
        Check("R08", "note", "heavy-tailed residuals", _tails),
        Check("R09", "warning", "one sample carries the error", _one_sample),
        Check("R10", "note", "few different reference values", _few_values),
        Check("R11", "warning", "gap in the wavelengths", _irregular),
        Check("R12", "note", "no refit", _no_refit),
        Check("R13", "note", "more latent variables than one standard error asks for", _too_many),
        Check("R14", "error", "test spectra in the calibration", _test_spectra),
        Check("R15", "error", "replicates on both sides of a fold", _replicates),
        Check("R16", "warning", "constant spectra", _constant),
        Check("R17", "warning", "saturated spectra", _saturated),
        Check("R18", "note", "duplicated spectra", _duplicated),
    )
}
#: Those that read the values of a target.
_OF_TARGET = {"R04", "R05", "R06", "R07", "R08", "R09", "R10", "R13"}
_GRAVITY = {"error": 0, "warning": 1, "note": 2}


def review(store: ReadsChains, chain_id: str, target: str | int | None = None) -> Review:
    """Run the coded checks of a chain; checks of its spectra need a chain recorded from a stored data set.

    Parameters
    ----------
    store : WorkspaceStore
        Where the chain is recorded.
    chain_id : str
        The chain.
    target : str or int, optional
        One target, by name or counted from 0, of a chain that predicts several; by default each is checked, and
        findings about one begin with its name.

    Returns
    -------
    Review
        A check that lacks what it needs (names of samples, a test set, a refit) is not in `checked`.

    Raises
    ------
    UnknownId
        No chain has that id.

    Notes
    -----
    Samples advised: ASTM E1655 (24, or 6 (A + 1) for centered data). Bias, and slope of measured on predicted: t tests
    at 95 % after ISO 12099. RMSECV against SEC: F test at 95 %. Tails: Anscombe and Glynn's test of kurtosis at 1 %.
    """
    chain = chain_of(one_target(store, target), chain_id)
    each = [target] if target is not None else _targets(store, chain)
    found, checked = [], []
    for name in each:
        seen = one_target(store, name)
        material = Material(seen, seen.get_chain(chain_id))
        label = f"{material.metadata.get('target')}: " if len(each) > 1 else ""
        for check in CODES.values():
            if check.code not in _OF_TARGET and name != each[0]:
                continue
            try:
                messages = list(check.function(material))
            except Missing:
                continue
            start = label if check.code in _OF_TARGET else ""
            found += [Finding(check.code, check.severity, check.title, start + words) for words in messages]
            checked.append(check.code)
    found.sort(key=lambda finding: (_GRAVITY[finding.severity], finding.code))
    return Review(str(chain["chain_id"]), tuple(found), tuple(sorted(set(checked))))


def _targets(store: ReadsChains, chain: dict[str, Any]) -> Sequence[str | int | None]:
    """Return the targets of a chain by name, else by number; None for the only one."""
    rows = store.query_predictions(chain_id=chain["chain_id"]).head(1)
    arrays = store.get_prediction_arrays(rows["prediction_id"].to_list())
    shapes = [np.shape(each["y_true"]) for each in arrays.values() if each.get("y_true") is not None]
    width = shapes[0][1] if shapes and len(shapes[0]) > 1 else 1
    return targets_of(chain) or (range(width) if width > 1 else [None])
