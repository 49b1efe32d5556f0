"""Lineage: links that follow from the store, links that people record, circles, trees and graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from historykit import put_row
from storekit import begin, chain_of, predict

from nirs_store import WorkspaceStore
from nirs_store.errors import InvalidInput, LineageCycle, UnknownId


class Things:
    """A run with a pipeline, a chain, its artifact and a prediction, and a stack made from the chain."""

    def __init__(self, store: WorkspaceStore) -> None:
        self.run, self.pipeline = begin(store, "first")
        self.artifact = store.save_artifact({"a": 1}, "builtins.dict", "model", "joblib")
        self.chain = chain_of(store, self.pipeline, self.artifact)
        self.prediction = predict(store, self.pipeline, self.chain)
        self.run2, self.pipeline2 = begin(store, "second")
        meta = store.save_artifact({"b": 2}, "builtins.dict", "meta_model", "joblib")
        source = store.get_chain(self.chain) or {}
        chain = {
            name: source[name] for name in ("steps", "model_step_idx", "fold_artifacts", "shared_artifacts")
        }
        step = {
            "step_idx": 0,
            "operator_class": "builtins.dict",
            "params": {},
            "operator_type": "model",
            "sources": [{"chain_id": self.chain, "feature": "f", "chain": chain}],
        }
        self.stack = store.save_chain(
            self.pipeline2, [step], 0, "builtins.dict", "", "single", {"final": meta}, {}
        )
        store.complete_pipeline(self.pipeline, 0.5, None, "rmse", 5)


@pytest.fixture
def things(store: WorkspaceStore) -> Things:
    return Things(store)


def found(frame: Any) -> set[tuple[str, str, str]]:
    return set(frame.select("kind", "id", "link_type").rows())


def test_links_follow_from_what_the_store_holds(store: WorkspaceStore, things: Things) -> None:
    up = store.lineage.upstream(things.prediction)
    assert found(up) == {
        ("chain", things.chain, "predicted"),
        ("pipeline", things.pipeline, "contains"),
        ("artifact", things.artifact, "used_by"),
        ("run", things.run, "contains"),
    }
    assert up["depth"].to_list() == [1, 2, 2, 3]
    down = store.lineage.downstream(("artifact", things.artifact))
    assert {("chain", things.chain, "used_by"), ("prediction", things.prediction, "predicted")} <= found(down)


def test_a_stack_came_from_its_sources(store: WorkspaceStore, things: Things) -> None:
    assert ("chain", things.chain, "stacked") in found(store.lineage.upstream(things.stack))
    assert ("chain", things.stack, "stacked") in found(store.lineage.downstream(things.chain))
    assert things.run in store.lineage.upstream(things.stack, kinds="run")["id"].to_list()


def test_an_imported_run_came_from_its_bundle(store: WorkspaceStore, things: Things, tmp_path: Path) -> None:
    path = store.export_chain(things.chain, tmp_path / "m.n4a")
    imported = store.import_bundle(path, allow_pickle=True)
    up = store.lineage.upstream(imported.chain_id, kinds=["bundle"])
    assert up.select("id", "name").rows() == [(imported.content_hash, "m.n4a")]
    assert imported.chain_id in store.lineage.downstream(imported.content_hash)["id"].to_list()
    # It was written here, so it has a source here.
    assert ("chain", things.chain, "exported") in found(store.lineage.upstream(imported.chain_id))


def test_files_and_evaluations_are_linked_by_what_their_rows_name(
    store: WorkspaceStore, things: Things
) -> None:
    def put(con: Any) -> None:
        named = {
            "run_id": things.run,
            "processing_id": "p1",
            "evaluation_id": "e1",
            "artifact_id": things.artifact,
        }
        put_row(con, "file_versions", version_id="f1", name="a/b.csv", version=1, **named)
        put_row(con, "processing_runs", processing_id="p1")
        put_row(con, "evaluations", evaluation_id="e1", chain_id=things.chain)

    store._engine.change(put)
    direct = {(link.source.kind, link.link_type) for link in store.lineage.links("file:f1")}
    assert direct == {
        ("run", "produced"),
        ("processing", "produced"),
        ("artifact", "content_of"),
        ("evaluation", "reported"),
    }
    assert ("evaluation", "e1", "evaluated") in found(store.lineage.downstream(things.chain))
    assert "a/b.csv v1" in str(store.lineage.tree(things.run, "downstream"))


def test_a_recorded_link_is_found_both_ways_and_not_doubled(store: WorkspaceStore, things: Things) -> None:
    (first,) = store.lineage.link(things.prediction, ("run", things.run2), "validated_by", {"how": "by eye"})
    assert store.lineage.link([("prediction", things.prediction)], f"run:{things.run2}", "validated_by") == [
        first
    ]
    assert ("prediction", things.prediction, "validated_by") in found(store.lineage.upstream(things.run2))
    assert things.stack in store.lineage.downstream(things.run)["id"].to_list()
    (entry, _) = store.audit.query("link").to_dicts()
    assert json.loads(entry["details"])["sources"] == [f"prediction:{things.prediction}"]


@pytest.mark.everywhere
def test_circles_are_refused_noted_and_change_nothing(store: WorkspaceStore, things: Things) -> None:
    store.lineage.link(things.prediction, things.run2)
    for source, target in (
        (things.run, things.run),
        (things.stack, things.run),
        (things.chain, things.artifact),
        ([things.pipeline2, things.stack], things.pipeline),
    ):
        with pytest.raises(LineageCycle, match="Nothing was recorded"):
            store.lineage.link(source, target)
    assert store.sql("SELECT count(*) FROM lineage_links").item() == 1
    assert store.audit.query("link", False).height == 4


def test_unlinking_takes_recorded_links_only(store: WorkspaceStore, things: Things) -> None:
    store.lineage.link(things.run, things.run2, "a")
    store.lineage.link(things.run, things.run2, "b")
    assert store.lineage.unlink(things.run, things.run2, "c") == 0
    assert store.lineage.unlink(things.run, things.run2, "a") == 1
    assert store.lineage.unlink([things.run], things.run2) == 1
    with pytest.raises(InvalidInput, match="follows from what the store holds"):
        store.lineage.unlink(things.run, things.pipeline)


def test_what_is_not_there_or_misspelt_is_refused(store: WorkspaceStore, things: Things) -> None:
    for wrong, error, words in (
        ("nothing-like-it", UnknownId, "object"),
        ("chain:nothing", UnknownId, "chain"),
        (("chian", things.chain), InvalidInput, "'chain'"),
        (("workspace", "x"), InvalidInput, "expected one of"),
        (7, InvalidInput, "int"),
    ):
        with pytest.raises(error, match=words):
            store.lineage.upstream(wrong)
    with pytest.raises(InvalidInput, match="'upstream'"):
        store.lineage.tree(things.run, "upstraem")
    with pytest.raises(InvalidInput, match="at least one"):
        store.lineage.link([], things.run)
    with pytest.raises(InvalidInput, match="link_type"):
        store.lineage.link(things.run, things.run2, " ")


def test_depth_and_number_can_be_bounded(store: WorkspaceStore, things: Things) -> None:
    assert store.lineage.upstream(things.prediction, max_depth=1)["kind"].to_list() == ["chain"]
    graph = store.lineage.graph(things.run, "downstream", limit=2)
    assert graph.truncated
    assert "and more" in str(graph)


def test_what_is_deleted_is_shown_as_gone(store: WorkspaceStore, things: Things) -> None:
    store.lineage.link(things.prediction, things.run2)
    store.delete_prediction(things.prediction, now=True)
    assert "(not here)" in str(store.lineage.tree(things.run2))


def test_a_tree_draws_what_is_met_again_once(store: WorkspaceStore, things: Things) -> None:
    lines = str(store.lineage.tree(things.chain)).splitlines()
    assert lines[0].startswith("chain ")
    assert [line for line in lines if "as above" in line]
    assert sum(f"run {things.run[-8:]}" in line for line in lines) == 1


def test_names_can_neither_steer_a_terminal_nor_become_html(store: WorkspaceStore) -> None:
    run_id = store.begin_run('\x1b[31m<b>[red]evil[/red]"|\n', {}, [])
    tree = store.lineage.tree(run_id)
    assert "\x1b" not in str(tree)
    assert "[red]evil[/red]" in str(tree)
    assert "<b>" not in tree._repr_html_()
    dot, mermaid = tree.to_dot(), tree.to_mermaid()
    assert '\\"|' in dot
    assert "#quot;|" in mermaid
    assert "<b>" not in mermaid


def test_graphs_name_every_thing_and_link(store: WorkspaceStore, things: Things) -> None:
    store.lineage.link(things.run, things.run2, "continued_by")
    graph = store.lineage.graph(things.chain, "both")
    dot = store.lineage.to_dot(things.chain)
    assert dot.startswith("digraph lineage {")
    assert dot.count(" -> ") == len(graph.links)
    assert dot.count("style=dashed") == len(graph.links)
    mermaid = store.lineage.to_mermaid(things.run2, "upstream")
    assert mermaid.startswith("flowchart LR\n")
    assert '-->|"continued_by"|' in mermaid
    assert graph.to_dict()["root"] == f"chain:{things.chain}"
