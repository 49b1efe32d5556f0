"""Record searches that others run: scikit-learn's, and studies of Optuna."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike
from sklearn.base import clone, is_classifier, is_regressor

from nirs_store.display import block, field_table, printable, table
from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.ids import content_hash
from nirs_store.lazy import polars as pl
from nirs_store.recording.crossval import record_cross_validation
from nirs_store.recording.given import resolve, take_name, take_spectra
from nirs_store.recording.groups import refuse_fixed_inner_folds
from nirs_store.recording.inputs import (
    Data,
    FixedFolds,
    Fold,
    check_data,
    check_estimator,
    full_run_id,
    make_folds,
)
from nirs_store.recording.prepare import refuse_fitted, refuse_missing
from nirs_store.recording.result import CrossValidationResult
from nirs_store.recording.rows import finite, step_entry
from nirs_store.recording.steps import class_name, describe, json_safe, preprocessing_of, take_apart
from nirs_store.scores import score_label
from nirs_store.screening.board import text_table
from nirs_store.screening.screen import Kept, ScreeningStore, check_kept

_SHOWN = 10


@dataclass(frozen=True, eq=False)
class SearchRecord:
    """A search that is in the store.

    Attributes
    ----------
    run_id, chain_id : str
        The run, and the chain of the winner.
    best_params : dict
        The winner's parameters.
    scorer : str
        What ``score`` in `frame` is: the search's own figure, averaged over its splits. It is not a pooled RMSECV.
    frame : polars.DataFrame
        One row per candidate, the best first: ``rank, params, score, score_sd``, ``iter`` and ``n_resources`` of a
        halving search, ``state`` of a trial, ``won`` (the outer folds of a nested cross-validation that it won),
        ``kept``, ``chain_id``.
    result : CrossValidationResult
        The recorded cross-validation: of the winner on the search's own folds, or of the whole search on the outer
        folds where it is nested.
    nested : bool
        Whether `result` comes from outer folds that the search has not seen. Else the winner was chosen by the folds
        that score it, and its scores are too good by some.
    """

    run_id: str
    chain_id: str
    best_params: dict[str, Any]
    scorer: str
    frame: pl.DataFrame
    result: CrossValidationResult
    nested: bool

    def _heading(self) -> str:
        words = ", ".join(f"{name}={value}" for name, value in self.best_params.items())
        how = "outer folds, nested" if self.nested else "the folds that chose it, so it is optimistic"
        label = score_label(self.result.metric)
        return f"{self.frame.height} candidates; best: {words}; {label} {self.result.value:.4g} on {how}"

    def __repr__(self) -> str:
        found = self.frame.drop("chain_id")
        lines = [printable(self._heading()), f"score: {self.scorer}"]
        lines += text_table(found.columns, found.head(_SHOWN).rows())
        if found.height > _SHOWN:
            lines.append(f"... and {found.height - _SHOWN} more, see .frame")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        found = self.frame
        about = field_table({"score": self.scorer, "run": self.run_id, "chain": self.chain_id})
        return block(self._heading(), about, table(found.columns, found.head(_SHOWN).iter_rows()))


def record_search(
    store: ScreeningStore,
    search: Any,
    X: Any,
    y: Any = None,
    *,
    cv: Any = None,
    build: Callable[[dict[str, Any]], Any] | None = None,
    keep: Kept = "best",
    dataset_name: str | None = None,
    name: str | None = None,
    run_id: str | None = None,
    groups: ArrayLike | None = None,
    wavelengths: ArrayLike | None = None,
    sample_ids: ArrayLike | str | None = None,
    target: str | Sequence[str] | None = None,
    target_unit: str | None = None,
    wavelength_unit: str | None = None,
    metric: str | None = None,
    keep_folds: bool = True,
    artifact_format: str = "joblib",
    n_jobs: int | None = 1,
) -> SearchRecord:
    """Record a scikit-learn search or an Optuna study: each candidate, and the winner as a chain with models.

    Parameters
    ----------
    store : WorkspaceStore
        Where to record.
    search : GridSearchCV, RandomizedSearchCV, a halving search, or optuna.Study
        A search that is not fitted is copied and fitted here; one that is fitted is recorded as it is, and X and y
        must be what it was fitted on.
    X, y
        As for `screen`.
    cv : optional
        For a search of scikit-learn: outer folds. The search then runs once in each outer fold (nested
        cross-validation), and the recorded scores are those of samples that it has not seen. For a study: the folds
        that the winner is recorded with.
    build : callable, optional
        For a study: from the parameters of a trial to its estimator.
    keep : {"best", "all"} or int
        Which candidates are fitted again on the search's folds and kept with their models. A nested one keeps the
        search itself.
    run_id : str, optional
        Record into this run, and leave it open.
    dataset_name, name, groups, wavelengths, sample_ids, target, target_unit, wavelength_unit, metric
        As for `screen`; `metric` ranks the recorded chains, not the candidates.
    keep_folds, artifact_format, n_jobs
        As for `screen`.

    Returns
    -------
    SearchRecord

    Raises
    ------
    InvalidInput, ShapeMismatch
        Not a search, or input that does not fit.

    Examples
    --------
    >>> from sklearn.cross_decomposition import PLSRegression
    >>> from sklearn.model_selection import GridSearchCV, KFold
    >>> from nirs_store import WorkspaceStore, load_tecator, record_search
    >>> tecator = load_tecator()
    >>> grid = {"n_components": [4, 8, 12]}
    >>> search = GridSearchCV(PLSRegression(), grid, cv=KFold(5), scoring="neg_root_mean_squared_error")
    >>> with WorkspaceStore(getfixture("tmp_path")) as store:
    ...     found = record_search(store, search, tecator.X, tecator.fat, dataset_name="tecator", target="fat")
    >>> found.best_params, found.frame.height
    ({'n_components': 12}, 3)
    """
    if not (hasattr(search, "_run_search") or hasattr(search, "trials")):
        raise InvalidInput(
            f"search: expected a search of scikit-learn or a study of Optuna; found {search!r}."
        )
    check_kept(keep)
    X = resolve(store, X, target)
    y, given = take_spectra(X, y, wavelengths, wavelength_unit, sample_ids, groups, target, target_unit)
    X, dataset_name = take_name(X, dataset_name)
    is_study = hasattr(search, "trials")
    if is_study and (build is None or cv is None):
        raise InvalidInput(
            "A study needs build=, which makes an estimator of a trial's parameters, and cv=, the folds that the "
            "winner is recorded with."
        )
    own = ("wavelengths", "wavelength_unit", "sample_ids", "target", "target_unit")
    options = {name: given[name] for name in own} | {"dataset_name": dataset_name, "metric": metric}
    options |= {"keep_folds": keep_folds, "artifact_format": artifact_format, "n_jobs": n_jobs}
    work = _Recorder(store, X, y, given, options, keep, full_run_id(store, run_id))
    if is_study:
        assert build is not None
        return work.study(search, build, cv, name)
    return work.search(search, cv, name)


@dataclass(eq=False)
class _Candidate:
    """One candidate of a search, however it was found; `estimator` is None for a trial that did not end."""

    rank: int
    params: dict[str, Any]
    about: dict[str, Any]
    estimator: Any
    chain_id: str | None = None

    @property
    def told(self) -> dict[str, Any]:
        """Return what is recorded about it."""
        return {"rank": self.rank or None, "params": json_safe(self.params), **self.about}


@dataclass(frozen=True, eq=False)
class _Recorder:
    store: ScreeningStore
    X: Any
    y: Any
    given: dict[str, Any]
    options: dict[str, Any]
    keep: Kept
    run_id: str | None

    def search(self, search: Any, outer: Any, name: str | None) -> SearchRecord:
        refuse_fitted(search, "search")
        task, data = self._data(search.estimator)
        kind, scorer = type(search).__name__, f"mean over splits of {_scorer_name(search)}"
        if outer is None:
            cut = make_folds(search.cv, data, self.given["groups"], task)
            fitted = _fitted(search, data, _pairs(cut[1]))
            found = _candidates(fitted)
            return self._on_folds(cut, name or kind, kind, search, data, found, scorer, fitted.best_params_)
        # Every outer fold is fitted on fewer samples than there are.
        refuse_fixed_inner_folds((search,), [data.X.shape[0] - 1])
        with self._run(name or f"Nested {kind}", search, data) as run:
            folds = {"cv": outer, "groups": self.given["groups"]}
            result = self._cross_validate(run, clone(search), folds, {})
            chain = self.store.get_chain(result.chain_id) or {}
            final = self.store.load_artifact(chain["fold_artifacts"]["final"])
            found = _candidates(final, _winners(self.store, run, result.chain_id, final.best_params_))
            self._save(run, f"{kind}, all samples", found, data, None, scorer)
        return self._finish(result, found, scorer, final.best_params_, nested=True)

    def study(
        self, study: Any, build: Callable[[dict[str, Any]], Any], cv: Any, name: str | None
    ) -> SearchRecord:
        if len(study.directions) > 1:
            raise InvalidInput("study: expected one objective; found several, which have no single winner.")
        complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
        if not complete:
            raise InvalidInput(f"study: none of its {len(study.trials)} trials is complete.")
        maximize = study.direction.name == "MAXIMIZE"
        order = sorted(complete, key=lambda trial: (-trial.value if maximize else trial.value, trial.number))
        found = [
            _Candidate(rank, dict(trial.params), _about_trial(study, trial), build(dict(trial.params)))
            for rank, trial in enumerate(order, start=1)
        ]
        for candidate in found:
            refuse_fitted(candidate.estimator, "build")
        rest = [trial for trial in study.trials if trial.state.name != "COMPLETE"]
        found += [_Candidate(0, dict(trial.params), _about_trial(study, trial), None) for trial in rest]
        task, data = self._data(found[0].estimator)
        cut = make_folds(cv, data, self.given["groups"], task)
        title = study.study_name
        scorer = f"objective of the study {title!r}, {'higher' if maximize else 'lower'} is better"
        return self._on_folds(cut, name or title, title, None, data, found, scorer, found[0].params)

    def _data(self, estimator: Any) -> tuple[str, Data]:
        """Return the task of an estimator, and the samples checked for it."""
        parts = take_apart(estimator)
        task = check_estimator(parts, None)
        options = {name: self.given[name] for name in ("wavelengths", "wavelength_unit", "sample_ids")}
        return task, check_data(self.X, self.y, task_type=task, no_missing=refuse_missing(parts), **options)

    def _on_folds(
        self,
        cut: tuple[Any, list[Fold], Any],
        name: str,
        title: str,
        search: Any,
        data: Data,
        candidates: Sequence[_Candidate],
        scorer: str,
        best_params: Mapping[str, Any],
    ) -> SearchRecord:
        """Record the candidates, fit those that are kept on the search's own folds, the winner first."""
        splitter, folds, labels = cut
        options = {"cv": FixedFolds(splitter, _pairs(folds)), "groups": labels}
        # A halving search tries a candidate several times; it is kept once, the winner as the search names it.
        ended = [each for each in reversed(candidates) if each.estimator is not None]
        once = {_text(each.params): each for each in ended}
        first = once.pop(_text(best_params))
        wanted = [first, *sorted(once.values(), key=candidates.index)]
        count = 1 if self.keep == "best" else len(wanted) if self.keep == "all" else int(self.keep)
        results = []
        with self._run(name, search, data) as run:
            self._save(run, title, candidates, data, splitter, scorer)
            for each in wanted[:count]:
                about = {"search": {"scorer": scorer, **each.told, "kept": True}}
                results.append(self._cross_validate(run, each.estimator, options, about))
                self.store.delete_chain(str(each.chain_id), now=True)
                each.chain_id = results[-1].chain_id
                each.about["kept"] = True
        return self._finish(results[0], candidates, scorer, best_params, nested=False)

    def _cross_validate(
        self, run_id: str, estimator: Any, folds: Mapping[str, Any], about: Mapping[str, Any]
    ) -> CrossValidationResult:
        metadata = {**about, **self.given["stored"]}
        return record_cross_validation(
            self.store, estimator, self.X, self.y, run_id=run_id, metadata=metadata, **folds, **self.options
        )

    @contextmanager
    def _run(self, name: str, search: Any, data: Data) -> Iterator[str]:
        """Yield the given run, or begin one, which an error marks failed."""
        if self.run_id is not None:
            yield self.run_id
            return
        config = {"search": None if search is None else describe(search)}
        about = {"name": self.options["dataset_name"], "data_hash": content_hash(data.X, data.y)}
        run_id = self.store.begin_run(name, config, [about])
        try:
            yield run_id
        except BaseException as error:
            self.store.fail_run(run_id, f"{type(error).__name__}: {error}")
            raise

    def _save(
        self,
        run_id: str,
        name: str,
        candidates: Sequence[_Candidate],
        data: Data,
        splitter: Any,
        scorer: str,
    ) -> None:
        """Record all candidates without models as one pipeline."""
        facts: dict[str, Any] = {
            key: self.options[key] for key in ("target", "target_unit") if self.options[key] is not None
        }
        facts |= {"data_hash": content_hash(data.X, data.y), **self.given["stored"]}
        known = _recorded_trials(self.store, run_id)
        config = facts | {"search": {"scorer": scorer, "candidates": len(candidates)}}
        pipeline_id = self.store.begin_pipeline(
            run_id, name, config, [], self.options["dataset_name"], facts["data_hash"]
        )
        with self.store.transaction():
            for each in candidates:
                about = {"scorer": scorer, **each.told}
                trial = about.get("study"), about.get("trial")
                if each.estimator is None:
                    self.store.log_step(
                        pipeline_id, 0, "trial", "end", message=about["state"], details=about, level="warning"
                    )
                elif None not in trial and trial in known:
                    each.chain_id = known[trial]
                else:
                    each.chain_id = _save_scored(
                        self.store, pipeline_id, each.estimator, about, facts, splitter, data.wavelengths
                    )
        self.store.complete_pipeline(pipeline_id, None, None, None, None)

    def _finish(
        self,
        result: CrossValidationResult,
        candidates: Sequence[_Candidate],
        scorer: str,
        best_params: Mapping[str, Any],
        *,
        nested: bool,
    ) -> SearchRecord:
        best = json_safe(dict(best_params))
        if self.run_id is None:
            summary = {"best_params": best, "best_chain": result.chain_id, "candidates": len(candidates)}
            summary |= {"scorer": scorer, "nested": nested, "metric": result.metric, "best_val": result.value}
            self.store.complete_run(result.run_id, finite(summary))
        kinds: dict[str, Any] = {
            "score": pl.Float64, "score_sd": pl.Float64, "iter": pl.Int64, "n_resources": pl.Int64,
            "state": pl.String, "won": pl.String,
        }  # fmt: skip
        present = {name: kind for name, kind in kinds.items() if any(name in c.about for c in candidates)}
        schema = {"rank": pl.Int64, "params": pl.String, **present, "kept": pl.Boolean, "chain_id": pl.String}
        records = [
            {
                **{name: each.about.get(name) for name in present},
                "rank": each.rank or None,
                "params": ", ".join(f"{key}={value}" for key, value in json_safe(each.params).items()),
                "kept": bool(each.about.get("kept")),
                "chain_id": each.chain_id,
            }
            for each in candidates
        ]
        frame = pl.DataFrame(records, schema=schema)
        return SearchRecord(result.run_id, result.chain_id, best, scorer, frame, result, nested)


def _pairs(folds: Sequence[Fold]) -> list[tuple[Any, Any]]:
    return [(fold.train, fold.val) for fold in folds if fold.val is not None]


# -- scikit-learn's searches.


def _scorer_name(search: Any) -> str:
    scoring = search.scoring
    if isinstance(scoring, str):
        return scoring
    if scoring is None:
        kinds = ((is_classifier, "accuracy"), (is_regressor, "R2"))
        known = next((words for kind, words in kinds if kind(search.estimator)), "")
        return f"{known}, the estimator's own score".removeprefix(", ")
    if isinstance(search.refit, str):
        return search.refit
    return str(getattr(scoring, "__name__", None) or scoring)


def _fitted(search: Any, data: Data, pairs: list[tuple[Any, Any]]) -> Any:
    """Return a search that is fitted: as it is, or a copy fitted on the given folds."""
    if hasattr(search, "cv_results_"):
        known = getattr(search, "n_features_in_", data.X.shape[1])
        if known != data.X.shape[1]:
            raise ShapeMismatch(f"search: it was fitted on {known} channels, but X has {data.X.shape[1]}.")
        if search.n_splits_ != len(pairs):
            raise InvalidInput(
                f"search: it was fitted on {search.n_splits_} folds, but its cv makes {len(pairs)} of these samples. "
                "Give the X, y and groups that it was fitted on, or the search without its fit."
            )
        fitted = search
    else:
        fitted = clone(search).set_params(cv=pairs).fit(data.X, data.y)
    if not hasattr(fitted, "best_params_"):
        raise InvalidInput("search: it names no winner. Set refit to the score that chooses it.")
    return fitted


def _candidates(fitted: Any, winners: Mapping[str, list[str]] | None = None) -> list[_Candidate]:
    """Return the rows of cv_results_, the best first."""
    found = fitted.cv_results_
    # With several scores the one that chose the winner counts.
    suffix = "score" if "mean_test_score" in found else str(fitted.refit)
    candidates = []
    for place, params in enumerate(found["params"]):
        splits = [float(found[f"split{k}_test_{suffix}"][place]) for k in range(fitted.n_splits_)]
        about: dict[str, Any] = {
            "score": float(found[f"mean_test_{suffix}"][place]),
            "score_sd": float(found[f"std_test_{suffix}"][place]),
            "split_scores": json_safe(splits),
        }
        about |= {name: int(found[name][place]) for name in ("iter", "n_resources") if name in found}
        if winners is not None:
            about["won"] = ", ".join(winners.get(_text(params), []))
        estimator = clone(fitted.estimator).set_params(**clone(params, safe=False))
        candidates.append(
            _Candidate(int(found[f"rank_test_{suffix}"][place]), dict(params), about, estimator)
        )
    best = int(fitted.best_index_)
    order = sorted(range(len(candidates)), key=lambda place: (place != best, candidates[place].rank))
    return [candidates[place] for place in order]


def _text(params: Mapping[str, Any]) -> str:
    return json.dumps(json_safe(dict(params)), sort_keys=True)


def _winners(
    store: ScreeningStore, run_id: str, chain_id: str, best_params: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Return the outer folds that each candidate won, by the text of its parameters."""
    won: dict[str, list[str]] = {}
    rows = store.query_predictions(run_id=run_id, partition="val").filter(pl.col("chain_id") == chain_id)
    for row in rows.sort("prediction_id").iter_rows(named=True):
        stored = json.loads(row["best_params"] or "{}")
        won.setdefault(_text({name: stored.get(name) for name in best_params}), []).append(row["fold_id"])
    return won


# -- Optuna.


def _about_trial(study: Any, trial: Any) -> dict[str, Any]:
    return {"study": study.study_name, "trial": trial.number, "state": trial.state.name, "score": trial.value}


def _recorded_trials(store: ScreeningStore, run_id: str) -> dict[tuple[Any, Any], str]:
    """Return the chains of trials that a callback has recorded in a run, by study and number."""
    found = {}
    for chain in store.get_chains_for_run(run_id):
        about = (chain.get("metadata") or {}).get("search") or {}
        if about.get("trial") is not None:
            found[about.get("study"), about["trial"]] = str(chain["chain_id"])
    return found


def optuna_callback(
    store: ScreeningStore, run_id: str, build: Callable[[dict[str, Any]], Any], *, dataset_name: str
) -> Callable[[Any, Any], None]:
    """Return a callback for ``study.optimize`` that records each trial in a run as soon as it ends.

    Parameters
    ----------
    store : WorkspaceStore
        Where to record.
    run_id : str
        A run that is open. `record_search` with the same run adds the winner, and no trial twice.
    build : callable
        From the parameters of a trial to its estimator.
    dataset_name : str
        What the trials are about.

    Returns
    -------
    callable
        Takes study and trial.
    """

    def record(study: Any, trial: Any) -> None:
        about = {"params": json_safe(dict(trial.params)), **_about_trial(study, trial)}
        name = f"{study.study_name}, trial {trial.number}"
        pipeline_id = store.begin_pipeline(run_id, name, {"search": about}, [], dataset_name, "")
        if trial.state.name != "COMPLETE":
            store.log_step(pipeline_id, 0, "trial", "end", message=trial.state.name, level="warning")
            store.fail_pipeline(pipeline_id, f"The trial ended in the state {trial.state.name}.")
            return
        about["scorer"] = f"objective of the study {study.study_name!r}"
        _save_scored(store, pipeline_id, build(dict(trial.params)), about, {}, None, None)
        store.complete_pipeline(pipeline_id, None, None, None, None)

    return record


def _save_scored(
    store: ScreeningStore,
    pipeline_id: str,
    estimator: Any,
    about: Mapping[str, Any],
    facts: Mapping[str, Any],
    splitter: Any,
    wavelengths: Any,
) -> str:
    """Save the chain of a candidate without models."""
    parts = take_apart(estimator)
    steps = [] if splitter is None else [step_entry(1, splitter, "splitter") | {"stateless": True}]
    steps += [step_entry(place, each, "transform") for place, each in enumerate(parts.transformers, start=2)]
    last = 2 + len(parts.transformers)
    return store.save_chain(
        pipeline_id,
        [*steps, step_entry(last, parts.model, "model")],
        last,
        class_name(parts.model),
        preprocessing_of(parts),
        "per_fold",
        {},
        {},
        wavelengths=wavelengths,
        metadata={**facts, "search": finite({**about, "kept": False})},
    )
