"""``nirs-store read``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Command
from nirs_store.cli._output import print_json
from nirs_store.cli._spectra import reading_options
from nirs_store.display import printable

if TYPE_CHECKING:
    from nirs_store.reading import Spectra


@click.command("read", cls=Command)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the description as JSON.")
@click.option("--csv", "output", type=click.Path(path_type=Path), help="Write the spectra to this CSV file.")
@click.option("--overwrite", is_flag=True, help="Replace the file of --csv or --figure.")
@click.option("--figure", type=click.Path(path_type=Path), help="Draw the spectra to this file.")
@click.option("--colour-by", metavar="COLUMN", help="With --figure: color the spectra by this column.")
@click.option("--wavelength-unit", metavar="UNIT", help="nm or cm-1, if the file does not state it.")
@reading_options
def command(
    files: tuple[Path, ...],
    as_json: bool,
    output: Path | None,
    overwrite: bool,
    figure: Path | None,
    colour_by: str | None,
    wavelength_unit: str | None,
    reading: dict[str, Any],
) -> None:
    """Describe files of spectra, and convert them to CSV.

    FILE is CSV, Excel, Parquet, JCAMP-DX, Galactic SPC, Bruker OPUS, ASD, or a folder of these.
    Several files on one grid are read as one; each sample is named after its file.
    """
    from nirs_store.errors import OverwriteRefused
    from nirs_store.reading import read_spectra

    for path in (output, figure):
        if path is not None and path.exists() and not overwrite:
            raise OverwriteRefused(f"{path} exists. Name another file, or say --overwrite. Nothing was done.")
    if colour_by is not None and figure is None:
        raise click.UsageError("--colour-by goes with --figure.")
    source: Any = files[0] if len(files) == 1 else list(files)
    spectra = read_spectra(source, wavelength_unit=wavelength_unit, **reading)
    if as_json:
        print_json(_about(spectra))
    else:
        click.echo(f"{printable(str(spectra.source.path))}: {printable(spectra.understood)}")
        for name, value in spectra.instrument.items():
            click.echo(f"  {printable(name)}: {printable(str(value))}")
    if output is not None:
        from nirs_store.blobs.durable import write_file
        from nirs_store.reading.export import frame_csv

        output.parent.mkdir(parents=True, exist_ok=True)
        write_file(output, frame_csv(_frame(spectra)).encode())
        click.echo(f"{len(spectra)} spectra in {output}", err=True)
    if figure is not None:
        from nirs_store.plots import raw_spectra, save_figure

        drawn = raw_spectra(spectra, colour_by=colour_by, title=spectra.source.path.name)
        click.echo(f"Figure: {save_figure(drawn, figure)}", err=True)


def _about(spectra: Spectra) -> dict[str, Any]:
    grid = spectra.wavelengths
    return {
        "path": str(spectra.source.path),
        "sha256": spectra.source.sha256,
        "understood": spectra.understood,
        "samples": len(spectra),
        "channels": spectra.X.shape[1],
        "first": None if grid is None else float(grid[0]),
        "last": None if grid is None else float(grid[-1]),
        "unit": spectra.unit,
        "signal": spectra.signal,
        "ids": None if spectra.ids is None else [str(each) for each in spectra.ids],
        "labels": list(spectra.labels),
        "instrument": dict(spectra.instrument),
        "files": [{"path": str(path), "sha256": sha256} for path, sha256 in spectra.sources],
    }


def _frame(spectra: Spectra) -> Any:
    """Return the labels and the spectra as one table that reads back the same."""
    import polars as pl

    unit = f" {spectra.unit}" if spectra.unit else ""
    names = list(spectra.channel_names)
    if spectra.wavelengths is not None:
        names = [f"{value:.10g}{unit}" for value in spectra.wavelengths]
    return spectra.references.hstack(pl.DataFrame(spectra.X, schema=names, orient="row"))
