"""The guard and retention on files as they are really stored."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from storekit import blob_root

from nirs_store import WorkspaceStore
from nirs_store.errors import ForbiddenContent
from nirs_store.history.policy import keep_top_k, limit


def test_what_is_said_of_a_file_goes_past_the_guard(store: WorkspaceStore) -> None:
    store.audit.guard.forbid(keys=["mrn"], patterns=["secret-[0-9]"])
    for name, about in (
        ("a.txt", {"metadata": {"deep": [{"MRN": 1}]}}),
        ("a.txt", {"tags": ["secret-1"]}),
        ("secret-2.txt", {}),
        ("a.txt", {"module": "secret-3"}),
    ):
        with pytest.raises(ForbiddenContent):
            store.files.put(b"x", name, type="report", **about)  # type: ignore[arg-type]
    store.files.put(b"x", "a.txt", type="report")
    with pytest.raises(ForbiddenContent):
        store.files.set_status("a.txt", "failed", "of secret-4")
    failed = store.audit.query(success=False)
    assert failed.height == 5
    assert re.search(r"secret-\d", str(failed.to_dicts())) is None
    assert store.files.list()["name"].to_list() == ["a.txt"]
    assert len([path for path in (blob_root(store) / "artifacts").rglob("*") if path.is_file()]) == 1


def test_versions_that_go_leave_the_rest_of_their_series_in_order(
    store: WorkspaceStore, folder: Path
) -> None:
    for text in ("one", "two", "three"):
        store.files.put(text.encode(), "notes.txt", type="report", mode="test")
    kept = store.files.path("notes.txt")
    rows = store.files.versions("notes.txt")
    newest = rows.sort("version")["version_id"][-1]
    store.retention.pin(("file", rows.sort("version")["version_id"][0]))
    plan = store.retention.plan(limit(on="file", max_count=0))
    assert {held.reason for held in plan.held} == {"it is pinned"}
    assert newest in [item.id for item in plan.take]
    result = store.retention.execute(plan)
    assert result.taken == rows.height - 1
    # What the name means is the newest that is left, and nothing of the others' content is.
    assert store.files.get("notes.txt") == b"one"
    assert not kept.exists()
    assert store.check(read_data=True).ok
    store.files.put(b"four", "notes.txt", type="report", mode="test")
    assert store.files.versions("notes.txt")["version"].max() > rows["version"].max()


def test_members_of_a_group_stay_with_it(store: WorkspaceStore) -> None:
    group = store.files.put_group("model", {"weights": b"1", "config": b"2"}, type="model_checkpoint")
    store.retention.pin(("file", group.version_id))
    plan = store.retention.plan(limit(on="file", max_count=0, type="model_checkpoint"))
    assert plan.take == ()
    assert sum("the group model holds it" in held.reason for held in plan.held) == 2


def test_the_best_files_by_their_metadata_stay(store: WorkspaceStore) -> None:
    for name, value in (("a", 0.5), ("b", 0.9), ("c", None)):
        store.files.put(name.encode(), f"{name}.txt", type="report", metadata={"auc": value})
    rule = keep_top_k(1, "auc", on="file", higher_is_better=True)
    assert {item.name for item in store.retention.plan(rule).take} == {"a.txt v1", "c.txt v1"}
