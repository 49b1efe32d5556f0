"""``nirs-store plot``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import workspace_option
from nirs_store.cli._spectra import read_file, reading_options
from nirs_store.errors import did_you_mean

if TYPE_CHECKING:
    from nirs_store.cli._workspace import Found
    from nirs_store.store import WorkspaceStore

_KINDS = {
    "predicted": "chain_predicted_vs_measured",
    "residuals": "chain_residuals",
    "components": "chain_rmsecv_vs_components",
    "folds": "chain_fold_stability",
    "heatmap": "chain_heatmap",
    "spectra": "chain_spectra_by_step",
    "coefficients": "chain_pls_coefficients",
}


@click.command("plot", cls=Command)
@click.argument("kind", metavar="FIGURE")
@click.argument("identifier", metavar="ID")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="A .png, .pdf, .svg, ... file.")
@click.option("--data", type=click.Path(path_type=Path), help="Spectra, for the figure 'spectra'.")
@click.option("--colour-by", metavar="COLUMN", help="With --data: color the spectra by this column.")
@click.option(
    "--dpi", type=click.IntRange(20, 1200), default=160, show_default=True, help="Resolution of a bitmap."
)
@reading_options
@workspace_option
def command(
    kind: str,
    identifier: str,
    output: Path | None,
    data: Path | None,
    colour_by: str | None,
    dpi: int,
    reading: dict[str, Any],
    workspace: Path,
) -> None:
    """Draw a figure of a chain and save it; for a run, draw its best chain.

    \b
    predicted     predicted against measured: calibration, cross-validation, test
    residuals     predicted minus measured
    components    RMSECV against the number of latent variables, over the chains of the run
    folds         the score of each fold
    heatmap       RMSECV by preprocessing and model, over the chains of the run
    spectra       spectra before and after each preprocessing step (needs --data)
    coefficients  regression coefficients over wavelength

    Without --output, the file is written to the folder exports/ of the workspace.
    """  # noqa: D301 (click reads the escape)
    from nirs_store.cli._workspace import find, open_store

    name = _function(kind, data)
    with open_store(workspace) as store:
        found = find(store, identifier, ["chain", "run"])
        chain_id = _chain(store, found)
        if output is None:
            output = store.workspace_path / "exports" / f"{kind}_{found.identifier[-8:]}.png"
        from nirs_store import plots

        if data is None:
            figure = getattr(plots, name)(store, chain_id)
        else:
            figure = plots.chain_spectra_by_step(
                store, chain_id, **_spectra(store, chain_id, data, colour_by, reading)
            )
        path = plots.save_figure(figure, output, dpi=dpi)
    click.echo(path)


def _function(kind: str, data: Path | None) -> str:
    if kind not in _KINDS:
        hint = did_you_mean(kind, _KINDS)
        raise click.UsageError(f"No figure {kind!r}.{hint} Figures: {', '.join(_KINDS)}.")
    if (kind == "spectra") != (data is not None):
        raise click.UsageError(
            "The figure 'spectra' needs --data: a workspace keeps models, not spectra."
            if data is None
            else f"--data goes with the figure 'spectra' only, not with {kind!r}."
        )
    return _KINDS[kind]


def _chain(store: WorkspaceStore, found: Found) -> str:
    if found.kind == "chain":
        return found.identifier
    from nirs_store.cli._workspace import ranked
    from nirs_store.errors import InvalidInput

    for frame in ranked(store, 1, run_id=found.identifier):
        if frame["n_folds"][0]:
            return str(frame["chain_id"][0])
    raise InvalidInput(f"The run {found.identifier} has no chain with out-of-fold predictions to draw.")


def _spectra(
    store: WorkspaceStore, chain_id: str, data: Path, colour_by: str | None, reading: dict[str, Any]
) -> dict[str, Any]:
    """Read the spectra; they are coloured by the chain's own target where the file has it."""
    table = read_file(data, reading)
    metadata = (store.get_chain(chain_id) or {}).get("metadata") or {}
    target = metadata.get("target")
    column = colour_by or (target if target in table.labels else None)
    values = None if column is None else table.column(column)
    if values is not None and not values.dtype.is_numeric():
        from nirs_store.errors import InvalidInput

        raise InvalidInput(f"The column {column!r} of {data.name} does not hold numbers to color by.")
    return {
        "X": table.X,
        "wavelengths": table.wavelengths,
        "values": None if values is None else values.to_numpy(),
    }
