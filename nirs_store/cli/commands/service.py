"""``nirs-store measurements`` and ``references``, and what ``calibrations`` does with calibrations in service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nirs_store.cli._group import Command, Group
from nirs_store.cli._options import Choice, confirm, dry_run_option, json_option, store_option, yes_option
from nirs_store.cli._output import cell_text, print_json, print_table
from nirs_store.display import counted

if TYPE_CHECKING:
    import polars as pl

    from nirs_store.service.monitor import Monitoring
    from nirs_store.store import WorkspaceStore

_since = click.option(
    "--since", metavar="MOMENT", help="Measured at or after this time, e.g. 2026-03-01; UTC."
)
_until = click.option("--until", metavar="MOMENT", help="Measured before this time.")


@click.group("measurements", cls=Group)
def command_measurements() -> None:
    """List and delete logged predictions."""


@command_measurements.command("list")
@click.argument("calibration", required=False)
@click.option("--sample", metavar="ID", help="Only this sample.")
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
@json_option
@store_option
def list_measurements(
    store: WorkspaceStore,
    calibration: str | None,
    sample: str | None,
    instrument: str | None,
    role: str | None,
    flagged: bool | None,
    since: str | None,
    until: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List measurements, oldest first: all, or those of CALIBRATION."""
    frame = store.measurements.list(
        calibration, sample_id=sample, instrument=instrument, role=role, flagged=flagged, since=since,
        until=until, limit=limit,
    )  # fmt: skip
    _print(
        frame,
        as_json,
        ("measured_at", "sample_id", "calibration", "version", "target", "prediction", "label", "flags", "correction",
         "instrument"),
    )  # fmt: skip


@command_measurements.command("delete")
@click.option(
    "--before", required=True, metavar="MOMENT", help="Logged before this time, e.g. 2025-01-01; UTC."
)
@click.option("--calibration", metavar="NAME", help="Only measurements of this calibration.")
@dry_run_option
@yes_option
@store_option
def delete_measurements(
    store: WorkspaceStore, before: str, calibration: str | None, dry_run: bool, yes: bool
) -> None:
    """Delete old measurements permanently; the audit trail records how many."""
    n = store.measurements.delete(before=before, calibration=calibration, dry_run=True)
    click.echo(f"{counted(n, 'measurement')} logged before {before}.")
    if dry_run or not n or not confirm("Delete them? This cannot be undone.", yes):
        return
    click.echo(f"deleted {store.measurements.delete(before=before, calibration=calibration)}")


@click.group("references", cls=Group)
def command_references() -> None:
    """Add, correct and list laboratory reference values."""


@command_references.command("add")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--sample-column", metavar="NAME", help="Column of sample ids [default: sample_id, id or sample]."
)
@click.option("--value-column", metavar="NAME", help="Column of values [default: value, or the target's].")
@click.option("--target", metavar="NAME", help="Name of the target, such as fat.")
@click.option("--unit", metavar="NAME", help="Unit of the values.")
@click.option("--lab", metavar="NAME", help="Laboratory.")
@click.option("--method", metavar="NAME", help="Method.")
@click.option("--measured-at", metavar="MOMENT", help="When the values were determined.")
@click.option(
    "--existing",
    type=Choice(("refuse", "skip", "add")),
    default="refuse",
    show_default=True,
    help="What to do with rows that are already stored, unchanged.",
)
@store_option
def add_references(
    store: WorkspaceStore,
    file: Path,
    sample_column: str | None,
    value_column: str | None,
    target: str | None,
    unit: str | None,
    lab: str | None,
    method: str | None,
    measured_at: str | None,
    existing: str,
) -> None:
    """Add the values of a CSV, Excel or Parquet FILE, one row per value.

    The columns target, unit, lab, method, measured_at and note are used if present. Several values of one sample
    are replicates.
    """
    added = store.references.add_many(
        file, sample_id=sample_column, value=value_column, target=target, unit=unit, lab=lab, method=method,
        measured_at=measured_at, existing=existing,
    )  # fmt: skip
    click.echo(f"added {counted(len(added), 'reference value')}")


@command_references.command("correct")
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


@command_references.command("list")
@click.option("--sample", metavar="ID", help="Only this sample.")
@click.option("--target", metavar="NAME", help="Only this target.")
@click.option("--history", is_flag=True, help="Include values that were corrected or withdrawn.")
@json_option
@store_option
def list_references(
    store: WorkspaceStore, sample: str | None, target: str | None, history: bool, as_json: bool
) -> None:
    """List values in the order in which they were added."""
    frame = store.references.list(sample, target=target, history=history)
    shown = ("reference_id", "sample_id", "target", "value", "unit", "lab", "method", "measured_at", "note")
    _print(frame, as_json, (*shown, "replaces") if history else shown)


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
    show_default=True,
    help="How repeated measurements of a sample count.",
)
@click.option("--skip-flagged", is_flag=True, help="Leave flagged measurements out of bias, SEP and chart.")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Level of each test.")
@click.option("--strict", is_flag=True, help="End with exit code 11 if bias, SEP or slope is significant.")
@json_option
@store_option
def command_monitor(
    store: WorkspaceStore,
    calibration: str,
    since: str | None,
    until: str | None,
    version: str | None,
    target: str | None,
    instrument: str | None,
    lab: str | None,
    repeats: Any,
    skip_flagged: bool,
    alpha: float,
    strict: bool,
    as_json: bool,
) -> None:
    """Compare what CALIBRATION predicted with the laboratory: bias, SEP, slope, control chart.

    Differences are reference - predicted. With fewer than 10 samples there is no verdict.
    """
    found = store.calibrations.monitor(
        calibration, since=since, until=until, version=version, target=target, instrument=instrument, lab=lab,
        repeats=repeats, include_flagged=not skip_flagged, alpha=alpha,
    )  # fmt: skip
    if as_json:
        print_json(found.to_dict())
    else:
        _print_monitoring(found)
    _end(found, strict)


def _print_monitoring(found: Monitoring) -> None:
    from nirs_store.lazy import polars as pl
    from nirs_store.service.statistics import BIAS

    click.echo(repr(found))
    for frame in (found.by_month, found.by_instrument, found.by_version):
        if frame.height > 1:
            click.echo()
            _print(
                frame.select(
                    frame.columns[0],
                    "n_measurements",
                    "n_flagged",
                    "n",
                    pl.col("bias").alias(BIAS),
                    "sep",
                    "verdict",
                ),
                False,
            )
    signalled = (
        found.chart.filter(found.chart["signals"].list.len() > 0) if found.chart.height else found.chart
    )
    if signalled.height:
        click.echo()
        told = [
            "measured_at",
            "sample_id",
            *(["version"] if found.version is None else []),
            "difference",
            "ewma",
        ]
        _print(signalled.select(*told, "signals").tail(20), False)


def _end(found: Monitoring, strict: bool) -> None:
    from nirs_store.errors import OutlierFound

    said = found.agreement
    if strict and (said.bias_significant or said.sep_exceeds or said.slope_significant):
        raise OutlierFound(f"{found.label}: {found.verdict}. --strict was given.")


@click.command("correct", cls=Command)
@click.argument("calibration")
@click.option(
    "--kind",
    type=Choice(("auto", "bias", "slope_bias")),
    default="auto",
    show_default=True,
    help="What to correct.",
)
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
@json_option
@store_option
def command_correct(
    store: WorkspaceStore,
    calibration: str,
    kind: Any,
    since: str | None,
    until: str | None,
    instrument: str | None,
    lab: str | None,
    skip_flagged: bool,
    slope: float | None,
    bias: float | None,
    reason: str | None,
    force: bool,
    retire: bool,
    as_json: bool,
) -> None:
    """Correct the predictions of one version of CALIBRATION by slope and bias, or retire its correction.

    The slope and bias come from the logged samples that have a reference.
    """
    if retire:
        made = store.calibrations.retire_correction(calibration, reason=reason)
    else:
        made = store.calibrations.correct(
            calibration, kind=kind, slope=slope, bias=bias, since=since, until=until, instrument=instrument,
            lab=lab, include_flagged=not skip_flagged, reason=reason, force=force,
        )  # fmt: skip
    if as_json:
        print_json(made.to_dict())
    else:
        click.echo(repr(made).strip("<>"))


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
@json_option
@store_option
def command_update(
    store: WorkspaceStore,
    calibration: str,
    new_samples: str,
    old: str | None,
    test: str | None,
    cv: int | None,
    groups: str | None,
    note: str | None,
    as_json: bool,
) -> None:
    """Fit the recipe of CALIBRATION to the old and the new samples, as a new version; no alias moves.

    A FILE must have the reference values in a column named like the target.
    """
    from nirs_store.cli._spectra import read_file

    def samples(given: str | None) -> Any:
        return read_file(Path(given)) if given is not None and Path(given).exists() else given

    found = store.calibrations.update(
        calibration,
        samples(new_samples),
        old_samples=samples(old),
        test_samples=samples(test),
        cv=cv,
        note=note,
        groups=groups,
        old_groups=groups if old is not None else None,
    )
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(repr(found))


@click.command("challenge", cls=Command)
@click.argument("calibration")
@click.argument("version", required=False)
@click.option("--end", is_flag=True, help="End the challenge of the version.")
@store_option
def command_challenge(store: WorkspaceStore, calibration: str, version: str | None, end: bool) -> None:
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


def _print(frame: pl.DataFrame, as_json: bool, shown: tuple[str, ...] = ()) -> None:
    if as_json:
        print_json(frame.to_dicts())
        return
    columns = [name for name in shown or frame.columns if name in frame.columns]
    columns = [name for name in columns if frame.height == 0 or not frame[name].is_null().all()] or columns
    rows = [
        [(", ".join(value) or None) if isinstance(value, list) else cell_text(value) for value in row]
        for row in frame.select(columns).rows()
    ]
    print_table(columns, rows, numeric=[name for name in columns if frame[name].dtype.is_numeric()])
