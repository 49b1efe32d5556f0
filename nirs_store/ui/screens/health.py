"""Health: what a check finds, where the bytes are, what a clean-up would remove."""

from __future__ import annotations

from nirs_store.ui.frame import Request, Screen, View
from nirs_store.ui.table import Column, frame_of, table_of, to

_FINDINGS = (
    Column("severity", kind="status"), Column("kind"), Column("where", longest=44), Column("message", longest=120),
    Column("affects", "Chains and predictions", "whole"), Column("remedy", longest=120),
)  # fmt: skip
_KINDS = (
    Column("kind"), Column("stored", "Stored", "whole"), Column("bytes", "Bytes", "bytes"),
    Column("saved_bytes", "Saved by storing once", "bytes"),
)  # fmt: skip
_RUNS = (
    Column("run_id", "Id", hidden=True), Column("name", "Run", link=to("/runs", "run_id")),
    Column("bytes", "Bytes", "bytes"), Column("own_bytes", "Only here", "bytes"),
)  # fmt: skip


def show(request: Request) -> View:
    """Check the structure and plan a clean-up; neither changes anything."""
    store = request.store
    report, storage, plan = store.check(), store.storage_report(), store.gc_artifacts(dry_run=True)
    findings = frame_of([vars(each) | {"affects": len(each.affects)} for each in report.findings], _FINDINGS)
    table = table_of(request, findings, _FINDINGS, empty="Nothing was found.", name="findings")
    values = {
        "at": store.location, "report": report, "table": table, "storage": storage, "plan": plan,
        "kinds": table_of(request, storage.kinds, _KINDS, prefix="k_"),
        "largest": table_of(request, storage.largest_runs, _RUNS, prefix="r_"),
    }  # fmt: skip
    data = {"ok": report.ok, "findings": findings, "storage": storage, "gc": plan}
    return View("health.html", "Health", values, data=data, table=table)


SCREENS = (Screen("/health", show, "Health"),)
