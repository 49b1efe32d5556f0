"""``nirs-store datasets``: spectra with references, under a name with versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Command, Group
from nirs_store.cli._options import FOR_GOOD, confirm, json_option, store_option, yes_option
from nirs_store.cli._output import (
    human_bytes,
    moment,
    print_fields,
    print_json,
    print_rows,
    print_table,
    short_id,
)
from nirs_store.cli._spectra import read_file, reading_options
from nirs_store.errors import quoted

if TYPE_CHECKING:
    import polars as pl

    from nirs_store.datasets.version import DatasetVersion
    from nirs_store.store import WorkspaceStore

_id_option = click.option("--id", "ids", metavar="SAMPLE", multiple=True, help="A sample; may be repeated.")
_where_option = click.option(
    "--where", metavar="CONDITION", help="Samples that meet it, e.g. 'moisture < 12 AND year = 2023'."
)


@click.group("datasets", cls=Group)
def command() -> None:
    """Store spectra with references as data sets: names, versions, selections, and who has seen a sample."""


@command.command("add", cls=Command)
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--id", "id_column", metavar="COLUMN", help="Column of the sample names.")
@click.option("--groups", metavar="COLUMN", help="Column of samples that belong together.")
@click.option(
    "--unit",
    "units",
    metavar="COLUMN=UNIT",
    multiple=True,
    help="Unit of a column, e.g. moisture=%; may be repeated.",
)
@click.option("--wavelength-unit", metavar="UNIT", help="nm, cm-1 or um.")
@click.option("--note", "-m", metavar="TEXT", help="Why this version was made.")
@click.option("--other-grid", is_flag=True, help="Allow wavelengths other than those of the newest version.")
@reading_options
@json_option
@store_option
def add(
    store: WorkspaceStore,
    name: str,
    file: tuple[Path, ...],
    id_column: str | None,
    groups: str | None,
    units: tuple[str, ...],
    wavelength_unit: str | None,
    note: str | None,
    other_grid: bool,
    reading: dict[str, Any],
    as_json: bool,
) -> None:
    """Store the spectra of FILE (or several on one grid) as the next version of NAME."""
    wrong = next((each for each in units if "=" not in each), None)
    if wrong is not None:
        raise click.UsageError(f"--unit: expected COLUMN=UNIT, as in moisture=%; found {wrong!r}.")
    spectra = read_file(
        file[0] if len(file) == 1 else file,
        reading,
        id_column=id_column,
        groups=groups,
        wavelength_unit=wavelength_unit,
    )
    made = store.datasets.add(
        name,
        spectra,
        units=dict(each.split("=", 1) for each in units),
        note=note,
        other_grid=other_grid,
    )
    if as_json:
        print_json({**made.to_dict(), "added": made.added})
    elif made.added:
        click.echo(
            f"Stored {made.reference}: {made.n_samples:,} samples, {human_bytes(made.size_bytes)} new."
        )
    else:
        click.echo(f"{made.reference} holds the same already; nothing was stored.")


@command.command("list", cls=Command)
@json_option
@store_option
def list_datasets(store: WorkspaceStore, as_json: bool) -> None:
    """List the data sets, each with its newest version."""
    found = store.datasets.list()
    _print_versions(found, as_json)


@command.command("versions", cls=Command)
@click.argument("name")
@json_option
@store_option
def versions(store: WorkspaceStore, name: str, as_json: bool) -> None:
    """List the versions of NAME, oldest first."""
    found = store.datasets.versions(name)
    _print_versions(found, as_json)


@command.command("show", cls=Command)
@click.argument("name")
@json_option
@store_option
def show(store: WorkspaceStore, name: str, as_json: bool) -> None:
    """Show a version, NAME@v2, or the newest, NAME."""
    found = store.datasets.version(name)
    if as_json:
        print_json(found.to_dict())
    else:
        _print_version(found)


@command.command("diff", cls=Command)
@click.argument("before")
@click.argument("after")
@json_option
@store_option
def diff(store: WorkspaceStore, before: str, after: str, as_json: bool) -> None:
    """Compare two versions: samples added, removed and changed, references corrected."""
    found = store.datasets.diff(before, after)
    if as_json:
        print_json(found.to_dict())
        return
    click.echo(repr(found)[1:-1])
    rows = [(str(name), what) for what in ("added", "removed", "changed") for name in getattr(found, what)]
    if rows:
        print_table(["sample", "is"], rows, flexible=["sample"])
    if found.corrected.height:
        print_table(found.corrected.columns, found.corrected.rows(), flexible=["sample", "column"])


@command.command("select", cls=Command)
@click.argument("source")
@click.argument("name")
@_id_option
@_where_option
@click.option("--invert", is_flag=True, help="All other samples instead.")
@click.option("--note", "-m", metavar="TEXT", help="Why these samples.")
@json_option
@store_option
def select(
    store: WorkspaceStore,
    source: str,
    name: str,
    ids: tuple[str, ...],
    where: str | None,
    invert: bool,
    note: str | None,
    as_json: bool,
) -> None:
    """Store some samples of SOURCE (such as corn@v2) as the next version of NAME: a calibration or test set."""
    made = store.datasets.select(source, name, ids=list(ids) or None, where=where, invert=invert, note=note)
    if as_json:
        print_json({**made.to_dict(), "added": made.added})
    else:
        click.echo(f"{'Stored' if made.added else 'There is'} {made.reference}: {made.n_samples:,} samples.")


@command.command("export", cls=Command)
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
@_id_option
@_where_option
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@store_option
def export(
    store: WorkspaceStore, name: str, path: Path, ids: tuple[str, ...], where: str | None, overwrite: bool
) -> None:
    """Write NAME (or NAME@v2) as a table: PATH ends with .parquet or .csv."""
    written = store.datasets.export(name, path, ids=list(ids) or None, where=where, overwrite=overwrite)
    click.echo(f"Wrote {written}")


@command.command("chains", cls=Command)
@click.argument("sample")
@json_option
@store_option
def chains(store: WorkspaceStore, sample: str, as_json: bool) -> None:
    """List the chains that have seen SAMPLE, of those recorded from data sets."""
    found = store.datasets.chains_of(sample)
    holding = [] if as_json or found.height else _holding(store, sample)
    if as_json:
        print_json(found.to_dicts())
        return
    if found.is_empty():
        where = f"is in {', '.join(holding)}" if holding else "is in no data set"
        click.echo(f"No chain that was recorded from a data set has seen it. {quoted(sample)} {where}.")
        return
    print_rows(
        found.iter_rows(named=True),
        {
            "chain": lambda row: short_id(row["chain_id"]),
            "role": "role",
            "dataset": "dataset",
            "target": "target",
            "pipeline": "pipeline",
            "recorded": lambda row: moment(row["created_at"]),
        },
        flexible=["dataset", "pipeline"],
    )


def _holding(store: WorkspaceStore, sample: str) -> list[str]:
    """Name the versions that have a sample."""
    import polars as pl

    references = [
        f"{name}@v{version}"
        for name in store.datasets.list()["name"]
        for version in store.datasets.versions(name)["version"]
    ]
    return [
        reference
        for reference in references
        if "id" in (frame := store.datasets.samples(reference)).columns
        and frame["id"].cast(pl.String).eq(sample).any()
    ]


@command.command("common", cls=Command)
@click.argument("first")
@click.argument("second")
@json_option
@store_option
def common(store: WorkspaceStore, first: str, second: str, as_json: bool) -> None:
    """List the spectra that two data sets share; a calibration set and its test set should share none."""
    found = store.datasets.in_common(first, second)
    if as_json:
        print_json(found.to_dicts())
    elif found.is_empty():
        click.echo("None.")
    else:
        rows = [
            [row["sample"], row["sample_other"], row["row"], row["row_other"]] for row in found.to_dicts()
        ]
        print_table(["sample", f"in {second}", "row", f"row in {second}"], rows, flexible=["sample"])


@command.command("delete", cls=Command)
@click.argument("name")
@click.option("--force", is_flag=True, help="Delete even if a pin, a selection or a chain needs it.")
@yes_option
@store_option
def delete(store: WorkspaceStore, name: str, force: bool, yes: bool) -> None:
    """Delete a version, NAME@v2; 'nirs-store gc' then frees its files."""
    found = store.datasets.version(name)
    if not yes:
        _print_version(found)
        click.echo(FOR_GOOD)
    if not confirm(f"Delete {found.reference}?", yes):
        click.echo("Nothing was deleted.")
        return
    store.datasets.delete(name, force=force)
    click.echo(f"Deleted {found.reference}.")


def _print_version(found: DatasetVersion) -> None:
    chosen = found.selection or {}
    print_fields(
        {
            "data set": found.reference,
            "samples": f"{found.n_samples:,}",
            "channels": found.grid_text,
            "dtype": found.dtype,
            "columns": ", ".join(found.labels) or None,
            "instrument": ", ".join(f"{k}: {v}" for k, v in found.instrument.items()) or None,
            "chosen from": " ".join(str(chosen[k]) for k in ("of", "where") if chosen.get(k)) or None,
            "brought": human_bytes(found.size_bytes),
            "note": found.note,
            "stored": moment(found.created_at),
            "id": found.dataset_version_id,
        }
    )


def _print_versions(frame: pl.DataFrame, as_json: bool) -> None:
    print_rows(
        frame,
        {
            "name": "name",
            "version": lambda row: f"v{row['version']}",
            "kind": "kind",
            "samples": lambda row: f"{row['samples']:,}",
            "channels": lambda row: f"{row['channels']:,}",
            "columns": lambda row: ", ".join(row["labels"]),
            "new": lambda row: human_bytes(row["bytes"]),
            "note": "note",
            "stored": lambda row: moment(row["created_at"]),
        },
        as_json=as_json,
        empty="No data sets.",
        numeric=["samples", "channels", "new"],
        flexible=["name", "columns", "note"],
    )
