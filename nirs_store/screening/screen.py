"""Screen preprocessings, models and numbers of components with one cross-validation."""

from __future__ import annotations

import json
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import joblib
import numpy as np
import sklearn
from numpy.typing import ArrayLike, NDArray
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline, make_pipeline

from nirs_store.blobs.code import digest as code_digest
from nirs_store.choosing.rules import RULES, Rule
from nirs_store.errors import InvalidInput, RecordingWarning, SerializationError, did_you_mean
from nirs_store.estimators import describe_estimator
from nirs_store.ids import content_hash, sha256_hex
from nirs_store.lazy import polars as pl
from nirs_store.protocol import ReadsRuns, RecordingStore
from nirs_store.recording.crossval import chain_facts, record_cross_validation
from nirs_store.recording.folds import FoldResult, Job
from nirs_store.recording.given import resolve, take_name, take_spectra, take_test
from nirs_store.recording.groups import Companions, check_companions
from nirs_store.recording.inputs import (
    Data,
    FixedFolds,
    Fold,
    check_data,
    check_estimator,
    choose_metric,
    make_folds,
)
from nirs_store.recording.prepare import refuse_fitted, refuse_missing
from nirs_store.recording.rows import Layout, finite, save_everything
from nirs_store.recording.steps import configuration, preprocessing_text, take_apart
from nirs_store.scores import higher_is_better, repeats_of
from nirs_store.screening.board import Board, Row
from nirs_store.screening.fit import Group, fit_group
from nirs_store.screening.preprocessing import named_preprocessings
from nirs_store.screening.progress import Progress
from nirs_store.values import check_index, one_of

__all__ = ["Kept", "screen"]

Kept = Literal["best", "all"] | int
_MODELS: dict[str, Callable[[], Any]] = {
    "pls": lambda: PLSRegression(scale=False),
    "pcr": lambda: make_pipeline(PCA(), LinearRegression()),
}
_DEFAULT_COMPONENTS = 15
_COMMIT_SECONDS = 1.0


class ScreeningStore(RecordingStore, ReadsRuns, Protocol):
    """The part of the store's public interface that a screening needs."""

    def list_runs(
        self, status: str | None = None, dataset: str | None = None, limit: int = 100
    ) -> pl.DataFrame: ...
    def list_pipelines(self, run_id: str | None = None) -> pl.DataFrame: ...
    def delete_chain(self, chain_id: str, *, now: bool = False) -> Any: ...
    def transaction(self) -> Any: ...


def check_kept(keep: Any) -> None:
    """Refuse what does not say how many candidates to keep."""
    if keep not in ("best", "all") and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
        raise InvalidInput(f"keep: expected 'best', 'all' or a number of candidates; found {keep!r}.")


def screen(
    store: ScreeningStore,
    X: Any,
    y: Any = None,
    *,
    preprocess: Any = ("raw",),
    model: Any = "pls",
    components: Any = None,
    cv: Any,
    dataset_name: str | None = None,
    name: str | None = None,
    groups: ArrayLike | None = None,
    wavelengths: ArrayLike | None = None,
    sample_ids: ArrayLike | str | None = None,
    target: str | Sequence[str] | None = None,
    target_unit: str | None = None,
    wavelength_unit: str | None = None,
    metric: str | None = None,
    keep: Kept = "best",
    keep_folds: bool = True,
    artifact_format: str = "joblib",
    n_jobs: int | None = 1,
    rule: Rule = "one_se",
    X_test: Any = None,
    y_test: Any = None,
    resume: bool = True,
    progress: Callable[[int, int, Mapping[str, Any] | None], None] | None = None,
) -> Board:
    """Cross-validate every combination of preprocessing, model and number of components, and keep the best.

    A screening is one run, each preprocessing with a model one pipeline, each candidate one chain in it. A candidate
    leaves its scores and out-of-fold predictions; fitted models are stored only of those that are kept, and these are
    fitted again on their own, so that a replay gives the stored numbers to the bit.

    Parameters
    ----------
    store : WorkspaceStore
        Where to record.
    X : Spectra, array or data frame, shape (n_samples, n_features)
        A `Spectra` brings along y, wavelengths, names, groups, target and unit; what is given by name wins. A stored
        data set is named, as in ``"corn@v2"``, with its `target`.
    y : array-like, shape (n_samples,) or (n_samples, n_targets)
        Measured values, in `target_unit`, or labels.
    preprocess : str, transformer, sequence of these, or mapping of names to these
        ``raw``, ``snv``, ``msc``, ``emsc``, ``detrend``, ``sg0``, ``sg1``, ``sg2`` (Savitzky-Golay, by default with
        15 points and order 2; ``"sg1(11,3)"`` sets both), ``autoscale``, ``center``; ``"snv+sg1"`` joins two.
    model : {"pls", "pcr"}, estimator, sequence of these, or mapping of names to these
        ``"pls"`` is ``PLSRegression(n, scale=False)``; an estimator is taken as it is, a pipeline too.
    components : int or sequence of int, optional
        Numbers of components; by default 1 to 15 for ``"pls"`` and ``"pcr"``, and that of a given estimator.
    cv, groups, wavelengths, sample_ids, target, target_unit, wavelength_unit, metric
        As for `record_cross_validation`.
    dataset_name : str, optional
        By default the name of the data set, or of the file without its ending. Arrays and frames need one.
    name : str, optional
        Name of the run.
    keep : {"best", "all"} or int
        Which candidates to keep with their fitted models: the one that `rule` chooses, all, or so many of the best.
    keep_folds : bool
        False stores only the refit of a candidate that is kept, not the models of its folds.
    artifact_format : str
        Serializer of the fitted objects, as for `record_cross_validation`.
    n_jobs : int
        Worker processes; -1 for all cores.
    rule : {"one_se", "randomization", "wold", "min"}
        How the best is chosen, see `Board.best`.
    X_test, y_test : optional
        A test set, spectra as `X`: no fold and no choice sees it. The refit of a candidate that is kept predicts it;
        the board's ``rmsep`` (for a classification ``test``) is that score.
    resume : bool
        Continue a screening of the same inputs that was stopped, or return the one that is finished.
        False begins another run.
    progress : callable, optional
        Called as ``progress(done, total, best)`` with counts of candidates and the best row so far. By default a bar
        is shown where stderr is a terminal.

    Returns
    -------
    Board
        The table of candidates, best first.

    Raises
    ------
    InvalidInput, ShapeMismatch
        Input that does not fit; nothing was recorded. Or no candidate could be fitted.

    Examples
    --------
    >>> from sklearn.model_selection import KFold
    >>> from nirs_store import WorkspaceStore, load_tecator
    >>> tecator = load_tecator()
    >>> with WorkspaceStore(getfixture("tmp_path")) as store:
    ...     board = store.screen(
    ...         tecator.X, tecator.fat, preprocess=["raw", "snv"], components=range(1, 13), cv=KFold(5),
    ...         dataset_name="tecator", target="fat", target_unit="%",
    ...     )
    ...     board.frame.height, board.frame["preprocessing"][0]
    (24, 'snv')
    """
    X, X_test = resolve(store, X, target), resolve(store, X_test, target, "X_test")
    y, given = take_spectra(X, y, wavelengths, wavelength_unit, sample_ids, groups, target, target_unit)
    test = take_test(X, X_test, y_test, given)
    X, dataset_name = take_name(X, dataset_name)
    if n_jobs == 0 or not isinstance(n_jobs, (int, type(None))):
        raise InvalidInput(f"n_jobs is a number of processes, or -1 for all cores; found {n_jobs!r}.")
    check_kept(keep)
    one_of("rule", rule, RULES, "")
    groups_of = _plan(preprocess, model, components)
    plan = _check(groups_of, X, y, cv, given, dataset_name, metric, test)
    plan = replace(plan, keep_folds=keep_folds, artifact_format=artifact_format, n_jobs=n_jobs or 1)
    key = plan.key()
    run_id, finished = _find_run(store, key, dataset_name) if resume and key else (None, False)
    if run_id is None:
        run_id = store.begin_run(
            name or f"Screening of {plan.target or dataset_name}",
            {"screening": {"key": key, "candidates": plan.size, **plan.summary()}},
            [{"name": dataset_name, **plan.about_samples}],
        )
    failed = {} if finished else _work(store, plan, run_id, progress)
    board = Board(store, run_id, plan.metric, plan.task, rule, failed, plan.keeper(store, run_id))
    if not board.rows:
        words = "; ".join(f"{label}: {error}" for label, error in failed.items())
        store.fail_run(run_id, words)
        raise InvalidInput(f"No candidate could be fitted. {words}")
    chosen = board.choose(rule)
    wanted = [chosen] if keep == "best" else board.rows if keep == "all" else board.rows[: int(keep)]
    for row in wanted:
        board.keep(row.chain_id)
    if not finished:
        summary = {"candidates": len(board.rows), "failed": failed, "metric": plan.metric, "rule": rule}
        summary |= {"chosen": {name: chosen.about[name] for name in ("preprocessing", "model", "components")}}
        store.complete_run(run_id, finite(summary | {"best_val": board.rows[0].value}))
    return board


# -- What is to be fitted.


def _plan(preprocess: Any, model: Any, components: Any) -> list[Group]:
    numbers = None if components is None else _numbers(components)
    preprocessings, models = named_preprocessings(preprocess), _models(model, numbers is not None)
    if numbers is not None and not any(_own_parameter(each) for each in models.values()):
        raise InvalidInput(f"components: {', '.join(models)} has no number of components; leave it out.")
    return [
        _group(label, steps, model_name, each, numbers, model_name in _MODELS)
        for model_name, each in models.items()
        for label, steps in preprocessings.items()
    ]


def _models(given: Any, numbered: bool) -> dict[str, Any]:
    """Return the models by name; where numbers of components are given, a name leaves out the estimator's own."""
    if isinstance(given, Mapping):
        pairs = [(str(label), item) for label, item in given.items()]
    else:
        items = list(given) if isinstance(given, (list, tuple)) else [given]
        pairs = [(item if isinstance(item, str) else _describe(item, numbered), item) for item in items]
    found: dict[str, Any] = {}
    for label, item in pairs:
        if label in found:
            raise InvalidInput(f"model: {label!r} is given twice; give a mapping of names to models.")
        if isinstance(item, str):
            if item.lower() not in _MODELS:
                hint = did_you_mean(item, _MODELS)
                raise InvalidInput(
                    f"model: unknown name {item[:40]!r}.{hint} Known: {', '.join(_MODELS)}; or give an estimator."
                )
            item = _MODELS[item.lower()]()
        refuse_fitted(item, "model")
        found[label] = item
    if not found:
        raise InvalidInput("model: expected at least one, for example 'pls'; found none.")
    return found


def _describe(model: Any, numbered: bool) -> str:
    if isinstance(model, type) or not hasattr(model, "get_params"):
        raise InvalidInput(f"model: expected a name or an estimator; found {model!r}.")
    parts = take_apart(model)
    words = preprocessing_text((*parts.transformers, parts.model))
    return re.sub(r"\(\d+(, |\))", r"(\1", words).replace("(, ", "(").replace("()", "") if numbered else words


def _numbers(components: Any) -> tuple[int, ...]:
    items = list(components) if hasattr(components, "__iter__") else [components]
    if not items or not all(
        isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n > 0 for n in items
    ):
        raise InvalidInput(
            f"components: expected whole numbers from 1, such as range(1, 16); found {components!r}."
        )
    return tuple(sorted({int(n) for n in items}))


def _own_parameter(model: Any) -> str | None:
    """Return the parameter that is a model's number of components; the last step's where several have one."""
    names: list[str] = [
        name for name in model.get_params(deep=True) if name.rpartition("__")[2] == "n_components"
    ]
    if "n_components" in names or not names:
        return "n_components" if names else None
    if isinstance(model, Pipeline):
        order = [label for label, _ in model.steps]
        return max(names, key=lambda name: order.index(name.partition("__")[0]))
    return names[0]


def _group(
    label: str, steps: Sequence[Any], name: str, model: Any, numbers: tuple[int, ...] | None, by_name: bool
) -> Group:
    own = _own_parameter(model)
    estimator = make_pipeline(*steps, model) if steps else model
    parameter = own if own is None or not steps else f"{estimator.steps[-1][0]}__{own}"
    present = None if own is None else model.get_params()[own]
    counts: tuple[int | None, ...] = (present if isinstance(present, int) else None,)
    if parameter is not None and (numbers is not None or by_name):
        counts = numbers or ()  # settled when the smallest fold is known
    return Group(label, name, estimator, len(steps), parameter, counts)


@dataclass(frozen=True, eq=False)
class Plan:
    """Checked inputs of a screening."""

    groups: list[Group]
    X: Any
    y: Any
    given: dict[str, Any]
    data: Data
    splitter: Any
    folds: list[Fold]
    labels: NDArray[Any] | None
    companions: Companions
    task: str
    metric: str
    dataset_name: str
    test: Mapping[str, Any]
    keep_folds: bool = True
    artifact_format: str = "joblib"
    n_jobs: int = 1

    @property
    def target(self) -> str:
        """Name the predicted property; empty where nothing names it."""
        return str(self.given["target"] or ", ".join(self.about_samples.get("target_names", [])))

    @property
    def size(self) -> int:
        """Number of candidates."""
        return sum(len(group.components) for group in self.groups)

    def key(self) -> str | None:
        """Return the hash that the same inputs have again; None where a candidate cannot be described."""
        keys = [group.key for group in self.groups]
        return None if None in keys else sha256_hex(json.dumps(sorted(map(str, keys))).encode())

    def summary(self) -> dict[str, Any]:
        """Return what the configuration of the run says."""
        return {
            "preprocess": list(dict.fromkeys(group.preprocessing for group in self.groups)),
            "model": list(dict.fromkeys(group.model for group in self.groups)),
            "components": sorted({n for group in self.groups for n in group.components if n is not None}),
            "cv": repr(self.splitter)
            if hasattr(self.splitter, "split")
            else f"{len(self.folds)} given folds",
        }

    @cached_property
    def about_samples(self) -> dict[str, Any]:
        """What the metadata of all chains say about the samples."""
        target, unit = self.given["target"], self.given["target_unit"]
        facts = chain_facts(self.data, self.y, self.labels, self.companions, "", target, unit)
        facts |= self.given["stored"]
        return {name: value for name, value in facts.items() if name != "preprocessing_chain"}

    @cached_property
    def repeats(self) -> list[int]:
        """The repeat that each fold belongs to."""
        return repeats_of([fold.val for fold in self.folds if fold.val is not None])

    def facts(self, group: Group) -> dict[str, Any]:
        """Return what the configuration of a group says about samples and steps."""
        parts = take_apart(group.estimator)
        described = preprocessing_text((*parts.transformers, parts.model))
        return self.about_samples | {"preprocessing_chain": described}

    def keeper(self, store: ScreeningStore, run_id: str) -> Callable[[Row], str]:
        """Return the function that fits a candidate again on its own and replaces its chain by one with models."""
        groups = {(group.preprocessing, group.model): group for group in self.groups}

        def keep(row: Row) -> str:
            group = groups[row.preprocessing, row.model]
            pairs = [(fold.train, fold.val) for fold in self.folds if fold.val is not None]
            own = ("wavelengths", "wavelength_unit", "sample_ids", "target", "target_unit")
            stored = {**self.given["stored"], **self.given["stored_test"]}
            result = record_cross_validation(
                store,
                group.candidate(row.components),
                self.X,
                self.y,
                cv=FixedFolds(self.splitter, pairs),
                groups=self.labels,
                dataset_name=self.dataset_name,
                run_id=run_id,
                metric=self.metric,
                task_type=self.task,
                n_jobs=self.n_jobs,
                keep_folds=self.keep_folds,
                artifact_format=self.artifact_format,
                metadata={"screening": row.about | {"kept": True}, **stored},
                **{name: self.given[name] for name in own},
                **self.test,
            )
            # Deleted last: a crash before leaves the candidate twice, and the board shows the kept one.
            # Not into the trash: its successor has the same scores and predictions.
            store.delete_chain(row.chain_id, now=True)
            return result.chain_id

        return keep


def _check(
    groups: list[Group],
    X: Any,
    y: Any,
    cv: Any,
    given: dict[str, Any],
    dataset_name: str,
    metric: str | None,
    test: Mapping[str, Any],
) -> Plan:
    parts = [take_apart(group.estimator) for group in groups]
    tasks = {check_estimator(each, None) for each in parts}
    if len(tasks) > 1:
        raise InvalidInput(
            "model: expected regressors or classifiers; found both. Screen them one after the other."
        )
    task = tasks.pop()
    # Spectra with NaN need an imputer in every candidate, so one that takes none decides.
    no_missing = next((words for each in parts if (words := refuse_missing(each))), "")
    check_index(X=X, groups=given["groups"], sample_ids=given["sample_ids"])
    data = check_data(
        X,
        y,
        wavelengths=given["wavelengths"],
        sample_ids=given["sample_ids"],
        task_type=task,
        wavelength_unit=given["wavelength_unit"],
        no_missing=no_missing,
        **test,
    )
    splitter, folds, labels = make_folds(cv, data, given["groups"], task)
    for each in parts:
        companions = check_companions(each, labels, None, data.X.shape[0])
    most = min(min(fold.train.size for fold in folds), data.X.shape[1])
    groups = [_limited(group, most) for group in groups]
    cut = [part for fold in folds for part in (fold.train, fold.val) if part is not None]
    base = [
        content_hash(data.X, data.y),
        content_hash(np.concatenate(cut), np.array([part.size for part in cut])),
        None if labels is None else content_hash(labels, labels),
        [dataset_name, given["target"], given["target_unit"], task, choose_metric(metric, task)],
        [None if data.wavelengths is None else content_hash(data.wavelengths, data.wavelengths), data.unit],
        sklearn.__version__,
    ]
    if "target_names" in given["stored"]:
        base.append(given["stored"]["target_names"])
    if data.X_test is not None and data.y_test is not None:
        base.append(content_hash(data.X_test, data.y_test))
        # Candidates are fitted for their cross-validation only; the refit of one that is kept predicts the test set.
        data = replace(data, X_test=None, y_test=None, sample_ids_test=None)
    return Plan(
        groups=[replace(group, key=_key(group, base)) for group in groups],
        X=X,
        y=y,
        given=given,
        data=data,
        splitter=splitter,
        folds=folds,
        labels=labels,
        companions=companions,
        task=task,
        metric=choose_metric(metric, task),
        dataset_name=dataset_name,
        test=test,
    )


def _limited(group: Group, most: int) -> Group:
    """Settle the default numbers of components; refuse those that the smallest fold cannot give."""
    if group.components == ():
        return replace(group, components=tuple(range(1, min(_DEFAULT_COMPONENTS, most) + 1)))
    largest = max((n for n in group.components if n is not None), default=0)
    of_rank = group.model in _MODELS or isinstance(take_apart(group.estimator).model, PLSRegression)
    if largest > most and of_rank:
        raise InvalidInput(
            f"components: {largest} are more than the smallest fold can give; it is fitted on samples and channels for "
            f"{most} at most. Nothing was recorded."
        )
    return group


def _key(group: Group, base: list[Any]) -> str | None:
    try:
        described = describe_estimator(group.estimator)
    except SerializationError:
        return None
    code = code_digest(group.estimator)
    facts = [base, described, code, group.preprocessing, group.model, list(group.components)]
    return None if code is None else sha256_hex(json.dumps(facts, sort_keys=True).encode())


# -- The work.


def _find_run(store: ScreeningStore, key: str, dataset_name: str) -> tuple[str | None, bool]:
    """Return the newest run of the same inputs that has not failed, and whether it is finished."""
    runs = store.list_runs(dataset=dataset_name, limit=2**31)
    for row in runs.filter(pl.col("config").str.contains(key, literal=True)).iter_rows(named=True):
        if row["status"] != "failed":
            return str(row["run_id"]), row["status"] == "completed"
    return None, False


def _work(
    store: ScreeningStore,
    plan: Plan,
    run_id: str,
    progress: Callable[[int, int, Mapping[str, Any] | None], None] | None,
) -> dict[str, str]:
    """Fit and record the groups that are missing; return the errors of those that failed."""
    done = set()
    for row in store.list_pipelines(run_id).iter_rows(named=True):
        about = json.loads(row["expanded_config"] or "{}").get("screening") or {}
        if row["status"] == "completed" and about.get("key"):
            done.add(about["key"])
        elif row["status"] == "interrupted":
            store.fail_pipeline(
                row["pipeline_id"], "The process ended before this pipeline was recorded whole."
            )
    missing = [group for group in plan.groups if group.key is None or group.key not in done]
    failed: dict[str, str] = {}
    pending: list[tuple[Group, list[list[FoldResult]] | Exception]] = []
    job = Job(None, plan.data, "", "", companions=plan.companions, keep="nothing")
    with Progress(plan.size, plan.metric, progress) as bar:

        def commit() -> None:
            batch = pending.copy()
            pending.clear()
            with store.transaction():
                rows = [_record(store, plan, run_id, group, results) for group, results in batch]
            for (group, _), row in zip(batch, rows, strict=True):
                bar.advance(len(group.components), row)

        bar.advance(plan.size - sum(len(group.components) for group in missing))
        since = time.monotonic()
        try:
            for group, results in _fit_all(plan, job, missing):
                pending.append((group, results))
                if isinstance(results, Exception):
                    label = f"{group.preprocessing}, {group.model}"
                    failed[label] = str(results)
                    warnings.warn(f"{label} could not be fitted: {results}", RecordingWarning, stacklevel=4)
                # A commit waits for the disk, and some candidates take less time than that.
                if time.monotonic() - since >= _COMMIT_SECONDS:
                    commit()
                    since = time.monotonic()
        finally:
            # Also when interrupted: what is fitted need not be fitted again.
            if pending:
                commit()
    return failed


def _fit_all(
    plan: Plan, job: Job, groups: Sequence[Group]
) -> Iterator[tuple[Group, list[list[FoldResult]] | Exception]]:
    """Yield each group with one list of folds per candidate, or with what went wrong."""
    tasks = [(group, fold) for group in groups for fold in plan.folds]
    if plan.n_jobs == 1:
        outcomes: Iterator[Any] = (_try_fit(job, group, fold) for group, fold in tasks)
    else:
        workers = joblib.Parallel(n_jobs=plan.n_jobs, return_as="generator")
        outcomes = workers(joblib.delayed(_try_fit)(job, group, fold) for group, fold in tasks)
    for group in groups:
        folds = [next(outcomes) for _ in plan.folds]
        error = next((each for each in folds if isinstance(each, Exception)), None)
        yield group, [list(each) for each in zip(*folds, strict=True)] if error is None else error


def _try_fit(job: Job, group: Group, fold: Fold) -> list[FoldResult] | Exception:
    try:
        return fit_group(job, group, fold)
    except Exception as error:  # noqa: BLE001 (an estimator may raise anything; it is recorded and shown)
        error.add_note(f"while fitting {group.preprocessing}, {group.model} in {fold.key}")
        return error


def _record(
    store: ScreeningStore,
    plan: Plan,
    run_id: str,
    group: Group,
    candidates: Sequence[list[FoldResult]] | Exception,
) -> dict[str, Any] | None:
    """Record a group as one pipeline; return its best candidate, None where it could not be fitted."""
    began = time.perf_counter()
    facts = plan.facts(group)
    about = {"key": group.key, "preprocessing": group.preprocessing, "model": group.model}
    config = configuration(group.estimator, plan.splitter) | facts
    config |= {"task_type": plan.task, "metric": plan.metric, "screening": about}
    name = f"{group.preprocessing}, {group.model}"
    pipeline_id = store.begin_pipeline(run_id, name, config, [], plan.dataset_name, facts["data_hash"])
    if isinstance(candidates, Exception):
        words = "".join(traceback.format_exception(candidates))
        store.log_step(
            pipeline_id, 0, type(candidates).__name__, "error", message=str(candidates), level="error"
        )
        store.fail_pipeline(pipeline_id, words)
        return None
    best: dict[str, Any] | None = None
    for n, results in zip(group.components, candidates, strict=True):
        parts = group.parts(n)
        own: dict[str, Any] = {
            "candidate": f"{group.key or pipeline_id}:{n}",
            "preprocessing": group.preprocessing,
        }
        own |= {"model": group.model, "components": n, "se": _standard_error(plan, results), "kept": False}
        described = preprocessing_text((*parts.transformers, parts.model))
        recorded = facts | {"preprocessing_chain": described, "screening": own}
        layout = Layout(
            pipeline_id, plan.dataset_name, parts, plan.splitter, None, plan.data, plan.task, plan.metric, recorded,
            plan.repeats,
        )  # fmt: skip
        value = save_everything(store, layout, results, logs=False).value
        if best is None or (value > best["value"]) == higher_is_better(plan.metric):
            best = own | {"value": value}
    spent = round((time.perf_counter() - began) * 1000)
    store.complete_pipeline(pipeline_id, None if best is None else best["value"], None, plan.metric, spent)
    return best


def _standard_error(plan: Plan, results: Sequence[FoldResult]) -> float | None:
    """Return the standard error of the out-of-fold errors of one target, as the rules use it."""
    if plan.task != "regression" or plan.data.y.ndim > 1:
        return None
    found = [result.predictions["val"] for result in results]
    errors = np.concatenate([np.asarray(each.y_pred, float).ravel() - each.y_true.ravel() for each in found])
    # Each repeat of a repeated cross-validation predicts the same samples.
    n = errors.size / len(set(plan.repeats))
    return float(errors.std(ddof=1) / np.sqrt(n)) if errors.size > 1 else None
