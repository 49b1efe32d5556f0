"""Health: what a check finds, where the bytes are, what a clean-up would remove."""

from __future__ import annotations

from typing import Any

from nirs_store.lazy import polars as pl
from nirs_store.ui.frame import Request, Screen, View
from nirs_store.ui.table import Column, table_of

__all__ = ["SCREENS"]


def show(request: Request) -> View:
    """Check the structure and plan a clean-up; neither changes anything."""
    store = request.store
    report = store.check()
    rows = [(f.severity, f.kind, f.where, f.message, f.remedy, len(f.affects)) for f in report.findings]
    findings = _frame(rows, "severity kind where message remedy", "affects")
    table = table_of(
        request,
        findings,
        [Column("severity", kind="status"), Column("kind"), Column("where", longest=44), Column("message", longest=120),
         Column("affects", "Chains and predictions", "whole"), Column("remedy", longest=120)],
        empty="Nothing was found.",
        name="findings",
    )  # fmt: skip
    storage = store.storage_report()
    plan = store.gc_artifacts(dry_run=True)
    kinds = table_of(
        request,
        _frame(
            [(k.kind, k.stored, k.bytes, k.saved_bytes) for k in storage.kinds], "kind", "stored bytes saved_bytes"
        ),
        [Column("kind"), Column("stored", "Stored", "whole"), Column("bytes", "Bytes", "bytes"),
         Column("saved_bytes", "Saved by storing once", "bytes")],
        prefix="k_",
    )  # fmt: skip
    largest = table_of(
        request,
        _frame(
            [(r.run_id, r.name, r.bytes, r.own_bytes) for r in storage.largest_runs], "run_id name", "bytes own_bytes"
        ),
        [Column("name", "Run", link=lambda row: f"/runs/{row['run_id']}"), Column("bytes", "Bytes", "bytes"),
         Column("own_bytes", "Only here", "bytes")],
        prefix="r_",
    )  # fmt: skip
    values: dict[str, Any] = {"report": report, "table": table, "kinds": kinds, "largest": largest}
    values |= {"storage": storage, "plan": plan}
    data = {"ok": report.ok, "findings": findings, "storage": storage, "gc": plan}
    return View("health.html", "Health", values, data=data, table=table)


def _frame(rows: list[Any], texts: str, numbers: str) -> pl.DataFrame:
    schema = dict.fromkeys(texts.split(), pl.String()) | dict.fromkeys(numbers.split(), pl.Int64())
    return pl.DataFrame(rows, schema=schema, orient="row")


SCREENS = (Screen("/health", show, "Health"),)
