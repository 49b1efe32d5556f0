"""``nirs-store datasets``: spectra with references, under a name with versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Group
from nirs_store.cli._options import FILE, FOR_GOOD, confirm, given, overwrite_option, yes_option
from nirs_store.cli._output import (
    answer,
    moment,
    print_fields,
    print_rows,
    print_table,
    printed_json,
    short_id,
)
from nirs_store.cli._spectra import read_file, reading_options
from nirs_store.cli._workspace import json_store_option, store_option
from nirs_store.display import byte_text
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
def datasets() -> None:
    """Store spectra with references as data sets: names, versions, selections, and who has seen a sample."""


@datasets.command("add")
@click.argument("name")
@click.argument("file", type=FILE, nargs=-1, required=True)
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
@json_store_option
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
    about = dict(each.split("=", 1) for each in units)
    made = store.datasets.add(name, spectra, units=about, note=note, other_grid=other_grid)
    stored = f"Stored {made.reference}: {made.n_samples:,} samples, {byte_text(made.size_bytes)} new."
    there = f"{made.reference} holds the same already; nothing was stored."
    answer({**made.to_dict(), "added": made.added}, stored if made.added else there)


@datasets.command("list")
@json_store_option
def list_datasets(store: WorkspaceStore) -> None:
    """List the data sets, each with its newest version."""
    _print_versions(store.datasets.list())


@datasets.command("versions")
@click.argument("name")
@json_store_option
def versions(store: WorkspaceStore, name: str) -> None:
    """List the versions of NAME, oldest first."""
    _print_versions(store.datasets.versions(name))


@datasets.command("show")
@click.argument("name")
@json_store_option
def show(store: WorkspaceStore, name: str) -> None:
    """Show a version, NAME@v2, or the newest, NAME."""
    found = store.datasets.version(name)
    if not printed_json(found.to_dict()):
        _print_version(found)


@datasets.command("diff")
@click.argument("before")
@click.argument("after")
@json_store_option
def diff(store: WorkspaceStore, before: str, after: str) -> None:
    """Compare two versions: samples added, removed and changed, references corrected."""
    found = store.datasets.diff(before, after)
    if printed_json(found.to_dict()):
        return
    click.echo(repr(found)[1:-1])
    rows = [(str(name), what) for what in ("added", "removed", "changed") for name in getattr(found, what)]
    if rows:
        print_table(["sample", "is"], rows, flexible=["sample"])
    if found.corrected.height:
        print_table(found.corrected.columns, found.corrected.rows(), flexible=["sample", "column"])


@datasets.command("select")
@click.argument("source")
@click.argument("name")
@_id_option
@_where_option
@click.option("--invert", is_flag=True, help="All other samples instead.")
@click.option("--note", "-m", metavar="TEXT", help="Why these samples.")
@json_store_option
def select(store: WorkspaceStore, source: str, name: str, ids: tuple[str, ...], **options: Any) -> None:
    """Store some samples of SOURCE (such as corn@v2) as the next version of NAME: a calibration or test set."""
    made = store.datasets.select(source, name, ids=list(ids) or None, **options)
    words = f"{'Stored' if made.added else 'There is'} {made.reference}: {made.n_samples:,} samples."
    answer({**made.to_dict(), "added": made.added}, words)


@datasets.command("export")
@click.argument("name")
@click.argument("path", type=FILE)
@_id_option
@_where_option
@overwrite_option
@store_option
def export(store: WorkspaceStore, name: str, path: Path, ids: tuple[str, ...], **options: Any) -> None:
    """Write NAME (or NAME@v2) as a table: PATH ends with .parquet or .csv."""
    click.echo(f"Wrote {store.datasets.export(name, path, ids=list(ids) or None, **options)}")


@datasets.command("chains")
@click.argument("sample")
@json_store_option
def chains(store: WorkspaceStore, sample: str) -> None:
    """List the chains that have seen SAMPLE, of those recorded from data sets."""
    found = store.datasets.chains_of(sample)
    empty = ""
    if found.is_empty() and not given("json"):
        holding = ", ".join(_holding(store, sample))
        where = f"is in {holding}" if holding else "is in no data set"
        empty = f"No chain that was recorded from a data set has seen it. {quoted(sample)} {where}."
    print_rows(
        found,
        {
            "chain": lambda row: short_id(row["chain_id"]),
            "role": "role",
            "dataset": "dataset",
            "target": "target",
            "pipeline": "pipeline",
            "recorded": lambda row: moment(row["created_at"]),
        },
        empty=empty,
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


@datasets.command("common")
@click.argument("first")
@click.argument("second")
@json_store_option
def common(store: WorkspaceStore, first: str, second: str) -> None:
    """List the spectra that two data sets share; a calibration set and its test set should share none."""
    columns = {
        "sample": "sample",
        f"in {second}": "sample_other",
        "row": "row",
        f"row in {second}": "row_other",
    }
    print_rows(store.datasets.in_common(first, second), columns, empty="None.", flexible=["sample"])


@datasets.command("delete")
@click.argument("name")
@click.option("--force", is_flag=True, help="Delete even if a pin, a selection or a chain needs it.")
@yes_option
@store_option
def delete(store: WorkspaceStore, name: str, force: bool) -> None:
    """Delete a version, NAME@v2; 'nirs-store gc' then frees its files."""
    found = store.datasets.version(name)
    if not given("yes"):
        _print_version(found)
        click.echo(FOR_GOOD)
    if not confirm(f"Delete {found.reference}?"):
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
            "brought": byte_text(found.size_bytes),
            "note": found.note,
            "stored": moment(found.created_at),
            "id": found.dataset_version_id,
        }
    )


def _print_versions(frame: pl.DataFrame) -> None:
    print_rows(
        frame,
        {
            "name": "name",
            "version": lambda row: f"v{row['version']}",
            "kind": "kind",
            "samples": lambda row: f"{row['samples']:,}",
            "channels": lambda row: f"{row['channels']:,}",
            "columns": lambda row: ", ".join(row["labels"]),
            "new": lambda row: byte_text(row["bytes"]),
            "note": "note",
            "stored": lambda row: moment(row["created_at"]),
        },
        empty="No data sets.",
        numeric=["samples", "channels", "new"],
        flexible=["name", "columns", "note"],
    )
