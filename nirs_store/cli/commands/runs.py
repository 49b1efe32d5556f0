"""``nirs-store runs``, ``show``, ``logs``, ``note``, ``rename`` and ``tag``."""

from __future__ import annotations

import json
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import Choice
from nirs_store.cli._output import (
    fitting,
    moment,
    number,
    print_fields,
    print_rows,
    printed_json,
    short_id,
)
from nirs_store.cli._workspace import ask, find, json_store_option, say_unknown, store_option
from nirs_store.display import byte_text, with_unit

if TYPE_CHECKING:
    import polars as pl

    from nirs_store.store import WorkspaceStore


_LEVELS = ("debug", "info", "warning", "error", "critical")


@click.command("logs", cls=Command)
@click.argument("identifier", metavar="ID")
@click.option("--level", type=Choice(_LEVELS), help="Only entries of this level.")
@json_store_option
def logs(store: WorkspaceStore, identifier: str, level: str | None) -> None:
    """Show the log of a pipeline, or a summary over the pipelines of a run.

    ID is the id of a run, a pipeline or a chain; the last eight characters are enough.
    """
    found = find(store, identifier, ["run", "pipeline", "chain"])
    if found.kind == "run":
        _print_summary(store.get_run_log_summary(found.identifier))
    else:
        rows = store.get_pipeline_log(found.record["pipeline_id"]).to_dicts()
        _print_log([row for row in rows if level is None or row["level"] == level])


def _print_summary(frame: pl.DataFrame) -> None:
    print_rows(
        frame,
        {
            "pipeline": lambda row: short_id(str(row["pipeline_id"])),
            "name": "pipeline_name",
            "status": "pipeline_status",
            "entries": "log_count",
            "ms": "total_duration_ms",
            "warnings": "warning_count",
            "errors": "error_count",
        },
        numeric=["entries", "ms", "warnings", "errors"],
        flexible=["name"],
    )


def _print_log(rows: list[dict[str, Any]]) -> None:
    print_rows(
        [{**row, "details": json.loads(row["details"] or "null")} for row in rows],
        {
            "when": lambda row: moment(row["created_at"]),
            "level": "level",
            "step": "step_idx",
            "event": "event",
            "ms": "duration_ms",
            "operator": lambda row: str(row["operator_class"] or "-").rsplit(".", 1)[-1],
            "message": lambda row: (str(row["message"] or "").splitlines() or [""])[0],
        },
        empty="No entries.",
        numeric=["step", "ms"],
        flexible=["message", "operator"],
    )


@click.command("note", cls=Command)
@click.argument("run", metavar="RUN")
@click.argument("text", metavar="TEXT")
@store_option
def note(store: WorkspaceStore, run: str, text: str) -> None:
    """Write a note to a run, replacing the previous one.

    TEXT is free text; - reads it from standard input, and '' removes the note. 'nirs-store show RUN' prints
    it.
    """
    if text == "-":
        text = sys.stdin.read().strip()
    found = find(store, run, ["run"])
    store.annotate_run(found.identifier, text)
    click.echo(f"{'Noted on' if text else 'Took the note off'} {short_id(found.identifier)}.")


@click.command("rename", cls=Command)
@click.argument("run", metavar="RUN")
@click.argument("name", metavar="NAME")
@store_option
def rename(store: WorkspaceStore, run: str, name: str) -> None:
    """Rename a run; its id stays the same.

    The last eight characters of the id are enough.
    """
    found = find(store, run, ["run"])
    store.rename_run(found.identifier, name)
    click.echo(f"{short_id(found.identifier)} is now called {name}.")


_STATUSES = ("running", "completed", "failed", "interrupted")
_JSON = ("config", "datasets", "summary", "environment")


@click.command("runs", cls=Command)
@click.option("--status", metavar="STATUS", help=f"Only runs that are {', '.join(_STATUSES)}.")
@click.option("--dataset", metavar="NAME", help="Only runs on this data set.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only runs with this tag; may be repeated.")
@click.option(
    "--name",
    metavar="TEXT",
    help="Only runs whose names contain this text, or match a pattern such as 'corn*'.",
)
@click.option("--limit", "-n", type=click.IntRange(1), default=20, help="Maximum number of rows.")
@json_store_option
def runs(
    store: WorkspaceStore, dataset: str | None, tags: tuple[str, ...], status: str | None, **options: Any
) -> None:
    """List the runs of a workspace, newest first.

    A run whose process died without finishing it is shown as interrupted.
    """
    from nirs_store.records import queries as overview

    say_unknown(store, "data set", dataset)
    for tag in tags:
        say_unknown(store, "tag", tag)
    runs = store.list_runs(status, dataset, tags=tags, **options)
    counts = ask(store, overview.pipeline_counts, runs["run_id"].to_list())
    rows = [
        {
            **row,
            **{name: json.loads(row[name] or "null") for name in _JSON},
            "tags": json.loads(row["tags"] or "[]"),
            "n_pipelines": counts.get(row["run_id"], 0),
        }
        for row in runs.iter_rows(named=True)
    ]
    print_rows(
        rows,
        {
            "run": lambda row: short_id(row["run_id"]),
            "name": "name",
            "status": "status",
            "begun": lambda row: moment(row["created_at"]),
            "pipelines": "n_pipelines",
            "data": _names_of_datasets,
            "tags": (lambda row: ", ".join(row["tags"])) if any(row["tags"] for row in rows) else None,
        },
        empty="No runs fit." if status or dataset or tags else "No runs.",
        numeric=["pipelines"],
        flexible=["name", "data", "tags"],
    )


def _names_of_datasets(run: dict[str, Any]) -> str:
    given = run["datasets"] or []
    return ", ".join(str(each.get("name", "")) if isinstance(each, dict) else str(each) for each in given)


@click.command("show", cls=Command)
@click.argument("identifier", metavar="ID")
@json_store_option
def show(store: WorkspaceStore, identifier: str) -> None:
    """Show the run, pipeline, chain, prediction or artifact with an id.

    The last eight characters of the id, as shown in tables, are enough.
    """
    found = find(store, identifier)
    if not printed_json({"kind": found.kind, **found.record}):
        _PRINTERS[found.kind](store, found.record)


def _show_run(store: WorkspaceStore, run: dict[str, Any]) -> None:
    print_fields(
        {
            "run": run["run_id"],
            "name": run["name"],
            "status": run["status"],
            "begun": moment(run["created_at"]),
            "completed": moment(run["completed_at"]),
            "data": _names_of_datasets(run),
            "tags": ", ".join(run["tags"]),
            "note": run["note"],
            "summary": _compact(run["summary"]),
            "error": run["error"],
            "environment": _environment(run["environment"]),
        }
    )
    pipelines = store.list_pipelines(run_id=run["run_id"])
    if pipelines.height:
        click.echo()
        print_rows(
            pipelines.iter_rows(named=True),
            {
                "pipeline": lambda row: short_id(row["pipeline_id"]),
                "name": "name",
                "status": "status",
                "metric": "metric",
                "val": lambda row: number(row["best_val"]),
                "test": lambda row: number(row["best_test"]),
                "ms": "duration_ms",
            },
            numeric=["val", "test", "ms"],
            flexible=["name"],
        )


def _show_pipeline(store: WorkspaceStore, pipeline: dict[str, Any]) -> None:
    print_fields(
        {
            "pipeline": pipeline["pipeline_id"],
            "name": pipeline["name"],
            "run": pipeline["run_id"],
            "status": pipeline["status"],
            "data": pipeline["dataset_name"],
            "begun": moment(pipeline["created_at"]),
            "duration": None if pipeline["duration_ms"] is None else f"{pipeline['duration_ms']} ms",
            "metric": pipeline["metric"],
            "best val": number(pipeline["best_val"]),
            "best test": number(pipeline["best_test"]),
            "error": pipeline["error"],
        }
    )
    chains = store.get_chains_for_pipeline(pipeline["pipeline_id"])
    if chains.height:
        click.echo()
        print_rows(
            chains.iter_rows(named=True),
            {
                "chain": lambda row: short_id(row["chain_id"]),
                "preprocessing": lambda row: row["preprocessings"] or "raw",
                "model": lambda row: row["model_class"].rsplit(".", 1)[-1],
            },
            flexible=["preprocessing"],
        )


def _show_chain(store: WorkspaceStore, chain: dict[str, Any]) -> None:
    from nirs_store.plots._chain import chain_data
    from nirs_store.records.views import chain_tree, search_facts, target_words, tree_lines
    from nirs_store.scores import SCORE_COLUMNS

    data = chain_data(store, chain["chain_id"])
    pooled = data.metadata.get("cross_validation") or {}
    target = data.target or target_words(data.metadata)
    grid = data.wavelengths
    print_fields(
        {
            "chain": chain["chain_id"],
            "calibration": ", ".join(
                store.calibrations.names_of([chain["chain_id"]]).get(chain["chain_id"], ())
            ),
            "what": data.title,
            "pipeline": chain["pipeline_id"],
            "recorded": moment(chain["created_at"]),
            "target": with_unit(target, data.unit),
            "channels": None
            if grid is None
            else f"{grid.size}, {grid[0]:g} to {grid[-1]:g} {data.wavelength_unit}",
            "cross-val.": ", ".join(
                f"{name} {number(pooled[name])}"
                for names in SCORE_COLUMNS.values()
                for name in names
                if pooled.get(name) is not None
            ),
            **search_facts(data.metadata),
            "models": ", ".join(str(fold) for fold in chain["fold_artifacts"]) or "none stored",
        }
    )
    click.echo()
    print_rows(
        chain["steps"],
        {
            "step": "step_idx",
            "type": lambda step: step.get("operator_type", "transform"),
            "operator": lambda step: str(step["operator_class"]).rsplit(".", 1)[-1],
            "parameters": lambda step: ", ".join(
                f"{name}={value}" for name, value in (step.get("params") or {}).items()
            ),
        },
        numeric=["step"],
        flexible=["parameters", "operator"],
    )
    click.echo()
    for line in tree_lines(chain_tree(chain, data.title)):
        click.echo(fitting(line))
    if data.predictions:
        click.echo()
        print_rows(
            data.predictions,
            {
                "prediction": lambda row: short_id(row["prediction_id"]),
                "fold": "fold_id",
                "partition": "partition",
                "n": "n_samples",
                "metric": "metric",
                "score": lambda row: number(row.get(f"{row['partition']}_score")),
            },
            numeric=["n", "score"],
        )


def _show_prediction(_: WorkspaceStore, row: dict[str, Any]) -> None:
    print_fields(
        {
            "prediction": row["prediction_id"],
            "chain": row["chain_id"],
            "pipeline": row["pipeline_id"],
            "data": row["dataset_name"],
            "model": row["model_name"],
            "preprocessing": row["preprocessings"],
            "fold": row["fold_id"],
            "partition": row["partition"],
            "samples": row["n_samples"],
            "channels": row["n_features"],
            "metric": row["metric"],
            "val score": number(row["val_score"]),
            "test score": number(row["test_score"]),
            "train score": number(row["train_score"]),
            "scores": _compact(row["scores"]),
            "parameters": _compact(row["best_params"]),
            "recorded": moment(row["created_at"]),
        }
    )


def _show_artifact(store: WorkspaceStore, row: dict[str, Any]) -> None:
    print_fields(
        {
            "artifact": row["artifact_id"],
            "file": store._engine.layout.blobs.address(row["artifact_path"]),
            "operator": row["operator_class"],
            "type": row["artifact_type"],
            "format": row["format"],
            "size": byte_text(row["size_bytes"]),
            "references": row["ref_count"],
            "recorded": moment(row["created_at"]),
        }
    )


def _environment(versions: dict[str, Any] | None) -> str:
    """Put versions on short lines; there are none of a run that an older nirs_store recorded."""
    packages = {name: value for name, value in (versions or {}).items() if name != "packages"}
    words = ", ".join(f"{name} {_short(value)}" for name, value in packages.items())
    return "\n".join(textwrap.wrap(words, _ENVIRONMENT_WIDTH))


def _short(value: Any) -> str:
    """Put a version, or what else was captured, in a few words."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _compact(value: Any) -> str | None:
    """Put plain data on one line."""
    if not value:
        return None
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return ", ".join(
        f"{name} {item:.4g}" if isinstance(item, float) else f"{name} {item}" for name, item in value.items()
    )


_ENVIRONMENT_WIDTH = 64
_PRINTERS = {
    "run": _show_run,
    "pipeline": _show_pipeline,
    "chain": _show_chain,
    "prediction": _show_prediction,
    "artifact": _show_artifact,
}


@click.command("tag", cls=Command)
@click.argument("run", metavar="RUN")
@click.argument("tags", metavar="TAG...", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Remove the tags instead.")
@store_option
def tag(store: WorkspaceStore, run: str, tags: tuple[str, ...], remove: bool) -> None:
    """Add or remove tags of a run, and print its current tags.

    'nirs-store runs --tag TAG' lists the runs with a tag. A tag may have spaces but no commas.
    """
    found = find(store, run, ["run"])
    (store.untag_run if remove else store.tag_run)(found.identifier, *tags)
    now = (store.get_run(found.identifier) or {}).get("tags") or []
    click.echo(", ".join(now) if now else "No tags.")
