"""The program and the table of its commands."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import LazyGroup
from nirs_store.cli._options import WORKSPACE, WorkspacePlace

_HOME = "nirs_store.cli.commands"

_COMMANDS = {
    "init": (f"{_HOME}.start:command_init", "Create a workspace in a folder."),
    "demo": (f"{_HOME}.start:command_demo", "Cross-validate real spectra and show every feature once."),
    "ui": (f"{_HOME}.start:command_ui", "Show a workspace in the browser."),
    "report": (
        f"{_HOME}.plot:command_report",
        "Write a run, a chain or a calibration into one HTML or PDF file.",
    ),
    "runs": (f"{_HOME}.runs:command", "List the runs of a workspace."),
    "show": (f"{_HOME}.runs:command_show", "Show a run, pipeline, chain, prediction or artifact."),
    "top": (f"{_HOME}.rank:command", "Rank the chains by their cross-validation."),
    "search": (f"{_HOME}.rank:command_search", "Find chains by words, such as moisture sg 2nd."),
    "pivot": (f"{_HOME}.rank:command_pivot", "Print a score by preprocessing and model."),
    "screen": (
        f"{_HOME}.calibration:command_screen",
        "Screen preprocessings and numbers of components on a file.",
    ),
    "suggest": (f"{_HOME}.calibration:command_suggest", "Suggest a number of latent variables."),
    "review": (f"{_HOME}.calibration:command_review", "Check a chain for common mistakes."),
    "diagnose": (f"{_HOME}.calibration:command_diagnose", "Find outliers among samples with a chain."),
    "coefficients": (
        f"{_HOME}.calibration:command_coefficients",
        "Print the regression coefficients of a chain.",
    ),
    "calibrations": (
        f"{_HOME}.calibrations:command",
        "Manage named calibrations: versions, aliases, signatures.",
    ),
    "compare": (f"{_HOME}.rank:command_compare", "Compare runs or chains in columns."),
    "sql": (f"{_HOME}.rank:command_sql", "Query the catalog with a SELECT statement."),
    "read": (f"{_HOME}.predict:command_read", "Describe and convert files of spectra."),
    "predict": (f"{_HOME}.predict:command", "Predict spectra with a chain or a bundle."),
    "measurements": (f"{_HOME}.service:command_measurements", "List and delete logged predictions."),
    "references": (
        f"{_HOME}.service:command_references",
        "Add, correct and list laboratory reference values.",
    ),
    "plot": (f"{_HOME}.plot:command", "Draw a figure of a chain and save it."),
    "export": (
        f"{_HOME}.models:command_export_",
        "Write a bundle, a configuration or predictions to a file.",
    ),
    "bundle": (f"{_HOME}.models:command_bundle", "Export, import, inspect and verify models in one file."),
    "logs": (f"{_HOME}.runs:command_logs", "Show the log of a pipeline or a run."),
    "rename": (f"{_HOME}.runs:command_rename", "Rename a run."),
    "note": (f"{_HOME}.runs:command_note", "Write a note to a run."),
    "tag": (f"{_HOME}.runs:command_tag", "Add or remove tags of a run."),
    "stats": (f"{_HOME}.rank:command_stats", "Show the contents and size of a workspace."),
    "lineage": (f"{_HOME}.audit:command_lineage", "Show the lineage of objects, and record links."),
    "audit": (f"{_HOME}.audit:command", "Read, verify and export the audit trail."),
    "retention": (
        f"{_HOME}.maintenance:command_retention",
        "Set what a workspace keeps, and delete the rest.",
    ),
    "migrate": (f"{_HOME}.backup:command_migrate", "Copy a nirs4all workspace into another folder."),
    "library": (f"{_HOME}.start:command_library", "List, save, show and run pipeline templates."),
    "delete": (f"{_HOME}.maintenance:command_delete", "Delete a run, pipeline, chain or prediction."),
    "trash": (f"{_HOME}.maintenance:command_trash", "List, restore and remove deleted objects."),
    "files": (f"{_HOME}.files:command", "Store files of any kind: names, versions, aliases."),
    "datasets": (f"{_HOME}.datasets:command", "Store spectra with references: names, versions, selections."),
    "artifacts": (
        f"{_HOME}.models:command_artifacts",
        "List fitted objects by their place, and clean them up.",
    ),
    "evaluations": (
        f"{_HOME}.evaluations:command",
        "List, rank, compare and summarize evaluations of models.",
    ),
    "archive": (f"{_HOME}.backup:command_archive", "Write runs, files and evaluations into one file."),
    "share": (f"{_HOME}.start:command_share", "Make a shared workspace of a folder."),
    "clone": (f"{_HOME}.start:command_clone", "Copy a shared workspace into a folder."),
    "push": (f"{_HOME}.start:command_push", "Add a workspace recorded offline to a shared one."),
    "shared": (f"{_HOME}.start:command_shared", "Look after a workspace that several computers share."),
    "backup": (f"{_HOME}.backup:command", "Make, list, verify and remove backups."),
    "restore": (f"{_HOME}.backup:command_restore", "Restore an archive or a backup."),
    "gc": (f"{_HOME}.maintenance:command", "Remove model files without references."),
    "vacuum": (f"{_HOME}.maintenance:command_vacuum", "Shrink the catalog after deletions."),
    "take-over": (
        f"{_HOME}.maintenance:command_take_over",
        "Free a workspace on a share from another computer.",
    ),
    "check": (f"{_HOME}.maintenance:command_check", "Check that everything recorded is present and intact."),
    "repair": (f"{_HOME}.maintenance:command_repair", "Repair what a check found, as far as possible."),
}


def _version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    from nirs_store import __version__

    click.echo(f"nirs-store {__version__}")
    ctx.exit()


@click.group(
    name="nirs-store",
    cls=LazyGroup,
    commands_table=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with 'nirs-store demo'. Help on a command: 'nirs-store COMMAND --help'.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
@click.option(
    "--workspace",
    "-w",
    type=WorkspacePlace(),
    metavar="DIR",
    help="Folder of the workspace, or address of a shared one; may also be given after the command.",
)
@click.pass_context
def app(ctx: click.Context, workspace: Path | None) -> None:
    """Record, rank, replay and share near-infrared calibration models, in one folder."""
    if workspace is not None:
        ctx.meta[WORKSPACE] = workspace
