"""Reads are audited where a workspace asks for it; a champion can be set by its score alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from sklearn.cross_decomposition import PLSRegression

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
from nirs_store.errors import InvalidInput

MEAT = load_tecator()


def operations(store: WorkspaceStore) -> list[str]:
    return store.audit.query()["operation"].to_list()


def test_reads_are_noted_once_asked_for_and_by_every_process(tmp_path: Path) -> None:
    reads = ("replay_chain", "predictor", "load_artifact", "get")
    with WorkspaceStore(tmp_path / "ws") as store:
        result = record_cross_validation(
            store, PLSRegression(2), MEAT.X[:30], MEAT.fat[:30], cv=3, dataset_name="m"
        )
        artifact = store.get_chain(result.chain_id)["fold_artifacts"]["final"]  # type: ignore[index]
        store.files.put(b"dried at 60 degrees", "note.txt", type="configuration")

        def read_everything(opened: WorkspaceStore) -> None:
            opened.replay_chain(result.chain_id, MEAT.X[:2])
            opened.predictor(result.chain_id)
            opened.load_artifact(artifact)
            opened.read_artifact(artifact)
            opened.files.get("note.txt")

        read_everything(store)
        assert not set(operations(store)) & set(reads)
        assert not store.audit.reads
        store.audit.switch(True, reads=True)
        with WorkspaceStore(tmp_path / "ws") as other:
            read_everything(other)
        noted = operations(store)
        assert [noted.count(name) for name in reads] == [1, 1, 2, 1]
        assert store.audit.verify().ok
        replayed = store.audit.query("replay_chain").row(0, named=True)
        assert (replayed["object_kind"], replayed["object_id"]) == ("chain", result.chain_id)
        store.audit.switch(True)
        read_everything(store)
        assert operations(store).count("replay_chain") == 1
        with pytest.raises(InvalidInput, match="reads only with on=True"):
            store.audit.switch(False, reads=True)


@pytest.mark.everywhere
def test_a_champion_is_set_by_its_score_alone(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path / "ws") as store:
        store.evaluations.record("old", "harvest", {"rmse": 0.9}, metric="rmse", better="lower")
        store.evaluations.set_champion(
            model_id="vendor model",
            suite="harvest",
            metric="rmse",
            value=0.7,
            note="from the vendor's report",
        )
        champion = store.evaluations.champions("harvest").row(0, named=True)
        assert (champion["model_id"], champion["value"]) == ("vendor model", 0.7)
        assert champion["note"] == "from the vendor's report"
        kept = store.evaluations.get(champion["evaluation_id"])
        assert kept["tags"] == ["by hand"]
        before = store.evaluations.list().height
        with pytest.raises(InvalidInput, match="value missing"):
            store.evaluations.set_champion(model_id="x", suite="harvest", metric="rmse")
        with pytest.raises(InvalidInput, match="not both"):
            store.evaluations.set_champion(champion["evaluation_id"], value=1.0)
        with pytest.raises(InvalidInput, match="rank"):
            store.evaluations.set_champion(model_id="x", suite="harvest", metric="rmse", value=1, rank=0)
        for value in (float("nan"), float("inf"), "1.0", True):
            count = store.evaluations.list().height
            with pytest.raises(InvalidInput, match="finite number"):
                store.evaluations.set_champion(model_id="x", suite="harvest", metric="rmse", value=value)
            assert store.evaluations.list().height == count
        assert store.evaluations.list().height == before
