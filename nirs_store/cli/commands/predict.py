"""``nirs-store predict`` and ``nirs-store read``."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Command
from nirs_store.cli._options import FILE, as_options, offline_option, trust_options, workspace_option
from nirs_store.cli._output import joined_lists, print_data, print_json, write_made
from nirs_store.cli._spectra import read_file, reading_options, stored_name
from nirs_store.cli._workspace import find, open_store
from nirs_store.display import printable
from nirs_store.errors import OutlierFound, OutlierWarning, OverwriteRefused, UnknownFormat
from nirs_store.lazy import polars as pl

if TYPE_CHECKING:
    from nirs_store.domain import Domain
    from nirs_store.reading import Spectra


@click.command("predict", cls=Command)
@click.argument("source", metavar="CHAIN|NAME|BUNDLE")
@click.argument("spectra", type=FILE)
@click.option("--output", "-o", type=FILE, help="A .csv, .parquet or .json file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of CSV.")
@click.option(
    "--resample", is_flag=True, help="Interpolate the spectra to the grid of a bundle's calibration."
)
@reading_options
@click.option("--details", is_flag=True, help="Add T2, Q, leverage, GH and NH of every sample.")
@click.option("--level", type=float, default=0.90, help="Level of the interval.")
@click.option("--alpha", type=float, default=0.05, help="Share of normal samples that are flagged.")
@click.option(
    "--strict",
    is_flag=True,
    help="Refuse if your own code differs from the recording (exit code 4); end with exit code 11 if a sample "
    "is flagged.",
)
@click.option("--instrument", metavar="NAME", help="Instrument, for the log and the scope of a calibration.")
@click.option("--operator", metavar="NAME", help="Who measured the spectra, for the log.")
@click.option("--matrix", metavar="NAME", help="Kind of sample, for the scope of a calibration.")
@click.option(
    "--log/--no-log",
    default=None,
    help="Keep the predictions in the log [default: those of a named calibration].",
)
@click.option("--measured-at", metavar="MOMENT", help="When they were measured, for the log [default: now].")
@click.option("--keep-spectra", is_flag=True, help="Log the spectra themselves, not only their hashes.")
@trust_options
@workspace_option
@offline_option
def predict(
    source: str,
    spectra: Path,
    output: Path | None,
    as_json: bool,
    resample: bool,
    reading: dict[str, Any],
    details: bool,
    level: float,
    alpha: float,
    strict: bool,
    instrument: str | None,
    matrix: str | None,
    allow_pickle: bool,
    trusted_types: tuple[str, ...],
    workspace: Path,
    **logged: Any,
) -> None:
    """Predict the spectra of a CSV, Excel, Parquet or instrument file, or of a folder.

    The first argument is the id of a chain in the workspace, the name of a calibration such as
    fat@production or fat@v3, or a .n4a bundle, which needs no workspace. In SPECTRA, numeric column names
    are wavelengths; the other columns are labels, which are returned next to the predictions. Without
    --output, predictions are printed as CSV, with the separator and decimal sign of SPECTRA. The
    predictions of a named calibration are logged: see 'nirs-store measurements list'.

    Each prediction has its interval, where the calibration has out-of-fold predictions. The column
    "flags" is empty for a sample inside the calibration; "outside" and "extrapolated" say that the
    number should not be relied on, "domain not known" that nothing tells.
    """
    _check_output(output)
    options: dict[str, Any] = {"level": level, "alpha": alpha, "on_outlier": "ignore"}
    options |= {"instrument": instrument, "matrix": matrix}
    if source.lower().endswith(".n4a"):
        if instrument or any(logged.values()):
            raise click.UsageError("A bundle has no log; predict with a calibration of a workspace.")
        from nirs_store.bundle.reader import load_bundle

        with as_options():
            bundle = load_bundle(
                Path(source), allow_pickle=allow_pickle, trusted_types=trusted_types, strict=strict
            )
        metadata = bundle.chain.get("metadata") or {}
        table, X = _read(spectra, reading, bundle.chain)
        found_here = bundle.predict_details(X, table.wavelengths, resample=resample, **options)
        domain = bundle.domain
    elif resample:
        raise click.UsageError("--resample goes with a bundle; resample the spectra yourself for a chain.")
    else:
        from nirs_store.service.replaying import use_of

        if not spectra.exists() and stored_name(spectra) is None:
            read_file(spectra, reading)  # says so before a workspace is looked for
        with open_store(workspace) as store:
            # Looked up once: an alias that moves meanwhile does not change what predicts.
            use = use_of(store._engine, source)
            found = find(store, use.chain_id, ["chain"])
            metadata = found.record.get("metadata") or {}
            stored = stored_name(spectra)
            if stored is None:
                table, X = _read(spectra, reading, found.record)
            else:
                table = X = store.datasets.for_chain(stored, found.identifier)
            found_here = store.predict(
                found.identifier if use.name is None else f"{use.name}@v{use.version}",
                X,
                table.wavelengths,
                strict=strict,
                sample_ids=table.ids,
                **logged,
                **options,
            )
            domain = store.domain(found.identifier)
            if use.name is not None:
                click.echo(f"calibration: {printable(use.label)}", err=True)
    columns = _columns(found_here, len(table.X), details)
    frame = _joined(table, columns, metadata)
    _write(frame, table, output, as_json)
    _report(table, columns["predicted"], metadata)
    _warn(found_here, domain, level, strict)


def _read(path: Path, reading: dict[str, Any], chain: Any) -> tuple[Spectra, Any]:
    """Read the spectra, and name their channels as the calibration does where it knows them by text."""
    from nirs_store.chains.spectra import read_for_chain

    if reading["header"] is False:
        table = read_file(path, reading)
        return table, table.X
    return read_for_chain(chain, lambda **more: read_file(path, reading, **more))


def _columns(frame: pl.DataFrame, n: int, details: bool) -> dict[str, Any]:
    """Return what a detailed prediction says, each as (n, targets), or as (n,) where it is said of the sample."""
    width = frame.height // n if n else 1
    found: dict[str, Any] = {"predicted": frame["prediction"].to_numpy().reshape(n, width)}
    for name in ("raw", "lower", "upper"):
        if name in frame.columns and not frame[name].is_null().any():
            found[name] = frame[name].to_numpy().reshape(n, width)
    rows = frame.gather_every(width)
    if "correction" in rows.columns:
        found["correction"] = rows["correction"]
    if "set" in rows.columns and not rows["set"].is_null().any():
        found["set"] = rows["set"]
    if details:
        found |= {name: rows[name] for name in ("t2", "q", "h", "gh", "nh")}
    words = frame["flags"].to_list()
    of_sample = [
        list(dict.fromkeys(word for row in words[k * width : (k + 1) * width] for word in row))
        for k in range(n)
    ]
    return found | {"flags": pl.Series(of_sample, dtype=pl.List(pl.String))}


def _names(stem: str, width: int, metadata: dict[str, Any]) -> list[str]:
    target = str(metadata.get("target") or "")
    targets = metadata.get("target_names") or ()
    if len(targets) == width:
        return [f"{stem}_{each}" for each in targets]
    whole = f"{stem}_{target}" if target else stem
    return [whole] if width == 1 else [f"{whole}_{i}" for i in range(width)]


def _joined(table: Spectra, found: dict[str, Any], metadata: dict[str, Any]) -> pl.DataFrame:
    """Return the labels with the predictions as further columns; a name that is taken gets a number."""
    named: list[tuple[str, Any]] = []
    for stem, values in found.items():
        if isinstance(values, pl.Series):
            named.append((stem, values))
        else:
            names = _names(stem, values.shape[1], metadata)
            named += [(name, values[:, k]) for k, name in enumerate(names)]
    columns: list[pl.Series] = []
    for name, values in named:
        taken, number, free = {*table.labels, *(column.name for column in columns)}, 2, name
        while free in taken:
            free, number = f"{name}_{number}", number + 1
        if free != name:
            click.echo(
                f"The file has a column {name!r}; the one of the predictions is called {free!r}.", err=True
            )
        columns.append(pl.Series(free, values))
    return table.references.hstack(columns) if table.labels else pl.DataFrame(columns)


def _check_output(output: Path | None) -> None:
    if output is not None and output.suffix.lower() not in (".csv", ".parquet", ".json"):
        raise UnknownFormat(
            f"Predictions are written to a .csv, .parquet or .json file; found {output.name!r}. "
            "Nothing was done."
        )


def _write(frame: pl.DataFrame, table: Spectra, output: Path | None, as_json: bool) -> None:
    if output is None:
        if as_json:
            print_json(frame.to_dicts())
        else:
            print_data(_csv(frame, table))
        return
    write_made(output, _encoded(frame, table, output.suffix.lower()))
    click.echo(f"{frame.height} predictions in {output}", err=True)


def _csv(frame: pl.DataFrame, table: Spectra) -> str:
    from nirs_store.reading.tables import frame_csv

    text = joined_lists(frame)
    return frame_csv(text, table.dialect.get("delimiter", ","), table.dialect.get("decimal", "."))


def _encoded(frame: pl.DataFrame, table: Spectra, suffix: str) -> bytes:
    if suffix == ".csv":
        return _csv(frame, table).encode()
    sink = io.BytesIO()
    (frame.write_parquet if suffix == ".parquet" else frame.write_json)(sink)
    return sink.getvalue()


def _warn(frame: pl.DataFrame, domain: Domain | None, level: float, strict: bool) -> None:
    """Say which samples are flagged, and why bounds are missing; end with an error where asked."""
    from nirs_store.domain.frame import report_outliers

    if domain is not None and (why := domain.no_interval(level)):
        click.echo(f"No interval: {why}.", err=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", OutlierWarning)
        report_outliers(frame, "warn", "The calibration")
    for one in caught:
        click.echo(f"warning: {one.message}", err=True)
    flagged = [words for words in frame["flags"].to_list() if words and words != ["domain not known"]]
    if strict and flagged:
        raise OutlierFound(
            "Samples are flagged, and --strict was given. The predictions were written; see their column 'flags'."
        )


def _report(table: Spectra, predicted: Any, metadata: dict[str, Any]) -> None:
    """Say how well it fits where the file holds measured values as well; for people only."""
    import numpy as np

    target = str(metadata.get("target") or "")
    array = np.asarray(predicted)
    shown = sys.stderr is not None and sys.stderr.isatty()
    if not shown or target not in table.labels or array.dtype.kind != "f":
        return
    measured = table.references[target]
    if not measured.dtype.is_numeric() or measured.null_count() or array.size != measured.len():
        return
    from nirs_store.scores import regression_scores

    scores = regression_scores(measured.to_numpy(), array.ravel())
    unit = f" {metadata['target_unit']}" if metadata.get("target_unit") else ""
    click.echo(
        f"against the column {target!r}: RMSEP {scores['rmse']:.3f}{unit}, bias (predicted - measured) "
        f"{scores['bias']:+.3f}, "
        f"R² {scores['r2']:.3f}, n {scores['n']}",
        err=True,
    )


@click.command("read", cls=Command)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print the description as JSON.")
@click.option("--csv", "output", type=FILE, help="Write the spectra to this CSV file.")
@click.option("--overwrite", is_flag=True, help="Replace the file of --csv or --figure.")
@click.option("--figure", type=FILE, help="Draw the spectra to this file.")
@click.option("--colour-by", metavar="COLUMN", help="With --figure: color the spectra by this column.")
@click.option("--wavelength-unit", metavar="UNIT", help="nm or cm-1, if the file does not state it.")
@reading_options
def read(
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
    from nirs_store.reading import read_spectra

    for path in (output, figure):
        if path is not None and path.exists() and not overwrite:
            raise OverwriteRefused(f"{path} exists. Name another file, or say --overwrite. Nothing was done.")
    if colour_by is not None and figure is None:
        raise click.UsageError("--colour-by goes with --figure.")
    source: Any = files[0] if len(files) == 1 else list(files)
    spectra = read_spectra(source, wavelength_unit=wavelength_unit, **reading)
    if as_json:
        print_json(_read_about(spectra))
    else:
        click.echo(f"{printable(str(spectra.source.path))}: {printable(spectra.understood)}")
        for name, value in spectra.instrument.items():
            click.echo(f"  {printable(name)}: {printable(str(value))}")
    if output is not None:
        from nirs_store.reading.tables import frame_csv

        write_made(output, frame_csv(_read_frame(spectra)).encode())
        click.echo(f"{len(spectra)} spectra in {output}", err=True)
    if figure is not None:
        from nirs_store.plots import raw_spectra, save_figure

        drawn = raw_spectra(spectra, colour_by=colour_by, title=spectra.source.path.name)
        click.echo(f"Figure: {save_figure(drawn, figure)}", err=True)


def _read_about(spectra: Spectra) -> dict[str, Any]:
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


def _read_frame(spectra: Spectra) -> Any:
    """Return the labels and the spectra as one table that reads back the same."""
    unit = f" {spectra.unit}" if spectra.unit else ""
    names = list(spectra.channel_names)
    if spectra.wavelengths is not None:
        names = [f"{value:.10g}{unit}" for value in spectra.wavelengths]
    return spectra.references.hstack(pl.DataFrame(spectra.X, schema=names, orient="row"))
