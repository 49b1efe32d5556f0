"""The storage report: bytes by place and kind, what deduplication saved, the largest runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nirs_store.store import WorkspaceStore


def _record(store: WorkspaceStore, run: str, payload: bytes, y_true: np.ndarray) -> str:
    """One pipeline: a scaler that all runs share, a model, a prediction."""
    pipeline = store.begin_pipeline(run, "p", {}, [], "corn", "0")
    scaler = store.save_artifact(b"s" * 300, "S", "transformer", "bytes")
    model = store.save_artifact(payload, "M", "model", "bytes")
    chain = store.save_chain(
        *(pipeline, [{"step_idx": 0, "operator_class": "S"}, {"step_idx": 1, "operator_class": "M"}]),
        *(1, "M", "S", "per_fold", {"fold_0": model}, {"0": [scaler]}),
    )
    prediction = store.save_prediction(
        *(pipeline, chain, "corn", "M", "M", "fold_0", "val", 0.1, None, None, "rmse", "regression"),
        *(len(y_true), 5, {}, {}, None, None, 0, 0.0),
    )
    store.save_prediction_arrays(prediction, y_true, y_true + len(payload))
    store.complete_pipeline(pipeline, 0.1, None, "rmse", 1)
    return chain


def _two_runs(store: WorkspaceStore) -> tuple[str, str]:
    y_true = np.arange(50.0)
    small, large = store.begin_run("small", {}, []), store.begin_run("large", {}, [])
    _record(store, small, b"a" * 1000, y_true)
    _record(store, large, b"b" * 5000, y_true)
    _record(store, large, b"c" * 7000, y_true)
    return small, large


def test_bytes_by_kind_and_what_storing_nothing_twice_saved(store: WorkspaceStore) -> None:
    _two_runs(store)
    kinds = {kind.kind: kind for kind in store.storage_report().kinds}
    assert (kinds["model"].stored, kinds["model"].bytes, kinds["model"].saved_bytes) == (3, 13_000, 0)
    # Saved three times, stored once.
    assert (kinds["transformer"].bytes, kinds["transformer"].saved_bytes) == (300, 600)
    # One y_true for three predictions, and a y_pred for each.
    assert (kinds["arrays"].stored, kinds["arrays"].bytes, kinds["arrays"].saved_bytes) == (4, 1600, 800)
    assert store.storage_report().saved_bytes == 1400


def test_the_largest_runs_come_first_and_say_what_they_alone_need(store: WorkspaceStore) -> None:
    small, large = _two_runs(store)
    first, second = store.storage_report().largest_runs
    assert (first.run_id, first.name) == (large, "large")
    assert (first.bytes, first.own_bytes) == (12_000 + 300 + 3 * 400, 12_000 + 2 * 400)
    assert (second.run_id, second.bytes, second.own_bytes) == (small, 1000 + 300 + 2 * 400, 1000 + 400)
    assert [run.run_id for run in store.storage_report(runs=1).largest_runs] == [large]


def test_unreferenced_bytes_are_those_that_a_gc_removes(store: WorkspaceStore) -> None:
    small, _ = _two_runs(store)
    assert store.storage_report().unreferenced_bytes == 0
    store.delete_run(small, delete_artifacts=False, now=True)
    expected = store.gc_artifacts(dry_run=True)
    report = store.storage_report()
    assert report.unreferenced_bytes == expected.bytes + expected.unused_array_bytes >= 1000
    store.gc_artifacts()
    assert store.storage_report().unreferenced_bytes == 0


def test_places_add_up_to_the_files_on_disk(folder: Path) -> None:
    with WorkspaceStore(folder) as store:
        _two_runs(store)
    with WorkspaceStore(folder, read_only=True) as store:
        report = store.storage_report()
        on_disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert report.total_bytes == on_disk
    assert report.files["artifacts"] == 13_300


def test_an_empty_store_has_a_report(store: WorkspaceStore) -> None:
    report: dict[str, Any] = store.storage_report().to_dict()
    assert (report["saved_bytes"], report["largest_runs"], report["unreferenced_bytes"]) == (0, [], 0)
