"""``nirs-store predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import as_options, trust_options, workspace_option

if TYPE_CHECKING:
    import polars as pl

    from nirs_store.cli._spectra import SpectraTable


@click.command("predict", cls=Command)
@click.argument("source", metavar="CHAIN|BUNDLE")
@click.argument("spectra", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="A .csv, .parquet or .json file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of CSV.")
@click.option(
    "--resample", is_flag=True, help="Interpolate the spectra to the grid of a bundle's calibration."
)
@trust_options
@workspace_option
def command(
    source: str,
    spectra: Path,
    output: Path | None,
    as_json: bool,
    resample: bool,
    allow_pickle: bool,
    trusted_types: tuple[str, ...],
    workspace: Path,
) -> None:
    """Predict the spectra of a CSV or Parquet file.

    The first argument is the id of a chain in the workspace, or a .n4a bundle, which needs no
    workspace. In SPECTRA, columns named by a number are wavelengths; the others are labels, which
    come back beside the predictions. Predictions are printed as CSV unless --output names a file.
    """
    from nirs_store.cli._spectra import read_spectra

    _check_output(output)
    table = read_spectra(spectra)
    if source.lower().endswith(".n4a"):
        predicted, metadata = _with_bundle(Path(source), table, allow_pickle, trusted_types, resample)
    elif resample:
        raise click.UsageError("--resample goes with a bundle; resample the spectra yourself for a chain.")
    else:
        predicted, metadata = _with_chain(workspace, source, table)
    frame = _beside(table, predicted, str(metadata.get("target") or ""))
    _write(frame, output, as_json)
    _report(table, predicted, metadata)


def _with_chain(workspace: Path, source: str, table: SpectraTable) -> tuple[Any, dict[str, Any]]:
    from nirs_store.cli._workspace import find, open_store

    with open_store(workspace) as store:
        found = find(store, source, ["chain"])
        predicted = store.replay_chain(found.identifier, table.X, wavelengths=table.wavelengths)
    return predicted, found.record.get("metadata") or {}


def _with_bundle(
    path: Path, table: SpectraTable, allow_pickle: bool, trusted_types: tuple[str, ...], resample: bool
) -> tuple[Any, dict[str, Any]]:
    from nirs_store.bundle.reader import load_bundle

    with as_options():
        bundle = load_bundle(path, allow_pickle=allow_pickle, trusted_types=trusted_types)
    predicted = bundle.predict(table.X, wavelengths=table.wavelengths, resample=resample)
    return predicted, bundle.chain.get("metadata") or {}


def _beside(table: SpectraTable, predicted: Any, target: str) -> pl.DataFrame:
    """Return the labels with the predictions as further columns."""
    import numpy as np
    import polars as pl

    array = np.asarray(predicted)
    stem = f"predicted_{target}" if target else "predicted"
    if array.ndim == 1 or array.shape[1] == 1:
        columns = [pl.Series(stem, array.reshape(len(array)))]
    else:
        columns = [pl.Series(f"{stem}_{i}", array[:, i]) for i in range(array.shape[1])]
    taken = [column.name for column in columns]
    return (
        table.labels.select(pl.exclude(taken)).hstack(columns)
        if table.labels.width
        else pl.DataFrame(columns)
    )


def _check_output(output: Path | None) -> None:
    from nirs_store.errors import UnknownFormat

    if output is not None and output.suffix.lower() not in (".csv", ".parquet", ".json"):
        raise UnknownFormat(
            f"Predictions are written to a .csv, .parquet or .json file; found {output.name!r}. "
            "Nothing was done."
        )


def _write(frame: pl.DataFrame, output: Path | None, as_json: bool) -> None:
    from nirs_store.cli._output import print_data, print_json

    if output is None:
        if as_json:
            print_json(frame.to_dicts())
        else:
            print_data(frame.write_csv())
        return
    from nirs_store.blobs.durable import write_file

    output.parent.mkdir(parents=True, exist_ok=True)
    write_file(output, _encoded(frame, output.suffix.lower()))
    click.echo(f"{frame.height} predictions in {output}", err=True)


def _encoded(frame: pl.DataFrame, suffix: str) -> bytes:
    import io

    sink = io.BytesIO()
    if suffix == ".parquet":
        frame.write_parquet(sink)
    elif suffix == ".json":
        frame.write_json(sink)
    else:
        frame.write_csv(sink)
    return sink.getvalue()


def _report(table: SpectraTable, predicted: Any, metadata: dict[str, Any]) -> None:
    """Say how well it fits where the file holds measured values as well; for people only."""
    import numpy as np

    target = str(metadata.get("target") or "")
    array = np.asarray(predicted)
    shown = sys.stderr is not None and sys.stderr.isatty()
    if not shown or target not in table.labels.columns or array.dtype.kind != "f":
        return
    measured = table.labels[target]
    if not measured.dtype.is_numeric() or measured.null_count() or array.size != measured.len():
        return
    from nirs_store.scores import regression_scores

    scores = regression_scores(measured.to_numpy(), array.ravel())
    unit = f" {metadata['target_unit']}" if metadata.get("target_unit") else ""
    click.echo(
        f"against the column {target!r}: RMSEP {scores['rmse']:.3f}{unit}, bias {scores['bias']:+.3f}, "
        f"R² {scores['r2']:.3f}, n {scores['n']}",
        err=True,
    )
