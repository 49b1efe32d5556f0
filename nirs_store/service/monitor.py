"""Monitoring of a calibration: the log joined with the references of the laboratory, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, get_args

import numpy as np

from nirs_store.audit.trail import moment
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.table import Table
from nirs_store.display import block, cell_text, counted, field_table, table
from nirs_store.errors import InvalidInput
from nirs_store.lazy import polars as pl
from nirs_store.records.named import aliases_of
from nirs_store.service.corrections import Correction, list_corrections
from nirs_store.service.pairs import (
    Wanted,
    counts_of,
    figures_of_target,
    pairs_of,
    target_of,
    unit_of,
    which_version,
    why_none,
)
from nirs_store.service.references import Combine
from nirs_store.service.statistics import (
    BIAS,
    FEWEST,
    LAMBDA,
    Agreement,
    Baseline,
    Repeats,
    agreement,
    control_chart,
    paired,
    per_sample,
    plain_fields,
)
from nirs_store.values import one_of, with_zone


@dataclass(frozen=True, eq=False)
class Monitoring:
    """Figures of a calibration in service; differences are reference - predicted.

    Attributes
    ----------
    calibration : str
        Its name.
    version : int or None
        The evaluated version; None for all versions together.
    aliases : tuple of str
        Aliases that point to this version now.
    target, unit : str or None
    since, until : datetime or None
        As requested, in UTC.
    n_measurements, n_flagged : int
        Number of returned predictions, and of those with a flag.
    agreement : Agreement
        Bias (reference - predicted), SEP, slope and their limits, over the samples with a reference. For all versions
        together, a sample counts once for each version that predicted it.
    sel, sel_df : float, int
        Standard error of the laboratory from replicates, and its degrees of freedom; NaN and 0 without replicates.
    chart : polars.DataFrame
        One row per point in time order: ``sample_id, measured_at, version, instrument, reference, prediction,
        difference, warning, action, ewma, ewma_limit, signals``.
    by_month, by_instrument, by_version : polars.DataFrame
        The same figures by month, instrument and version; ``bias`` is reference - predicted.
    challengers : polars.DataFrame
        One row per challenger, compared on the samples that both predicted.
    corrections : tuple of Correction
        All corrections of this version, including retired ones.
    notes : tuple of str
        Sentences about what was left out or could not be determined.
    """

    calibration: str
    version: int | None
    aliases: tuple[str, ...]
    target: str | None
    unit: str | None
    since: datetime | None
    until: datetime | None
    n_measurements: int
    n_flagged: int
    agreement: Agreement
    sel: float
    sel_df: int
    chart: pl.DataFrame
    by_month: pl.DataFrame
    by_instrument: pl.DataFrame
    by_version: pl.DataFrame
    challengers: pl.DataFrame
    corrections: tuple[Correction, ...]
    notes: tuple[str, ...]

    @property
    def n(self) -> int:
        """Return the number of samples with a reference, counted once for each version."""
        return self.agreement.n

    @property
    def share_flagged(self) -> float:
        """Return the share of reported predictions with a flag; NaN without measurements."""
        return self.n_flagged / self.n_measurements if self.n_measurements else math.nan

    @property
    def verdict(self) -> str:
        """Say in words what the tests mean."""
        return self.agreement.advice

    @property
    def alarms(self) -> tuple[str, ...]:
        """Say what is out of control: what the tests find, and what the chart signals at its newest point."""
        found = [self.verdict] if self.agreement.needs_attention else []
        newest = self.chart["signals"].to_list()[-1] if self.chart.height else []
        signals = [word for word in newest if word != "warning"]
        if signals:
            found.append(f"the newest point of the control chart signals: {', '.join(signals)}")
        return tuple(found)

    @property
    def label(self) -> str:
        """Return ``fat@v3 (production)``."""
        which = "all versions" if self.version is None else f"v{self.version}"
        return f"{self.calibration}@{which}" + (f" ({', '.join(self.aliases)})" if self.aliases else "")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return plain_fields(self, "share_flagged", "verdict", "alarms")

    def plot(self, **options: Any) -> Any:
        """Draw the control chart; options as for `nirs_store.plots.control_chart`."""
        from nirs_store.plots import control_chart as draw

        return draw(self, **options)

    def _facts(self) -> dict[str, Any]:
        found = self.agreement
        unit = f" {self.unit}" if self.unit else ""
        share = "" if math.isnan(self.share_flagged) else f" ({self.share_flagged:.1%})"
        base = found.baseline
        facts: dict[str, Any] = {
            "measurements": f"{self.n_measurements:,}, {self.n_flagged:,} flagged{share}",
            "samples with a reference": found.n,
        }
        if not found.n:
            return facts
        facts[BIAS] = f"{found.bias:+.4g}{unit}, limit {_text(found.bias_limit)}"
        limit = "no limit"
        if base is not None:
            limit = f"limit {_text(found.sep_limit)} from {base.kind} {base.error:.4g} with {base.df} df"
        facts["SEP"] = f"{_text(found.sep)}{unit}, {limit}"
        facts["slope"] = f"{_text(found.slope)}, t {_text(found.slope_t)}, limit {_text(found.slope_t_limit)}"
        facts["RMSEP"] = f"{found.rmsep:.4g}{unit}"
        if self.sel_df:
            facts["SEL"] = f"{self.sel:.4g}{unit} from replicates, {self.sel_df} df"
        signals = self.chart["signals"].list.contains("action").sum() if self.chart.height else 0
        facts["beyond the action limit"] = f"{signals:,} of {counted(self.chart.height, 'point')}"
        return facts

    def __repr__(self) -> str:
        lines = [f"{self.label}: {self.verdict}"]
        lines += [f"  {name}: {value}" for name, value in self._facts().items()]
        lines += [f"  {each}" for each in self._corrected.values()]
        lines += [
            f"  challenger v{row['version']}: RMSEP {_text(row['rmsep'])} against {_text(row['rmsep_reported'])}, "
            f"{row['verdict']}"
            for row in self.challengers.iter_rows(named=True)
        ]
        return "\n".join([*lines, *(f"  note: {each}" for each in self.notes)])

    @property
    def _corrected(self) -> dict[str, str]:
        return {c.label: c.words + (" (retired)" if c.retired_at else "") for c in self.corrections}

    def _repr_html_(self) -> str:
        parts = [field_table({"verdict": self.verdict, **self._facts()})]
        for name in ("by_month", "by_instrument", "by_version", "challengers"):
            found: pl.DataFrame = getattr(self, name)
            if found.height:
                rows = [[cell_text(value) for value in row] for row in found.rows()]
                columns = [BIAS if each == "bias" else each for each in found.columns]
                parts.append(table(columns, rows, caption=name.replace("_", " ")))
        said = {f"note {place}": each for place, each in enumerate(self.notes, 1)}
        return block(self.label, *parts, field_table(said | self._corrected))


def _text(value: float) -> str:
    return "not defined" if value is None or math.isnan(value) else f"{value:.4g}"


# -- The whole report.


def monitor(
    engine: Engine,
    calibration: Any,
    *,
    since: Any = None,
    until: Any = None,
    alias: str | None = None,
    version: Any = None,
    target: str | None = None,
    instrument: str | None = None,
    lab: str | None = None,
    method: str | None = None,
    repeats: Repeats = "mean",
    combine: Combine = "mean",
    include_flagged: bool = True,
    alpha: float = 0.05,
    ewma_lambda: float = LAMBDA,
) -> Monitoring:
    """Compare what a calibration predicted with the laboratory; see `Calibrations.monitor`."""
    one_of("repeats", repeats, get_args(Repeats))
    one_of("combine", combine, get_args(Combine))
    begin, end = moment(since, "since"), moment(until, "until")
    if begin is not None and end is not None and begin >= end:
        raise InvalidInput(f"since: expected a moment before until; found {since} and {until}.")

    def ask(con: Connection) -> Monitoring:
        row, whole = which_version(con, calibration, alias, version)
        number = None if whole else int(row["version"])
        wanted = Wanted(
            row["name"], number, target, begin, end, instrument, lab, method, combine, include_flagged
        )
        counts = counts_of(con, wanted)
        about = target_of(con, counts, row["chain_id"], target)
        wanted = replace(wanted, target=about)
        pairs, notes = pairs_of(con, wanted)
        notes = notes if pairs.height or notes else why_none(con, wanted)
        known = Table(con, "calibration_versions").where(name=row["name"])
        figures = {int(each["version"]): figures_of_target(each["figures"] or {}, about) for each in known}
        errors, bases = _errors(figures), {each: Baseline.of(found) for each, found in figures.items()}
        # Several versions have one limit together only where their errors are equal.
        measured = sorted(set(pairs["version"].to_list())) if whole else [int(row["version"])]
        limits = {bases.get(each) for each in measured}
        base = next(iter(limits)) if len(limits) == 1 else None
        aliases = [a for (_, a), v in aliases_of(con, row["name"]).items() if v == row["version"]]
        reported = counts.filter(pl.col("role") == "reported")
        if about is not None:
            reported = reported.filter(pl.col("target").is_null() | (pl.col("target") == about))
        notes += _left_out(reported, errors, base, number, include_flagged)
        if limits and base is None:
            several = "the versions differ in SEC or SECV: by_version has a limit for each"
            notes.append(
                f"SEP has no limit: {several if len(limits) > 1 else 'neither SEC nor SECV is known'}"
            )
        if number is not None and not reported.height:
            notes += _of_others(con, wanted)
        # Predictions of two versions are never averaged: the mean would be the error of neither.
        points = per_sample(pairs, repeats, ("version",))
        notes += _twice(points) if repeats != "each" else []
        sel, sel_df = _sel(pairs)
        return Monitoring(
            row["name"],
            number,
            () if whole else tuple(aliases),
            about,
            unit_of(con, wanted),
            with_zone(begin),
            with_zone(end),
            int(reported["n"].sum()),
            int(reported["flagged"].sum()),
            agreement(
                points["reference"].to_numpy(), points["prediction"].to_numpy(), baseline=base, alpha=alpha
            ),
            sel,
            sel_df,
            _chart(points, errors, ewma_lambda),
            _parts(reported, pairs, "month", repeats, base, alpha),
            _parts(reported, pairs, "instrument", repeats, base, alpha),
            _parts(reported, pairs, "version", repeats, bases, alpha),
            _challengers(con, wanted, pairs, alpha),
            list_corrections(con, row["name"], number),
            tuple(notes),
        )

    return engine.query(ask)


def _of_others(con: Connection, wanted: Wanted) -> list[str]:
    """Say which other versions have measurements, for one that has none."""
    others = replace(wanted, version=None)
    rows = con.execute(
        f"SELECT m.version, count(*) FROM measurements m WHERE {others.where} AND m.role = 'reported' "
        "GROUP BY m.version ORDER BY m.version",
        others.params,
    ).fetchall()
    if not rows:
        return []
    told = ", ".join(f"v{version} has {count}" for version, count in rows)
    return [f"v{wanted.version} has no measurements yet; {told}: ask for that version, or for all of them"]


def _twice(points: pl.DataFrame) -> list[str]:
    """Say how many samples count once for each of several versions."""
    several = points.height - points["sample_id"].n_unique()
    if not several:
        return []
    shared = points.group_by("sample_id").len().filter(pl.col("len") > 1).height
    told = f"predicted by several versions, and counted once for each: {counted(shared, 'sample')}"
    return [f"{told}; limits and verdicts treat these as separate samples"]


def _errors(figures: Mapping[int, Mapping[str, Any]]) -> dict[int, tuple[float, str]]:
    """Return the error at registration by version, SEP or else SECV, and which of them it is."""
    found = {}
    for version, told in figures.items():
        for kind in ("sep", "secv"):
            value = told.get(kind)
            if isinstance(value, (int, float)) and math.isfinite(value) and value > 0:
                found[version] = (float(value), kind.upper())
                break
    return found


def _left_out(
    reported: pl.DataFrame,
    errors: Mapping[int, tuple[float, str]],
    base: Baseline | None,
    version: int | None,
    include_flagged: bool,
) -> list[str]:
    """Say what the figures do not show by themselves."""
    names = ("n", "labels", "nameless", "no_number", "corrected", "flagged")
    n, labels, nameless, no_number, corrected, flagged = (int(reported[name].sum()) for name in names)
    kinds = {errors[v][1] for v in ([version] if version is not None else list(errors)) if v in errors}
    share = f"{flagged / max(n, 1):.0%} of the measurements are flagged"
    notes = {
        f"{counted(labels, 'prediction')} with labels of a classifier: no bias, SEP or chart": labels,
        f"{counted(nameless, 'measurement')} without a sample id cannot be joined to a reference": nameless,
        f"left out: {counted(no_number, 'measurement')} without a finite prediction": no_number,
        "the number of fitted parameters is not defined: SEP is compared with SECV and n - 1 degrees of freedom": (
            base is not None and base.kind == "SECV"
        ),
        f"corrected: {corrected:,} of {counted(n, 'measurement')}; bias, SEP and chart are about what was "
        "reported": corrected,
        "no SEP of a test set was registered: the limits of the chart are multiples of SECV": "SECV" in kinds,
        "no error was registered with the version: the chart has no limits": not kinds,
        f"{share}: the instrument or the samples have changed; look for the cause before you correct": (
            2 * flagged > n >= FEWEST
        ),
        f"left out of bias, SEP and chart: {counted(flagged, 'flagged measurement')}": (
            flagged and not include_flagged
        ),
    }
    return [words for words, holds in notes.items() if holds]


def _chart(points: pl.DataFrame, errors: Mapping[int, tuple[float, str]], weight: float) -> pl.DataFrame:
    versions = points["version"].to_list()
    sigma = np.array([errors.get(v, (math.nan, ""))[0] for v in versions], dtype=np.float64)
    difference = points["reference"].to_numpy() - points["prediction"].to_numpy()
    told = points.select("sample_id", "measured_at", "version", "instrument", "reference", "prediction")
    return told.hstack(control_chart(difference, sigma, weight=weight))


def _parts(
    reported: pl.DataFrame,
    pairs: pl.DataFrame,
    by: str,
    repeats: Repeats,
    base: Baseline | Mapping[int, Baseline | None] | None,
    alpha: float,
) -> pl.DataFrame:
    """Lay out the figures by month, instrument or version."""
    if by == "month":
        pairs = pairs.with_columns(month=pl.col("measured_at").dt.truncate("1mo").dt.date())
    counted = reported.group_by(by).agg(pl.col("n").sum(), pl.col("flagged").sum()).sort(by, nulls_last=True)
    points = per_sample(pairs, repeats, tuple(dict.fromkeys((by, "version"))))
    rows = []
    for key, n, flagged in counted.iter_rows():
        part = points.filter(pl.col(by).eq_missing(pl.lit(key)))
        own = base.get(key) if isinstance(base, Mapping) else base
        found = agreement(
            part["reference"].to_numpy(), part["prediction"].to_numpy(), baseline=own, alpha=alpha
        )
        figures = (found.n, found.bias, found.bias_limit, found.sep, found.rmsep, found.advice)
        rows.append((key, n, flagged, flagged / n, *figures))
    schema: dict[str, Any] = {
        by: reported.schema[by], "n_measurements": pl.Int64, "n_flagged": pl.Int64, "share_flagged": pl.Float64,
        "n": pl.Int64, "bias": pl.Float64, "bias_limit": pl.Float64, "sep": pl.Float64, "rmsep": pl.Float64,
        "verdict": pl.String,
    }  # fmt: skip
    result = pl.DataFrame(rows, schema=schema, orient="row")
    return result.with_columns(pl.col(pl.Float64).fill_nan(None))


def _sel(pairs: pl.DataFrame) -> tuple[float, int]:
    """Return SEL from the replicates of the samples, each counted once."""
    each = pairs.unique("sample_id").filter(pl.col("n_references") > 1)
    df = int((each["n_references"] - 1).sum()) if each.height else 0
    if not df:
        return math.nan, 0
    squares = float((each["reference_sd"] ** 2 * (each["n_references"] - 1)).sum())
    return math.sqrt(squares / df), df


def _challengers(con: Connection, wanted: Wanted, pairs: pl.DataFrame, alpha: float) -> pl.DataFrame:
    """Compare each challenger with what was reported, on the measurements that both predicted."""
    some = "SELECT 1 FROM measurements WHERE calibration = ? AND role = 'challenger' LIMIT 1"
    if not con.execute(some, [wanted.name]).fetchall():
        return pl.DataFrame()
    rivals, _ = pairs_of(con, replace(wanted, version=None), role="challenger")
    mine = pairs.select("batch_id", "sample_id", reported="prediction", reported_by="version")
    both = rivals.join(mine, on=("batch_id", "sample_id"), how="inner")
    rows = []
    for version in sorted(set(both["version"].to_list())):
        part = both.filter(pl.col("version") == version)
        each = part.group_by("sample_id", "reported_by", maintain_order=True).agg(
            pl.col("reference").first(), pl.col("prediction").mean(), pl.col("reported").mean()
        )
        found = paired(each["reference"], each["reported"], each["prediction"], alpha=alpha)
        rows.append({"version": version, **found})
    named = {"rmsep": "rmsep_second", "rmsep_reported": "rmsep_first"}
    columns = ("version", "n", *named, "mean_difference", "p", "verdict")
    return pl.DataFrame([{name: row[named.get(name, name)] for name in columns} for row in rows])
