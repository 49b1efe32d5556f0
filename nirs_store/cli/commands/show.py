"""``nirs-store show``."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import json_option, workspace_option

if TYPE_CHECKING:
    from nirs_store.store import WorkspaceStore


@click.command("show", cls=Command)
@click.argument("identifier", metavar="ID")
@json_option
@workspace_option
def command(identifier: str, as_json: bool, workspace: Path) -> None:
    """Show what an id stands for: a run, pipeline, chain, prediction or artifact.

    The last eight characters of the id, as tables show them, are enough.
    """
    from nirs_store.cli._output import print_json
    from nirs_store.cli._workspace import find, open_store

    with open_store(workspace) as store:
        found = find(store, identifier)
        if as_json:
            print_json({"kind": found.kind, **found.record})
            return
        _PRINTERS[found.kind](store, found.record)


def _show_run(store: WorkspaceStore, run: dict[str, Any]) -> None:
    from nirs_store.cli._output import moment, number, print_fields, print_table, short_id

    datasets = [
        str(each.get("name")) if isinstance(each, dict) else str(each) for each in run["datasets"] or []
    ]
    print_fields(
        {
            "run": run["run_id"],
            "name": run["name"],
            "status": run["status"],
            "begun": moment(run["created_at"]),
            "completed": moment(run["completed_at"]),
            "data": ", ".join(datasets),
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
        print_table(
            ["pipeline", "name", "status", "metric", "val", "test", "ms"],
            [
                [
                    short_id(row["pipeline_id"]),
                    row["name"],
                    row["status"],
                    row["metric"],
                    number(row["best_val"]),
                    number(row["best_test"]),
                    row["duration_ms"],
                ]
                for row in pipelines.iter_rows(named=True)
            ],
            numeric=["val", "test", "ms"],
            flexible=["name"],
        )


def _show_pipeline(store: WorkspaceStore, pipeline: dict[str, Any]) -> None:
    from nirs_store.cli._output import moment, number, print_fields, print_table, short_id

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
        print_table(
            ["chain", "preprocessing", "model"],
            [
                [
                    short_id(row["chain_id"]),
                    row["preprocessings"] or "raw",
                    row["model_class"].rsplit(".", 1)[-1],
                ]
                for row in chains.iter_rows(named=True)
            ],
            flexible=["preprocessing"],
        )


def _show_chain(store: WorkspaceStore, chain: dict[str, Any]) -> None:
    from nirs_store.cli._output import fitting, moment, number, print_fields, print_table, short_id
    from nirs_store.plots._chain import chain_data
    from nirs_store.tree import chain_tree, tree_lines

    data = chain_data(store, chain["chain_id"])
    pooled = data.metadata.get("cross_validation") or {}
    grid = data.wavelengths
    print_fields(
        {
            "chain": chain["chain_id"],
            "what": data.title,
            "pipeline": chain["pipeline_id"],
            "recorded": moment(chain["created_at"]),
            "target": f"{data.target} ({data.unit})" if data.unit else data.target,
            "channels": None
            if grid is None
            else f"{grid.size}, {grid[0]:g} to {grid[-1]:g} {data.wavelength_unit}",
            "cross-val.": ", ".join(
                f"{name} {number(pooled[name])}" for name in _POOLED if pooled.get(name) is not None
            ),
            "folds": ", ".join(str(fold) for fold in chain["fold_artifacts"]),
        }
    )
    click.echo()
    print_table(
        ["step", "type", "operator", "parameters"],
        [
            [
                step["step_idx"],
                step.get("operator_type", "transform"),
                str(step["operator_class"]).rsplit(".", 1)[-1],
                ", ".join(f"{name}={value}" for name, value in (step.get("params") or {}).items()),
            ]
            for step in chain["steps"]
        ],
        numeric=["step"],
        flexible=["parameters", "operator"],
    )
    click.echo()
    for line in tree_lines(chain_tree(chain, data.title)):
        click.echo(fitting(line))
    if data.predictions:
        click.echo()
        print_table(
            ["prediction", "fold", "partition", "n", "metric", "score"],
            [
                [
                    short_id(row["prediction_id"]),
                    row["fold_id"],
                    row["partition"],
                    row["n_samples"],
                    row["metric"],
                    number(row.get(f"{row['partition']}_score")),
                ]
                for row in data.predictions
            ],
            numeric=["n", "score"],
        )


def _show_prediction(_: WorkspaceStore, row: dict[str, Any]) -> None:
    from nirs_store.cli._output import moment, number, print_fields

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
    from nirs_store.cli._output import human_bytes, moment, print_fields

    print_fields(
        {
            "artifact": row["artifact_id"],
            "file": store.workspace_path / row["artifact_path"],
            "operator": row["operator_class"],
            "type": row["artifact_type"],
            "format": row["format"],
            "size": human_bytes(row["size_bytes"]),
            "references": row["ref_count"],
            "recorded": moment(row["created_at"]),
        }
    )


def _environment(versions: dict[str, Any] | None) -> str:
    """Put versions on short lines; there are none of a run that an older nirs_store recorded."""
    told = {name: value for name, value in (versions or {}).items() if name != "packages"}
    words = ", ".join(f"{name} {_short(value)}" for name, value in told.items())
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
_POOLED = ("rmsecv", "bias", "sep", "r2", "rpd", "rpiq", "accuracy", "balanced_accuracy", "f1", "log_loss")
_PRINTERS = {
    "run": _show_run,
    "pipeline": _show_pipeline,
    "chain": _show_chain,
    "prediction": _show_prediction,
    "artifact": _show_artifact,
}
