"""``nirs-store measurements`` and ``references``, and what ``calibrations`` does with calibrations in service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Command, Group
from nirs_store.cli._options import FILE, Choice, confirm, dry_run_option, yes_option
from nirs_store.cli._output import answer, cell_text, print_table, printed_json
from nirs_store.cli._spectra import read_file
from nirs_store.cli._workspace import json_store_option, store_option
from nirs_store.display import counted
from nirs_store.errors import OutlierFound
from nirs_store.lazy import polars as pl

if TYPE_CHECKING:
    from nirs_store.service.monitor import Monitoring
    from nirs_store.store import WorkspaceStore

_since = click.option(
    "--since", metavar="MOMENT", help="Measured at or after this time, e.g. 2026-03-01; UTC."
)
_until = click.option("--until", metavar="MOMENT", help="Measured before this time.")


@click.group("measurements", cls=Group)
def measurements() -> None:
    """List and delete logged predictions."""


@measurements.command("list")
@click.argument("calibration", required=False)
@click.option("--sample", "sample_id", metavar="ID", help="Only this sample.")
@click.option("--instrument", metavar="NAME", help="Only this instrument.")
@click.option(
    "--role", type=Choice(("reported", "challenger")), help="Returned predictions, or those of challengers."
)
@click.option(
    "--flagged/--not-flagged", default=None, help="Only measurements with a flag, or only those without."
)
@_since
@_until
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the newest N.")
@json_store_option
def list_measurements(store: WorkspaceStore, calibration: str | None, **options: Any) -> None:
    """List measurements, oldest first: all, or those of CALIBRATION."""
    _print(
        store.measurements.list(calibration, **options),
        ("measured_at", "sample_id", "calibration", "version", "target", "prediction", "label", "flags", "correction",
         "instrument"),
    )  # fmt: skip


@measurements.command("delete")
@click.option(
    "--before", required=True, metavar="MOMENT", help="Logged before this time, e.g. 2025-01-01; UTC."
)
@click.option("--calibration", metavar="NAME", help="Only measurements of this calibration.")
@dry_run_option
@yes_option
@store_option
def delete_measurements(store: WorkspaceStore, before: str, calibration: str | None, dry_run: bool) -> None:
    """Delete old measurements permanently; the audit trail records how many."""
    n = store.measurements.delete(before=before, calibration=calibration, dry_run=True)
    click.echo(f"{counted(n, 'measurement')} logged before {before}.")
    if dry_run or not n or not confirm("Delete them? This cannot be undone."):
        return
    click.echo(f"deleted {store.measurements.delete(before=before, calibration=calibration)}")


@click.group("references", cls=Group)
def references() -> None:
    """Add, correct and list laboratory reference values."""


@references.command("add")
@click.argument("file", type=FILE)
@click.option(
    "--sample-column",
    "sample_id",
    metavar="NAME",
    help="Column of sample ids [default: sample_id, id or sample].",
)
@click.option(
    "--value-column", "value", metavar="NAME", help="Column of values [default: value, or the target's]."
)
@click.option("--target", metavar="NAME", help="Name of the target, such as fat.")
@click.option("--unit", metavar="NAME", help="Unit of the values.")
@click.option("--lab", metavar="NAME", help="Laboratory.")
@click.option("--method", metavar="NAME", help="Method.")
@click.option("--measured-at", metavar="MOMENT", help="When the values were determined.")
@click.option(
    "--existing",
    type=Choice(("refuse", "skip", "add")),
    default="refuse",
    help="What to do with rows that are already stored, unchanged.",
)
@store_option
def add_references(store: WorkspaceStore, file: Path, **options: Any) -> None:
    """Add the values of a CSV, Excel or Parquet FILE, one row per value.

    The columns target, unit, lab, method, measured_at and note are used if present. Several values of one sample
    are replicates.
    """
    added = store.references.add_many(file, **options)
    click.echo(f"added {counted(len(added), 'reference value')}")


@references.command("correct")
@click.argument("reference_id", metavar="ID")
@click.argument("value", type=float, required=False)
@click.option("--reason", required=True, metavar="TEXT", help="Why.")
@store_option
def correct_reference(store: WorkspaceStore, reference_id: str, value: float | None, reason: str) -> None:
    """Replace a value, or withdraw it if no VALUE is given; the old one stays in the history."""
    if value is None:
        store.references.withdraw(reference_id, reason)
        click.echo(f"withdrew {reference_id}")
    else:
        click.echo(f"{store.references.correct(reference_id, value, reason)} replaces {reference_id}")


@references.command("list")
@click.option("--sample", metavar="ID", help="Only this sample.")
@click.option("--target", metavar="NAME", help="Only this target.")
@click.option("--history", is_flag=True, help="Include values that were corrected or withdrawn.")
@json_store_option
def list_references(store: WorkspaceStore, sample: str | None, target: str | None, history: bool) -> None:
    """List values in the order in which they were added."""
    frame = store.references.list(sample, target=target, history=history)
    shown = ("reference_id", "sample_id", "target", "value", "unit", "lab", "method", "measured_at", "note")
    _print(frame, (*shown, "replaces") if history else shown)


# -- Commands of the group `calibrations`.


@click.command("monitor", cls=Command)
@click.argument("calibration")
@_since
@_until
@click.option("--version", metavar="N|all", help="Version, or all [default: what production points to].")
@click.option("--target", metavar="NAME", help="Target, if the calibration has several.")
@click.option("--instrument", metavar="NAME", help="Only this instrument.")
@click.option("--lab", metavar="NAME", help="Only references of this laboratory.")
@click.option(
    "--repeats",
    type=Choice(("mean", "last", "each")),
    default="mean",
    help="How repeated measurements of a sample count.",
)
@click.option("--skip-flagged", is_flag=True, help="Leave flagged measurements out of bias, SEP and chart.")
@click.option("--alpha", type=float, default=0.05, help="Level of each test.")
@click.option("--strict", is_flag=True, help="End with exit code 11 if bias, SEP or slope is significant.")
@json_store_option
def monitor(
    store: WorkspaceStore, calibration: str, skip_flagged: bool, strict: bool, **options: Any
) -> None:
    """Compare what CALIBRATION predicted with the laboratory: bias, SEP, slope, control chart.

    Differences are reference - predicted. With fewer than 10 samples there is no verdict.
    """
    found = store.calibrations.monitor(calibration, include_flagged=not skip_flagged, **options)
    if not printed_json(found.to_dict()):
        _print_monitoring(found)
    said = found.agreement
    if strict and (said.bias_significant or said.sep_exceeds or said.slope_significant):
        raise OutlierFound(f"{found.label}: {found.verdict}. --strict was given.")


def _print_monitoring(found: Monitoring) -> None:
    from nirs_store.service.statistics import BIAS

    click.echo(repr(found))
    for frame in (found.by_month, found.by_instrument, found.by_version):
        if frame.height > 1:
            click.echo()
            bias = pl.col("bias").alias(BIAS)
            _print(frame.select(frame.columns[0], "n_measurements", "n_flagged", "n", bias, "sep", "verdict"))
    chart = found.chart.filter(pl.col("signals").list.len() > 0) if found.chart.height else found.chart
    if chart.height:
        click.echo()
        version = ["version"] if found.version is None else []
        shown = ["measured_at", "sample_id", *version, "difference", "ewma", "signals"]
        _print(chart.select(shown).tail(20))


@click.command("correct", cls=Command)
@click.argument("calibration")
@click.option("--kind", type=Choice(("auto", "bias", "slope_bias")), default="auto", help="What to correct.")
@_since
@_until
@click.option("--instrument", metavar="NAME", help="Only measurements of this instrument.")
@click.option("--lab", metavar="NAME", help="Only references of this laboratory.")
@click.option("--skip-flagged", is_flag=True, help="Leave flagged measurements out.")
@click.option("--slope", type=float, help="Use this slope instead of computing one.")
@click.option("--bias", type=float, help="Use this bias instead of computing one.")
@click.option("--reason", metavar="TEXT", help="Why.")
@click.option(
    "--force", is_flag=True, help="Correct even without significance, and with as few as 3 samples."
)
@click.option("--retire", is_flag=True, help="Stop applying the current correction.")
@json_store_option
def correct(
    store: WorkspaceStore, calibration: str, skip_flagged: bool, retire: bool, **options: Any
) -> None:
    """Correct the predictions of one version of CALIBRATION by slope and bias, or retire its correction.

    The slope and bias come from the logged samples that have a reference.
    """
    if retire:
        made = store.calibrations.retire_correction(calibration, reason=options["reason"])
    else:
        made = store.calibrations.correct(calibration, include_flagged=not skip_flagged, **options)
    answer(made.to_dict(), repr(made).strip("<>"))


@click.command("update", cls=Command)
@click.argument("calibration")
@click.argument("new_samples", metavar="FILE|DATASET")
@click.option("--old", metavar="FILE|DATASET", help="Samples of the version [default: its data set].")
@click.option("--test", metavar="FILE|DATASET", help="Samples on which to compare the versions.")
@click.option("--cv", type=click.IntRange(2), metavar="N", help="Number of folds [default: as recorded].")
@click.option(
    "--groups", metavar="COLUMN", help="Column of the new samples, and of --old, that names their groups."
)
@click.option("--note", metavar="TEXT", help="Free text, kept with the new version.")
@json_store_option
def update(
    store: WorkspaceStore,
    calibration: str,
    new_samples: str,
    old: str | None,
    test: str | None,
    groups: str | None,
    **options: Any,
) -> None:
    """Fit the recipe of CALIBRATION to the old and the new samples, as a new version; no alias moves.

    A FILE must have the reference values in a column named like the target.
    """

    def samples(text: str | None) -> Any:
        return read_file(Path(text)) if text is not None and Path(text).exists() else text

    found = store.calibrations.update(
        calibration,
        samples(new_samples),
        old_samples=samples(old),
        test_samples=samples(test),
        groups=groups,
        old_groups=groups if old is not None else None,
        **options,
    )
    answer(found.to_dict(), repr(found))


@click.command("challenge", cls=Command)
@click.argument("calibration")
@click.argument("version", required=False)
@click.option("--end", is_flag=True, help="End the challenge of the version.")
@store_option
def challenge(store: WorkspaceStore, calibration: str, version: str | None, end: bool) -> None:
    """Make VERSION a challenger: its predictions are logged, not returned. Without VERSION, list the challengers."""
    calibrations = store.calibrations
    if version is not None and end:
        done = calibrations.end_challenge(calibration, version)
        click.echo(f"{version} is no longer a challenger" if done else f"{version} was not a challenger")
    elif version is not None:
        click.echo(f"v{calibrations.challenge(calibration, version)} is a challenger")
    else:
        listed = calibrations.challengers(calibration)
        click.echo(", ".join(f"v{each}" for each in listed) or "no challengers")


def _print(frame: pl.DataFrame, shown: tuple[str, ...] = ()) -> None:
    if printed_json(frame.to_dicts()):
        return
    columns = [name for name in shown or frame.columns if name in frame.columns]
    columns = [name for name in columns if frame.height == 0 or not frame[name].is_null().all()] or columns
    rows = [
        [(", ".join(value) or None) if isinstance(value, list) else cell_text(value) for value in row]
        for row in frame.select(columns).rows()
    ]
    print_table(columns, rows, numeric=[name for name in columns if frame[name].dtype.is_numeric()])
