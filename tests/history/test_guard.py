"""The guard: what must not be stored is refused before it is, in every process, and never repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from storekit import begin, chain_of

from nirs_store import WorkspaceStore
from nirs_store.audit.guard import PATIENT_KEYS
from nirs_store.audit.trail import guarded
from nirs_store.errors import CatalogDamaged, ForbiddenContent, InvalidInput

SECRET = "123-45-6789"


@pytest.fixture
def guarded_store(store: WorkspaceStore) -> WorkspaceStore:
    store.audit.guard.forbid(keys=["patient_id", "mrn"], patterns=[r"\b\d{3}-\d{2}-\d{4}\b"])
    return store


CALLS: dict[str, Callable[[WorkspaceStore, str, str], object]] = {
    "config.subject.Patient-ID": lambda s, r, p: s.begin_run("x", {"subject": {"Patient-ID": 7}}, []),
    "config.list[1].mrn": lambda s, r, p: s.begin_run("x", {"list": [0, {"mrn": None}]}, []),
    "name": lambda s, r, p: s.begin_run(f"of {SECRET}", {}, []),
    "datasets[0].who": lambda s, r, p: s.begin_run("x", {}, [{"name": "a", "who": SECRET}]),
    "expanded_config.note": lambda s, r, p: s.begin_pipeline(r, "x", {"note": SECRET}, [], "corn", ""),
    "metadata.MRN": lambda s, r, p: chain_of(s, p, metadata={"MRN": 1}),
    "note": lambda s, r, p: s.annotate_run(r, f"see {SECRET}"),
    "add_tags[0]": lambda s, r, p: s.tag_run(r, SECRET),
    "summary.best": lambda s, r, p: s.complete_run(r, {"best": SECRET}),
    "message": lambda s, r, p: s.log_step(p, 0, "x", "end", 1, message=f"of {SECRET}"),
    "details.raw": lambda s, r, p: s.log_step(p, 0, "x", "end", 1, details={"raw": SECRET}),
}


@pytest.mark.not_on("replicas", why="a guard that another computer sets binds within a second")
def test_forbidden_content_is_refused_named_and_audited(guarded_store: WorkspaceStore) -> None:
    run_id, pipeline_id = begin(guarded_store)
    for where, call in CALLS.items():
        with pytest.raises(ForbiddenContent) as caught:
            call(guarded_store, run_id, pipeline_id)
        assert str(caught.value).startswith(f"{where}: ")
        assert SECRET not in str(caught.value)
    attempts = guarded_store.audit.query(success=False)
    assert attempts.height == len(CALLS)
    assert {json.loads(details)["error"] for details in attempts["details"]} == {"forbidden_content"}
    assert SECRET not in str(attempts.to_dicts())
    counts = "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM chains), (SELECT count(*) FROM logs)"
    assert guarded_store.sql(counts).row(0) == (1, 0, 0)
    run = guarded_store.get_run(run_id) or {}
    assert (run["status"], run["note"], run["tags"]) == ("running", None, [])


def test_other_refusals_do_not_carry_it_into_the_trail(guarded_store: WorkspaceStore) -> None:
    with pytest.raises(KeyError):
        guarded_store.complete_run(SECRET, {})
    (attempt,) = guarded_store.audit.query(success=False).to_dicts()
    assert SECRET not in str(attempt)
    assert "withheld" in attempt["message"]


def test_what_is_allowed_is_recorded(guarded_store: WorkspaceStore) -> None:
    run_id, pipeline_id = begin(guarded_store)
    guarded_store.annotate_run(run_id, "measured on 2026-01-02, 12345 scans")
    chain_of(guarded_store, pipeline_id, metadata={"target": "fat", "patients": 12})
    assert guarded_store.audit.query(success=False).height == 0


@pytest.mark.not_on("replicas", why="a guard that another computer sets binds within a second")
def test_the_rules_hold_at_once_for_a_store_that_never_asks(folder: Path) -> None:
    with WorkspaceStore(folder) as recording, WorkspaceStore(folder) as other:
        recording.begin_run("x", {"mrn": 1}, [])
        other.audit.guard.forbid(keys=["mrn"])
        with pytest.raises(ForbiddenContent):
            recording.begin_run("x", {"mrn": 1}, [])
        other.audit.guard.allow(keys=["MRN"])
        recording.begin_run("x", {"mrn": 1}, [])


@pytest.mark.of_a_folder("it removes the file of the settings")
def test_the_rules_outlive_the_file_that_mirrors_them(folder: Path) -> None:
    with WorkspaceStore(folder) as store:
        store.audit.guard.forbid(keys=["mrn"])
    (folder / "journal" / "settings.json").unlink()
    with WorkspaceStore(folder) as store, pytest.raises(ForbiddenContent):
        store.begin_run("x", {"mrn": 1}, [])


@pytest.mark.of_a_folder("it damages the file of the settings")
def test_a_mirror_that_cannot_be_read_refuses_and_is_put_right(folder: Path) -> None:
    with WorkspaceStore(folder) as store:
        store.audit.guard.forbid(keys=["mrn"])
        (folder / "journal" / "settings.json").write_text("{")
        with pytest.raises(CatalogDamaged, match="guard rules are unknown"):
            store.begin_run("x", {}, [])
    with WorkspaceStore(folder) as store, pytest.raises(ForbiddenContent):
        store.begin_run("x", {"mrn": 1}, [])


def test_rules_are_listed_taken_away_and_noted(store: WorkspaceStore, folder: Path) -> None:
    guard = store.audit.guard
    guard.forbid(keys=PATIENT_KEYS, patterns=["x+"])
    guard.forbid(patterns=["x+", "y+"])
    assert guard.keys == PATIENT_KEYS
    assert guard.patterns == ("x+", "y+")
    guard.allow(patterns=["x+"], keys=["Patient ID"])
    assert "patient_id" not in guard.keys
    assert guard.patterns == ("y+",)
    guard.clear()
    assert (guard.keys, guard.patterns) == ((), ())
    assert not (folder / "journal" / "settings.json").exists()
    assert store.audit.query("set_guard").height == 4


def test_rules_that_make_no_sense_are_refused(store: WorkspaceStore) -> None:
    for wrong in ({"patterns": ["("]}, {"keys": ["--"]}, {"keys": "mrn"}, {"patterns": [1]}):
        with pytest.raises(InvalidInput):
            store.audit.guard.forbid(**wrong)  # type: ignore[arg-type]
    assert store.audit.guard.keys == ()


@pytest.mark.not_on("replicas", why="a guard that another computer sets binds within a second")
def test_a_name_that_a_pattern_refuses_is_not_repeated(store: WorkspaceStore) -> None:
    store.audit.guard.forbid(patterns=[r"\d{3}-\d{2}-\d{4}"])
    (found,) = store.audit.guard.violations({SECRET: {"a": 1}})
    assert SECRET not in found.where


def test_other_rooms_can_ask_it(guarded_store: WorkspaceStore) -> None:
    guarded(guarded_store._engine, "put_file", {"metadata": {"fine": 1}})
    with pytest.raises(ForbiddenContent):
        guarded(guarded_store._engine, "put_file", {"metadata": {"mrn": 1}}, "file", "f1")
    (attempt,) = guarded_store.audit.query(success=False).to_dicts()
    assert (attempt["operation"], attempt["object_id"]) == ("put_file", "f1")
