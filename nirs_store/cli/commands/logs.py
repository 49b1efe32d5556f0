"""``nirs-store logs``."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._choice import Choice
from nirs_store.cli._group import Command
from nirs_store.cli._options import json_option, workspace_option

_LEVELS = ("debug", "info", "warning", "error", "critical")


@click.command("logs", cls=Command)
@click.argument("identifier", metavar="ID")
@click.option("--level", type=Choice(_LEVELS), help="Only entries of this level.")
@json_option
@workspace_option
def command(identifier: str, level: str | None, as_json: bool, workspace: Path) -> None:
    """Show the log of a pipeline, or a summary over the pipelines of a run.

    ID is that of a run, a pipeline or a chain; the last eight characters are enough.
    """
    from nirs_store.cli._workspace import find, open_store

    with open_store(workspace) as store:
        found = find(store, identifier, ["run", "pipeline", "chain"])
        if found.kind == "run":
            frame = store.get_run_log_summary(found.identifier)
        else:
            frame = store.get_pipeline_log(found.record["pipeline_id"])
    if found.kind == "run":
        _print_summary(frame.to_dicts(), as_json)
    else:
        rows = [row for row in frame.to_dicts() if level is None or row["level"] == level]
        _print_log(rows, as_json)


def _print_summary(rows: list[dict[str, object]], as_json: bool) -> None:
    from nirs_store.cli._output import print_json, print_table, short_id

    if as_json:
        print_json(rows)
        return
    print_table(
        ["pipeline", "name", "status", "entries", "ms", "warnings", "errors"],
        [
            [
                short_id(str(row["pipeline_id"])),
                row["pipeline_name"],
                row["pipeline_status"],
                row["log_count"],
                row["total_duration_ms"],
                row["warning_count"],
                row["error_count"],
            ]
            for row in rows
        ],
        numeric=["entries", "ms", "warnings", "errors"],
        flexible=["name"],
    )


def _print_log(rows: list[dict[str, object]], as_json: bool) -> None:
    import json

    from nirs_store.cli._output import moment, print_json, print_table

    if as_json:
        print_json([{**row, "details": json.loads(str(row["details"] or "null"))} for row in rows])
        return
    if not rows:
        click.echo("No entries.")
        return
    print_table(
        ["when", "level", "step", "event", "ms", "operator", "message"],
        [
            [
                moment(row["created_at"]),
                row["level"],
                row["step_idx"],
                row["event"],
                row["duration_ms"],
                str(row["operator_class"] or "-").rsplit(".", 1)[-1],
                (str(row["message"] or "").splitlines() or [""])[0],
            ]
            for row in rows
        ],
        numeric=["step", "ms"],
        flexible=["message", "operator"],
    )
