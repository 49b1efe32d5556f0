"""The program and the table of its commands."""

from __future__ import annotations

from pathlib import Path

import click

from nirs_store.cli._group import LazyGroup
from nirs_store.cli._options import WORKSPACE, WorkspacePlace

_COMMANDS = {
    "init": ("start", "Create a workspace in a folder."),
    "demo": ("start", "Cross-validate real spectra and show every feature once."),
    "ui": ("start", "Show a workspace in the browser."),
    "report": ("plot", "Write a run, a chain or a calibration into one HTML or PDF file."),
    "runs": ("runs", "List the runs of a workspace."),
    "show": ("runs", "Show a run, pipeline, chain, prediction or artifact."),
    "top": ("rank", "Rank the chains by their cross-validation."),
    "search": ("rank", "Find chains by words, such as moisture sg 2nd."),
    "pivot": ("rank", "Print a score by preprocessing and model."),
    "screen": ("calibration", "Screen preprocessings and numbers of components on a file."),
    "suggest": ("calibration", "Suggest a number of latent variables."),
    "review": ("calibration", "Check a chain for common mistakes."),
    "diagnose": ("calibration", "Find outliers among samples with a chain."),
    "coefficients": ("calibration", "Print the regression coefficients of a chain."),
    "calibrations": ("calibrations", "Manage named calibrations: versions, aliases, signatures."),
    "compare": ("rank", "Compare runs or chains in columns."),
    "sql": ("rank", "Query the catalog with a SELECT statement."),
    "read": ("predict", "Describe and convert files of spectra."),
    "predict": ("predict", "Predict spectra with a chain or a bundle."),
    "measurements": ("service", "List and delete logged predictions."),
    "references": ("service", "Add, correct and list laboratory reference values."),
    "plot": ("plot", "Draw a figure of a chain and save it."),
    "export": ("models", "Write a bundle, a configuration or predictions to a file."),
    "bundle": ("models", "Export, import, inspect and verify models in one file."),
    "logs": ("runs", "Show the log of a pipeline or a run."),
    "rename": ("runs", "Rename a run."),
    "note": ("runs", "Write a note to a run."),
    "tag": ("runs", "Add or remove tags of a run."),
    "stats": ("rank", "Show the contents and size of a workspace."),
    "lineage": ("audit", "Show the lineage of objects, and record links."),
    "audit": ("audit", "Read, verify and export the audit trail."),
    "retention": ("maintenance", "Set what a workspace keeps, and delete the rest."),
    "migrate": ("backup", "Copy a nirs4all workspace into another folder."),
    "library": ("start", "List, save, show and run pipeline templates."),
    "delete": ("maintenance", "Delete a run, pipeline, chain or prediction."),
    "trash": ("maintenance", "List, restore and remove deleted objects."),
    "files": ("files", "Store files of any kind: names, versions, aliases."),
    "datasets": ("datasets", "Store spectra with references: names, versions, selections."),
    "artifacts": ("models", "List fitted objects by their place, and clean them up."),
    "evaluations": ("evaluations", "List, rank, compare and summarize evaluations of models."),
    "archive": ("backup", "Write runs, files and evaluations into one file."),
    "share": ("start", "Make a shared workspace of a folder."),
    "clone": ("start", "Copy a shared workspace into a folder."),
    "push": ("start", "Add a workspace recorded offline to a shared one."),
    "shared": ("start", "Look after a workspace that several computers share."),
    "backup": ("backup", "Make, list, verify and remove backups."),
    "restore": ("backup", "Restore an archive or a backup."),
    "gc": ("maintenance", "Remove model files without references."),
    "vacuum": ("maintenance", "Shrink the catalog after deletions."),
    "take-over": ("maintenance", "Free a workspace on a share from another computer."),
    "check": ("maintenance", "Check that everything recorded is present and intact."),
    "repair": ("maintenance", "Repair what a check found, as far as possible."),
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
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
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
