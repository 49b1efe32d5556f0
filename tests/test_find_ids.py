"""Whole ids from a part of one."""

from __future__ import annotations

import pytest

from nirs_store.errors import InvalidInput
from nirs_store.store import WorkspaceStore


def test_ids_of_every_kind_are_found_by_their_beginning_and_end(store: WorkspaceStore) -> None:
    run_id = store.begin_run("a", {}, [])
    pipeline_id = store.begin_pipeline(run_id, "p", {}, [], "d", "h")
    artifact_id = store.save_artifact([1, 2], "builtins.list", "other", "joblib")
    for kind, identifier in (("run", run_id), ("pipeline", pipeline_id), ("artifact", artifact_id)):
        assert store.find_ids(identifier[-12:]).rows() == [(kind, identifier)]
        assert (kind, identifier) in store.find_ids(identifier[:30]).rows()
        assert store.find_ids(identifier[4:-4]).is_empty()
    assert store.find_ids(run_id[-8:], ["pipeline"]).is_empty()
    assert store.find_ids(run_id[-8:], "run")["id"].to_list() == [run_id]
    assert store.find_ids(run_id, []).columns == ["kind", "id"]


def test_kinds_come_in_the_order_asked_for_and_no_more_than_the_limit(store: WorkspaceStore) -> None:
    runs = [store.begin_run("a", {}, []) for _ in range(3)]
    pipelines = [store.begin_pipeline(runs[0], "p", {}, [], "d", "h") for _ in range(3)]
    found = store.find_ids("0", ["pipeline", "run"], limit=2)
    assert found.rows() == [("pipeline", each) for each in pipelines[:2]] + [
        ("run", each) for each in runs[:2]
    ]
    assert store.find_ids("0", limit=None).height == 6


@pytest.mark.parametrize("part", ["%", "_", "' OR 1 = 1 --", "*"])
def test_no_character_is_a_wildcard(part: str, store: WorkspaceStore) -> None:
    store.begin_run("a", {}, [])
    assert store.find_ids(part).is_empty()


def test_what_cannot_be_part_of_an_id_is_refused(store: WorkspaceStore) -> None:
    for part in ("", None, 7):
        with pytest.raises(InvalidInput, match="part"):
            store.find_ids(part)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="Did you mean 'chain'"):
        store.find_ids("abcd", ["chains"])
    with pytest.raises(InvalidInput, match="limit"):
        store.find_ids("abcd", limit=-1)
