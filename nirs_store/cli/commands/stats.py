"""``nirs-store stats``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import json_option, workspace_option


@click.command("stats", cls=Command)
@click.option(
    "--growth",
    type=click.Choice(["day", "week", "month", "year"]),
    help="Also what came in each period.",
)
@json_option
@workspace_option
def command(growth: str | None, as_json: bool, workspace: Path) -> None:
    """Count what a workspace holds, how large it is, and which runs are the largest."""
    from nirs_store.cli._output import human_bytes, print_fields, print_json, print_table, short_id
    from nirs_store.cli._workspace import open_store

    with open_store(workspace) as store:
        root = store.workspace_path
        statuses: Counter[str] = Counter()
        offset, page = 0, 1000
        while (runs := store.list_runs(limit=page, offset=offset)).height:
            statuses.update(runs["status"])
            offset += page
        pipelines = store.list_pipelines()
        predictions = store.query_predictions()
        plan = store.gc_artifacts(dry_run=True)
        report = store.storage_report()
        statistics = store.statistics(step=growth or "month")
    blobs = [path.stat().st_size for path in _files(root / "artifacts")]
    journal = [path.stat().st_size for path in _files(root / "journal")]
    facts: dict[str, Any] = {
        "workspace": str(root),
        "runs": sum(statuses.values()),
        "runs_by_status": dict(statuses),
        "pipelines": pipelines.height,
        "chains": predictions["chain_id"].drop_nulls().n_unique(),
        "predictions": predictions.height,
        "datasets": sorted(pipelines["dataset_name"].unique().to_list()),
        "artifact_files": len(blobs),
        "artifact_bytes": sum(blobs),
        "unreferenced_files": len(plan.files),
        "unreferenced_bytes": plan.bytes,
        "unknown_files": len(plan.unknown_files),
        "catalog_bytes": (root / "store.duckdb").stat().st_size,
        "journal_bytes": sum(journal),
        "storage": report.to_dict(),
        "statistics": statistics.to_dict(),
    }
    if as_json:
        print_json(facts)
        return
    by_status = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    print_fields(
        {
            "workspace": root,
            "runs": f"{facts['runs']} ({by_status})" if by_status else 0,
            "pipelines": pipelines.height,
            "chains": facts["chains"],
            "predictions": predictions.height,
            "data": ", ".join(facts["datasets"]),
            "models": f"{len(blobs)} files, {human_bytes(sum(blobs))}",
            "unreferenced": f"{len(plan.files)} files, {human_bytes(plan.bytes)}",
            "unknown": f"{len(plan.unknown_files)} files" if plan.unknown_files else None,
            "catalog": human_bytes(facts["catalog_bytes"]),
            "journal": human_bytes(facts["journal_bytes"]),
            "saved": f"{human_bytes(report.saved_bytes)} by storing nothing twice",
            "files": f"{statistics.counts['files']}, {statistics.compression:.0%} saved by compression"
            if statistics.counts["files"]
            else None,
            "errors": ", ".join(f"{count} {name}" for name, count in statistics.errors_by_operation.items()),
        }
    )
    click.echo()
    print_table(
        ["kind", "stored", "size", "saved"],
        [(k.kind, k.stored, human_bytes(k.bytes), human_bytes(k.saved_bytes)) for k in report.kinds],
        numeric=["stored", "size", "saved"],
    )
    if report.largest_runs:
        click.echo()
        print_table(
            ["run", "name", "size", "only here"],
            [
                (short_id(r.run_id), r.name, human_bytes(r.bytes), human_bytes(r.own_bytes))
                for r in report.largest_runs
            ],
            numeric=["size", "only here"],
            flexible=["name"],
        )
    if growth:
        click.echo()
        print_table(
            statistics.growth.columns,
            statistics.growth.rows(),
            numeric=[name for name in statistics.growth.columns if name != "since"],
        )


def _files(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
