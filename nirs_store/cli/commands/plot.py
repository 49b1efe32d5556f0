"""``nirs-store plot`` and ``nirs-store report``."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import FILE
from nirs_store.cli._output import joined_lists, write_made
from nirs_store.cli._spectra import read_file, reading_options
from nirs_store.cli._workspace import Found, exports_of, find, ranked, store_option
from nirs_store.errors import InvalidInput, UnknownFormat, UnknownId, did_you_mean

if TYPE_CHECKING:
    from nirs_store.store import WorkspaceStore


_FRAMES = (".csv", ".parquet")


@click.command("plot", cls=Command)
@click.argument("kind", metavar="FIGURE")
@click.argument("identifier", metavar="ID")
@click.option(
    "--output",
    "-o",
    type=FILE,
    help="A .png, .pdf, .svg, ... file; .csv or .parquet for the data of the figure.",
)
@click.option("--data", type=FILE, help="Spectra, for the figures that need them.")
@click.option(
    "--target",
    metavar="COLUMN",
    help="Target to draw, of a chain that predicts several; with --data also the column of its values.",
)
@click.option("--id", "id_column", metavar="COLUMN", help="With --data: column of the sample names.")
@click.option("--colour-by", metavar="COLUMN", help="With --data: color the spectra by this column.")
@click.option("--dpi", type=click.IntRange(20, 1200), default=160, help="Resolution of a bitmap.")
@reading_options
@store_option
def plot(
    store: WorkspaceStore,
    kind: str,
    identifier: str,
    output: Path | None,
    data: Path | None,
    target: str | None,
    id_column: str | None,
    colour_by: str | None,
    dpi: int,
    reading: dict[str, Any],
) -> None:
    """Draw a figure of a chain and save it; for a run, draw its best chain.

    \b
    predicted     predicted against measured: calibration, cross-validation, test
    residuals     predicted minus measured
    components    RMSECV against the number of latent variables, over the chains of the run
    choice        RMSECV with standard errors, and the number that the one-SE rule chooses
    errors        RMSEC, RMSECV and RMSEP against the number of latent variables
    folds         the score of each fold
    heatmap       RMSECV by preprocessing and model, over the chains of the run
    coefficients  regression coefficients over wavelength
    confusion     classes: true against predicted, out of fold
    training      training curves of the chain's pipeline

    These need --data:

    \b
    spectra       spectra before and after each preprocessing step
    raw           spectra colored by a reference value or a group
    intervals     predictions with their intervals; flagged samples
    t2-q          Q against Hotelling's T2, with limits
    influence     studentized residual against leverage
    scores        two score vectors with the ellipse
    loadings      loadings over wavelength
    weights       weights of a PLS over wavelength
    vip           VIP over wavelength
    selectivity   selectivity ratio over wavelength
    explained     explained variance of X and y
    normal        normal plot of the residuals
    permutation   RMSECV with shuffled reference values

    Without --output, the file is written to the folder exports/ of the workspace (of a shared one, to ./exports/).
    """  # noqa: D301 (click reads the escape)
    _check(kind, data)
    found = find(store, identifier, ["chain", "run"])
    chain_id = _chain(store, found)
    if output is None:
        output = exports_of(store) / f"{kind}_{found.identifier[-8:]}.png"
    given: dict[str, Any] = {}
    if data is not None:
        given = _spectra(store, chain_id, kind, data, target, id_column, colour_by, reading)
    if target is not None and (data is None or kind not in ("spectra", "raw")):
        several = ((store.get_chain(chain_id) or {}).get("metadata") or {}).get("target_names") or ()
        given |= {"target": target} if data is None or target in several else {}
    if output.suffix.lower() in _FRAMES:
        _write(store.plot_data(kind, chain_id, **given), output)
    else:
        from nirs_store.plots import save_figure

        save_figure(store.plot(kind, chain_id, **given), output, dpi=dpi)
    click.echo(output if output.suffix else output.with_suffix(".png"))


def _check(kind: str, data: Path | None) -> None:
    from nirs_store.plots import KINDS

    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS)
        raise click.UsageError(f"No figure {kind!r}.{hint} Figures: {', '.join(KINDS)}.")
    if KINDS[kind].spectra and data is None:
        raise click.UsageError(f"The figure {kind!r} needs --data: a workspace keeps models, not spectra.")
    if data is not None and not KINDS[kind].spectra:
        others = ", ".join(name for name, each in KINDS.items() if each.spectra)
        raise click.UsageError(f"--data goes with the figures {others}, not with {kind!r}.")


def _write(frame: Any, path: Path) -> None:
    """Write the data of a figure; lists become text, which CSV can hold."""
    from nirs_store.reading.tables import frame_csv

    if path.suffix.lower() == ".csv":
        write_made(path, frame_csv(joined_lists(frame)).encode())
        return
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    write_made(path, buffer.getvalue())


def _chain(store: WorkspaceStore, found: Found) -> str:
    if found.kind == "chain":
        return found.identifier
    for frame in ranked(store, 1, run_id=found.identifier):
        if frame["n_folds"][0]:
            return str(frame["chain_id"][0])
    raise InvalidInput(f"The run {found.identifier} has no chain with out-of-fold predictions to draw.")


def _spectra(
    store: WorkspaceStore,
    chain_id: str,
    kind: str,
    data: Path,
    target: str | None,
    id_column: str | None,
    colour_by: str | None,
    reading: dict[str, Any],
) -> dict[str, Any]:
    """Read the spectra; the measured values are the chain's own target where the file has it."""
    table = read_file(data, reading, id_column=id_column)
    metadata = (store.get_chain(chain_id) or {}).get("metadata") or {}
    own = metadata.get("target")
    if colour_by is not None and kind not in ("spectra", "raw"):
        raise click.UsageError("--colour-by goes with the figures spectra and raw.")
    if kind == "raw" and target is None:
        named = colour_by or (own if own in table.labels else None)
        return {"X": table, **({} if named is None else {"colour_by": named})}
    column = colour_by or target or (own if own in table.labels else None)
    values = None if column is None else table.column(column)
    if values is not None and not values.dtype.is_numeric():
        use = "color by" if colour_by is not None else "compare with"
        raise InvalidInput(f"The column {column!r} of {data.name} does not hold numbers to {use}.")
    return {"X": table, "y": None if values is None else values.to_numpy()}


@click.command("report", cls=Command)
@click.argument("identifier", metavar="RUN|CHAIN|CALIBRATION")
@click.option("--output", "-o", type=FILE, help="An .html or .pdf file [default: report.html].")
@store_option
def report(store: WorkspaceStore, identifier: str, output: Path | None) -> None:
    """Write a run, a chain or a calibration with its figures to one HTML file, which opens without a network.

    Name a calibration as "fat" or "fat@v2"; its report has the figures in service and the dossier.
    If --output ends in .pdf, a browser on this machine (Chromium, Chrome or Edge) prints the report.
    """
    from nirs_store.ui.server import needed

    path = output or Path("report.html")
    if path.suffix.lower() not in (".html", ".htm", ".pdf"):
        raise UnknownFormat(f"A report is an .html or a .pdf file; found {path.name!r}. Nothing was written.")
    with needed():
        from nirs_store.ui.export import write_pdf, write_report
    kind, whole = _named(store, identifier)
    if path.suffix.lower() != ".pdf":
        write_report(store, kind, whole, path)
    else:
        with tempfile.TemporaryDirectory(prefix="nirs_store-") as folder:
            write_pdf(write_report(store, kind, whole, Path(folder) / "report.html"), path)
    click.echo(f"Report of the {kind} {whole if kind == 'calibration' else whole[-8:]} in {path}", err=True)


def _named(store: WorkspaceStore, identifier: str) -> tuple[str, str]:
    """Return what is meant, and its whole id: a run, a calibration or a chain, in this order."""
    try:
        return "run", find(store, identifier, ["run"]).identifier
    except UnknownId:
        pass
    try:
        store.calibrations.get(identifier if "@" in identifier else f"{identifier}@latest")
        return "calibration", identifier
    except UnknownId:
        return "chain", find(store, identifier, ["chain"]).identifier
