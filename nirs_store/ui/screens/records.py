"""The other lists: files, evaluations, champions, lineage, audit trail, retention, backups, trash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup, escape

from nirs_store.display import printable
from nirs_store.errors import UnknownId, shortened
from nirs_store.ids import is_id
from nirs_store.lazy import polars as pl
from nirs_store.store import WorkspaceStore
from nirs_store.ui.frame import Request, Screen, View, address
from nirs_store.ui.table import Column, cut_of, list_of, table_of, to
from nirs_store.values import from_json

# -- A lineage drawn as boxes in columns: what it came from on the left, what it led to on the right.

_WIDE, _HIGH, _GAP, _ROW = 190, 38, 60, 52
BOXES = 60


def lineage_graph(graph: Any) -> Markup:
    """Return a `LineageGraph` as SVG; each box leads to the lineage of its thing."""
    sides = _sides(graph)
    refs = sorted(graph.depths, key=lambda ref: (sides[ref], ref.kind, ref.id))[:BOXES]
    columns: dict[int, list[Any]] = {}
    for ref in refs:
        columns.setdefault(sides[ref], []).append(ref)
    order = sorted(columns)
    tallest = max(len(each) for each in columns.values())
    place = {
        ref: (10 + order.index(side) * (_WIDE + _GAP), 10 + row * _ROW + (tallest - len(found)) * _ROW / 2)
        for side, found in columns.items()
        for row, ref in enumerate(found)
    }
    width, height = 20 + len(order) * (_WIDE + _GAP) - _GAP, 20 + tallest * _ROW
    parts = [
        f'<svg class="figure graph" viewBox="0 0 {width} {height}" width="{width}" role="group" aria-label="Lineage">'
    ]
    for link in graph.links:
        # Within a column only recorded links are drawn: what the parts of one object need of each other is not news.
        apart = link.link_id or sides.get(link.source) != sides.get(link.target)
        if apart and link.source in place and link.target in place:
            (x1, y1), (x2, y2) = place[link.source], place[link.target]
            left, right = (x1 + _WIDE, x2) if x1 <= x2 else (x1, x2 + _WIDE)
            middle, y1, y2 = (left + right) / 2, y1 + _HIGH / 2, y2 + _HIGH / 2
            path = f"M{left:.0f} {y1:.0f}C{middle:.0f} {y1:.0f} {middle:.0f} {y2:.0f} {right:.0f} {y2:.0f}"
            dashed = "" if link.link_id else " dashed"
            parts.append(
                f'<path class="line faint{dashed}" d="{path}"><title>{escape(printable(link.link_type))}</title></path>'
            )
    for ref, (x, y) in place.items():
        name = printable(str(graph.names.get(ref) or "gone"))
        mark = " root" if ref == graph.root else ""
        parts.append(
            f'<a href="{escape(address("/lineage", id=ref.id))}"><rect class="box{mark}" x="{x:.0f}" y="{y:.0f}" '
            f'width="{_WIDE}" height="{_HIGH}" rx="6"><title>{escape(shortened(name, 400))}</title></rect>'
            f'<text class="name" x="{x + 8:.0f}" y="{y + 16:.0f}">{escape(shortened(name, 27))}</text>'
            f'<text x="{x + 8:.0f}" y="{y + 31:.0f}">{escape(ref.kind)} {escape(ref.id[-8:])}</text></a>'
        )
    return Markup("".join([*parts, "</svg>"]))


def _sides(graph: Any) -> dict[Any, int]:
    """Return for each thing how many links to the right of the root it is; to the left is negative."""
    sides = {graph.root: 0}
    waiting = [graph.root]
    while waiting:
        ref = waiting.pop(0)
        for link in graph.links:
            for end, other, step in ((link.source, link.target, 1), (link.target, link.source, -1)):
                if end == ref and other not in sides:
                    sides[other] = sides[ref] + step
                    waiting.append(other)
    return {ref: sides.get(ref, 0) for ref in graph.depths}


_MOST = 20_000
_LINKS = 2000
_HIDDEN = ("version_id", "episode", "module", "module_version", "processing_id", "evaluation_id")


def _list(title: str, read: Callable[[WorkspaceStore], pl.DataFrame], columns: Sequence[Column], empty: str,
          words: str = "", *, which: str = "newest", counted: str = "") -> Screen:  # fmt: skip
    """Return a screen that is one list, at the address of its title; `counted` counts a long one."""
    path = title.lower().replace(" trail", "")

    def show(request: Request) -> View:
        frame = read(request.store)
        cut = cut_of(request.store, frame, _MOST, counted, which) if counted else None
        return list_of(request, title, frame, columns, words, empty=empty, name=path, cut=cut)

    return Screen(f"/{path}", show, title)


def _thing(row: Any) -> str:
    """Return where a thing of the audit trail or of a lineage is shown."""
    places = {"run": "runs", "chain": "chains", "pipeline": "pipelines", "prediction": "predictions",
              "dataset": "datasets", "calibration": "calibrations"}  # fmt: skip
    kind, identifier = row["object_kind"], row["object_id"]
    # What failed may have been noted under a name that nothing has.
    return f"/{places[kind]}/{identifier}" if kind in places and identifier and is_id(identifier) else ""


_FILES = (
    Column("name", link=lambda row: address("/files/versions", name=row["name"], test_name=row["test_name"])),
    Column("version", kind="whole"), Column("type"), Column("kind"), Column("status", kind="status"), Column("mode"),
    Column("size_bytes", "Size", "bytes"), Column("stored_bytes", "Stored", "bytes", hidden=True), Column("tags"),
    Column("created_at", "Put", "time"), Column("run_id", "Run", "id", link=to("/runs", "run_id")),
    Column("message", hidden=True), Column("test_name", "Test", hidden=True), Column("suite", hidden=True),
    Column("metadata", hidden=True), Column("content_hash", "Hash", "id", hidden=True),
)  # fmt: skip
_EVALUATIONS = (
    Column("model_id", "Model", longest=36), Column("suite"), Column("metric"),
    Column("value", "Score", "number"), Column("status", kind="status"), Column("success_rate", "Success", "number"),
    Column("n_episodes", "Episodes", "whole"), Column("n_samples", "Samples", "whole"), Column("tags"),
    Column("chain_id", "Chain", "id", link=to("/chains", "chain_id")), Column("created_at", "Recorded", "time"),
    Column("scores", longest=80, hidden=True), Column("message", hidden=True),
    Column("evaluation_id", "Id", "id", hidden=True),
)  # fmt: skip
_CHAMPIONS = (
    Column("suite"), Column("metric"), Column("rank", kind="whole"), Column("model_id", "Model"),
    Column("value", "Score", "number"), Column("previous_model", "Before"), Column("improvement", kind="number"),
    Column("chosen_by"), Column("note"), Column("made_at", "Since", "time"),
)  # fmt: skip
_AUDIT = (
    Column("number", "#", "whole"), Column("made_at", "When", "time"), Column("user"), Column("host"),
    Column("operation"), Column("object_kind", "Kind"), Column("object_id", "Object", "id", link=_thing),
    Column("success", "Done"), Column("message", longest=80), Column("details", longest=80),
    Column("pid", "Process", hidden=True), Column("entry_hash", "Hash", "id", hidden=True),
)  # fmt: skip
_TRASH = (
    Column("name"), Column("kind"), Column("operation"), Column("rows", kind="whole"),
    Column("size_bytes", "Size", "bytes"),
    Column("deleted_at", "Deleted", "time"), Column("until", "Kept until", "time"), Column("object_id", "Id", "id"),
)  # fmt: skip
_LINEAGE = (
    Column("source_kind", "From"),
    Column("source_id", "From id", "id", link=lambda row: address("/lineage", id=row["source_id"])),
    Column("link_type", "Link"), Column("target_kind", "To"),
    Column("target_id", "To id", "id", link=lambda row: address("/lineage", id=row["target_id"])),
    Column("created_at", "Recorded", "time"),
)  # fmt: skip
_BACKUPS = (
    Column("created_at", "Made", "time"), Column("path", longest=80), Column("size_bytes", "Size", "bytes"),
    Column("n_blobs", "Objects", "whole"), Column("status", kind="status"), Column("backup_id", "Id", "id"),
)  # fmt: skip
_PLANNED = (
    Column("kind"), Column("name"), Column("why", "Why it would go", longest=100), Column("bytes", "Size", "bytes"),
    Column("object_kind", hidden=True), Column("object_id", "Id", "id", link=_thing),
)  # fmt: skip
_PINS = (
    Column("object_kind", "Kind"), Column("object_id", "Id", "id", link=_thing), Column("reason"),
    Column("made_at", "Since", "time"),
)  # fmt: skip


def _evaluations(store: WorkspaceStore) -> pl.DataFrame:
    frame = store.evaluations.list(limit=_MOST).reverse()
    values = [_score(scores, metric) for scores, metric in zip(frame["scores"], frame["metric"], strict=True)]
    return frame.with_columns(value=pl.Series(values, dtype=pl.Float64))


def _score(scores: str | None, metric: str) -> float | None:
    found = (from_json(scores) or {}).get(metric)
    found = found.get("value", found.get("mean")) if isinstance(found, dict) else found
    return float(found) if isinstance(found, int | float) else None


def versions(request: Request) -> View:
    """List the versions of a file, with what became of it."""
    name, test = request.text("name"), request.text("test_name") or None
    frame = request.store.files.versions(name, test_name=test)
    if not frame.height:
        raise UnknownId("file", name)
    columns = [
        Column(each, kind="bytes" if each.endswith("_bytes") else "text", hidden=each in _HIDDEN)
        for each in frame.columns
    ]
    return list_of(
        request, name, frame, columns, "Every version of this file, newest first.", name="versions"
    )


def lineage(request: Request) -> View:
    """Show where a thing came from and what it led to."""
    store, asked = request.store, request.text("id")
    links = store.sql(
        "SELECT source_kind, source_id, link_type, target_kind, target_id, created_at FROM lineage_links "
        "ORDER BY created_at DESC LIMIT $most",
        {"most": _LINKS},
    )
    cut = cut_of(store, links, _LINKS, "SELECT count(*) FROM lineage_links")
    table = table_of(request, links, _LINEAGE, empty="No link was recorded.", name="lineage", cut=cut)
    graph = store.lineage.graph(asked, max_depth=3) if asked else None
    values = {"table": table, "boxes": BOXES, "asked": asked, "graph": graph, "drawn": "", "place": ""}
    if graph:
        place = _thing({"object_kind": graph.root.kind, "object_id": graph.root.id})
        values |= {"drawn": lineage_graph(graph), "place": place}
    return View("lineage.html", "Lineage", values, data={"links": links, "graph": graph}, table=table)


def retention(request: Request) -> View:
    """Show the policy, the pins and what would go now."""
    kept = request.store.retention
    policy, plan, pins = kept.policy, kept.plan(), kept.pins()
    rows = [vars(each) | {"object_kind": each.kind, "object_id": each.id} for each in plan.take]
    table = table_of(request, rows, _PLANNED, empty="Nothing would go.", name="retention")
    shown = table_of(request, pins, _PINS, prefix="p_", empty="Nothing is pinned.")
    values = {"table": table, "pins": shown, "policy": policy, "plan": plan}
    return View("retention.html", "Retention", values, table=table,
                data={"policy": policy, "plan": plan, "pins": shown})  # fmt: skip


SCREENS = (
    _list("Files", lambda s: s.files.list(limit=_MOST), _FILES, "No file was put here yet.",
          which="first", counted="SELECT count(*) FROM file_versions WHERE is_latest"),
    Screen("/files/versions", versions),
    _list("Evaluations", _evaluations, _EVALUATIONS, "No evaluation was recorded yet.",
          counted="SELECT count(*) FROM evaluations"),
    _list("Champions", lambda s: s.evaluations.champions(), _CHAMPIONS, "No champion was chosen yet."),
    Screen("/lineage", lineage, "Lineage"),
    _list("Audit trail", lambda s: s.audit.query(limit=_MOST, newest_first=True), _AUDIT, "Nothing was noted yet.",
          "Newest first. Check the chain of hashes with: nirs-store audit verify",
          counted="SELECT count(*) FROM audit_entries"),
    Screen("/retention", retention, "Retention"),
    _list("Backups", lambda s: s.backups.list(), _BACKUPS, "No backup was made yet: nirs-store backup create FOLDER"),
    _list("Trash", lambda s: s.trash.list(), _TRASH, "The trash is empty.",
          "Deletions can be undone until the date shown: nirs-store trash restore ID"),
)  # fmt: skip
