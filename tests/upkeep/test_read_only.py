"""Where nothing may be written, every question, replay, check and export is answered, and no file is made."""

from __future__ import annotations

import os
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from upkeepkit import Sample, tree

from nirs_store.datasets import load_tecator
from nirs_store.errors import NirsStoreError, ReadOnlyStore
from nirs_store.store import WorkspaceStore

_NOBODY = 65534


def every_answer(folder: Path, options: dict[str, Any], out: Path) -> dict[str, Any]:
    """What can be asked of a store without writing into it."""
    X = load_tecator().X[40:44]
    with warnings.catch_warnings(record=True) as said, WorkspaceStore(folder, **options) as store:
        warnings.simplefilter("always")
        runs, pipelines, predictions = store.list_runs(), store.list_pipelines(), store.query_predictions()
        chains = [
            key for p in pipelines["pipeline_id"] for key in store.get_chains_for_pipeline(p)["chain_id"]
        ]
        artifacts = store.sql("SELECT artifact_id FROM artifacts ORDER BY 1")["artifact_id"].to_list()
        arrays = store.get_prediction_arrays(predictions["prediction_id"].to_list())
        found = {
            "frames": [frame.rows() for frame in (runs, pipelines, predictions)],
            "best": [store.top_predictions(5).rows(), store.top_chains(5).rows()],
            "pivot": store.pivot().to_markdown(),
            "runs": [store.get_run(key) for key in runs["run_id"]],
            "logs": [store.get_pipeline_log(key).rows() for key in pipelines["pipeline_id"]],
            "arrays": {key: np.asarray(value["y_pred"]).tobytes() for key, value in arrays.items()},
            "artifacts": [(store.get_artifact(key), store.read_artifact(key)) for key in artifacts],
            "loaded": [type(store.load_artifact(key)).__name__ for key in artifacts],
            "replayed": [store.replay_chain(key, X).tobytes() for key in chains],
            "checked": store.check(read_data=True).errors,
            "repair": len(store.repair(dry_run=True).bad_blobs),
            "gc": store.gc_artifacts(dry_run=True).files,
            "deletion": store.delete_run(runs["run_id"][0], dry_run=True).artifacts,
            "exported": [
                store.export_chain(chains[0], out / "model.n4a").stat().st_size > 0,
                store.export_run(runs["run_id"][0], out / "run.yaml").read_bytes(),
                store.export_pipeline_config(pipelines["pipeline_id"][0], out / "p.json").read_bytes(),
                store.export_predictions_parquet(out / "p.parquet", include_arrays=True).stat().st_size > 0,
            ],
        }
        refused = []
        for change in (
            lambda: store.begin_run("r", {}, []),
            lambda: store.delete_run(runs["run_id"][0], now=True),
            store.gc_artifacts,
            store.vacuum,
            store.repair,
        ):
            with pytest.raises(ReadOnlyStore):
                change()
            refused.append(change)
    found["said"] = sorted({str(warning.message) for warning in said if "journal" in str(warning.message)})
    return found


def as_somebody_who_may_not_write(talk: Any, folder: Path, out: Path) -> Any:
    """Answer everything as a user without a right to write there."""
    # Everything that an answer imports lies where this user may read, and the other perhaps not.
    every_answer(folder, {"read_only": True}, out)
    for path in out.iterdir():
        path.unlink()
    if os.geteuid() == 0:
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    return every_answer(folder, {}, out)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that another user may enter: pytest closes its own to others, also while tests run."""
    with tempfile.TemporaryDirectory(prefix="nirs-store-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def open_to_all_and_writable_by_none(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222 | (0o555 if path.is_dir() else 0o444))


@pytest.mark.skipif(
    not hasattr(os, "geteuid"), reason="this system has no rights that a test could take away"
)
def test_everything_that_needs_no_writing_works_in_a_folder_that_cannot_be_written(
    recorded: Sample, crew: Callable[..., Any], public: Path
) -> None:
    sample = recorded.copy_to(public / "workspace")
    out = public / "out"
    out.mkdir()
    out.chmod(0o777)
    open_to_all_and_writable_by_none(sample.path)
    before = tree(sample.path)
    found = crew(as_somebody_who_may_not_write, sample.path, out).hear()
    assert tree(sample.path) == before
    for path in (sample.path, *sample.path.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    waiting = len(sample.segments())
    assert waiting > 0
    (told,) = found["said"]
    assert f"{waiting} commits in its journal or inbox could not be applied" in told
    assert len(found["replayed"]) == 2
    assert (found["checked"], found["gc"], found["repair"]) == ((), (), 0)
    assert len(found["frames"][2]) == len(found["arrays"]) == 4


def test_a_store_opened_read_only_gives_the_answers_that_a_writer_gives(
    sample: Sample, tmp_path: Path
) -> None:
    with WorkspaceStore(sample.path) as store:
        store.list_runs()
    before = tree(sample.path)
    reader = every_answer(sample.path, {"read_only": True}, tmp_path)
    assert tree(sample.path) == before
    assert reader["said"] == []
    assert len(reader["replayed"]) == len(sample.chains)
    with WorkspaceStore(sample.path) as store:
        X = load_tecator().X[40:44]
        found = {store.replay_chain(chain, X).tobytes() for chain in sample.chains.values()}
        assert found == set(reader["replayed"])
        assert store.list_runs().rows() == reader["frames"][0]


def test_a_new_workspace_is_not_made_where_nothing_may_be_written(tmp_path: Path) -> None:
    with pytest.raises(NirsStoreError, match="Nothing was changed"):
        WorkspaceStore(tmp_path / "none", read_only=True)
    assert list(tmp_path.iterdir()) == []
