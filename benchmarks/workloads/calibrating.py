"""W11 to W13: screening and choosing, diagnosing, training curves; each in turn with the bare computation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.base import clone
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from benchmarks import fixture
from benchmarks.clock import alternately, timed
from benchmarks.sizes import Size
from nirs_store import WorkspaceStore, record_cross_validation
from nirs_store.recording.crossval import domain_of_results
from nirs_store.recording.folds import FINAL, Job, fit_fold
from nirs_store.recording.inputs import Fold, check_data
from nirs_store.screening.preprocessing import named_preprocessings

_FOLDS = KFold(8, shuffle=True, random_state=0)


def screening(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """Seconds of a screening, and of cross_val_predict and a refit of each candidate; then of a suggestion."""
    X, y = fixture.spectra(80, 700, 31)
    names = [f"sg{order}({window},2)" for window in range(5, 39, 2) for order in (1, 2, 0)]
    names = names[: size.screened[0]]
    numbers = range(1, size.screened[1] + 1)
    found = {"candidates": float(len(names) * len(numbers))}
    # A first small round: imports and the pages of the libraries are paid for before the clock starts.
    with WorkspaceStore(folder / "warm") as store:
        store.screen(
            X, y, preprocess=names[0], components=[1, 2], cv=_FOLDS, dataset_name="corn", keep="best"
        )
    _each(X, y, names[:1], range(1, 3))
    with WorkspaceStore(folder / "screen") as store:

        def screen() -> None:
            store.screen(
                X, y, preprocess=names, components=numbers, cv=_FOLDS, dataset_name="corn", keep="best"
            )

        found["screen_s"] = timed(screen)
        found["bare_s"] = timed(lambda: _each(X, y, names, numbers))
        run_id = store.list_runs()["run_id"][0]
        choices: list[object] = []
        found["suggest_s"] = timed(lambda: choices.extend(store.suggest_components(run_id)))  # type: ignore[arg-type]
        if len(choices) != len(names):
            raise SystemExit(f"{len(choices)} suggestions for {len(names)} preprocessings")
    return found


def _each(X: np.ndarray, y: np.ndarray, names: list[str], numbers: range) -> None:
    """Do what a person would do by hand, with the same splits and one worker."""
    for steps in named_preprocessings(names).values():
        for n in numbers:
            model = make_pipeline(*steps, PLSRegression(n, scale=False))
            cross_val_predict(model, X, y, cv=_FOLDS)
            model.fit(X, y)


def diagnosing(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """Milliseconds to diagnose many spectra, and to compute predictions, T2 and Q in numpy; then of the domain."""
    X, y = fixture.spectra(80, 700, 31)
    new = np.tile(X, (size.diagnosed // len(X) + 1, 1))[: size.diagnosed]
    measured = np.tile(y, size.diagnosed // len(y) + 1)[: size.diagnosed]
    pls = PLSRegression(8, scale=False).fit(X, y)
    spread = np.asarray(pls.x_scores_).std(axis=0, ddof=1)

    def bare() -> None:
        pls.predict(new)
        scores = pls.transform(new)
        ((scores / spread) ** 2).sum(axis=1)
        ((new - pls._x_mean - scores @ pls.x_loadings_.T) ** 2).sum(axis=1)

    with WorkspaceStore(folder / "diagnose") as store:
        chain = record_cross_validation(store, clone(pls), X, y, cv=_FOLDS, dataset_name="corn").chain_id
        ours, direct = alternately(3, lambda: store.diagnose(chain, new, measured, calibration=X), bare)
        found = {"spectra": float(size.diagnosed), "diagnose_ms": 1e3 * ours, "bare_ms": 1e3 * direct}
        return found | _domain(store, min(500, size.diagnosed), min(1000, size.diagnosed))


def _domain(store: WorkspaceStore, calibrated: int, predicted: int) -> dict[str, float]:
    """Milliseconds of ten folds with their domain and without, of recording them, and of predictions with details."""
    X, y = fixture.spectra(calibrated, 700, 32)
    model, folds = PLSRegression(8, scale=False), KFold(10, shuffle=True, random_state=0)
    data = check_data(X, y, task_type="regression")
    of_folds = [Fold(f"fold_{k}", *rows) for k, rows in enumerate(folds.split(X))]
    nothing: Any = None  # no model is kept, so no store is asked

    def fit(domain: Literal["refit", "no"]) -> None:
        job = Job(model, data, "", "joblib", keep="nothing", domain=domain)
        done = [fit_fold(nothing, job, each) for each in [*of_folds, Fold(FINAL, np.arange(len(X)), None)]]
        if domain != "no":
            domain_of_results(data, "regression", of_folds, done).to_bytes()

    def record() -> str:
        return record_cross_validation(store, model, X, y, cv=folds, dataset_name="domain").chain_id

    with_it, without, recorded = alternately(5, lambda: fit("refit"), lambda: fit("no"), record)
    predictor = store.predictor(record())
    new = np.tile(X, (predicted // len(X) + 1, 1))[:predicted]
    details, bare, single = alternately(
        20,
        lambda: predictor.predict_details(new, on_outlier="ignore"),
        lambda: predictor.predict(new),
        lambda: predictor.predict_details(new[:1], on_outlier="ignore"),
    )
    times = {"folds": with_it, "folds_bare": without, "recorded": recorded}
    times |= {"details": details, "predict": bare, "single": single}
    return {f"{name}_ms": 1e3 * seconds for name, seconds in times.items()}


def curves(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """Microseconds a point by log_metric, and as a flushed line of JSON; then all at once, and read back."""
    values = np.exp(-np.arange(size.points) / size.points).tolist()
    with WorkspaceStore(folder / "curves") as store:
        pipeline = store.begin_pipeline(store.begin_run("net", {}, ["corn"]), "net", {}, [], "corn", "")

        def one_by_one() -> None:
            for step, value in enumerate(values):
                store.log_metric(pipeline, "loss", value, step)
            store.flush()

        def lines() -> None:
            with (folder / "curve.jsonl").open("w") as file:
                for step, value in enumerate(values):
                    file.write(json.dumps({"name": "loss", "step": step, "value": value}) + "\n")
                    file.flush()

        def at_once() -> None:
            store.log_metrics(pipeline, "accuracy", values)
            store.flush()

        found = {"points": float(size.points), "point_us": 1e6 * timed(one_by_one) / size.points}
        found["line_us"] = 1e6 * timed(lines) / size.points
        found["at_once_ms"] = 1e3 * timed(at_once)
        heights: list[int] = []
        found["read_ms"] = 1e3 * timed(lambda: heights.append(store.get_metrics(pipeline, "loss").height))
        if heights != [size.points]:
            raise SystemExit(f"{heights[0]} points of {size.points} came back")
    return found
