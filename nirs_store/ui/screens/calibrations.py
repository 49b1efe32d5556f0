"""Calibrations in service: the list, one with its control chart and log, and its dossier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nirs_store.errors import InvalidInput
from nirs_store.ids import is_id
from nirs_store.lazy import polars as pl
from nirs_store.plots._figure import axis_words
from nirs_store.service.monitor import Monitoring
from nirs_store.service.statistics import BIAS
from nirs_store.store import WorkspaceStore
from nirs_store.ui.chart import short
from nirs_store.ui.figure import Figure
from nirs_store.ui.frame import Download, Request, Screen, View
from nirs_store.ui.screens.chain import ask_trust, pickles_of
from nirs_store.ui.screens.datasets import asked_for, named_address
from nirs_store.ui.table import Column, Table, count_text, cut_of, list_of, table_of, to
from nirs_store.values import from_json

_MONITORED, _LOGGED, _INTERVALS, _ALARMS = 200, 20_000, 300, 8
_CALM = "domain not known"
_CHOSEN = ("since", "until", "instrument", "target", "version", "flagged")


def calibration_address(name: str, version: int | str = "", end: str = "") -> str:
    """Return the address of a calibration, or of one version of it."""
    return named_address("/calibrations", name, f"@v{version}" if version else "", end)


# -- The list.


def _in_use(store: WorkspaceStore) -> pl.DataFrame:
    """Return for each name how much was measured, and when last; without references there is nothing to monitor."""
    return store.sql(
        "SELECT calibration AS name, count(*) AS measurements, max(measured_at) AS last_measured, "
        "bool_or(sample_id IN (SELECT sample_id FROM sample_references WHERE value IS NOT NULL)) AS compared "
        "FROM measurements WHERE role = 'reported' AND calibration IS NOT NULL GROUP BY ALL"
    )


def _standing(store: WorkspaceStore, used: pl.DataFrame) -> dict[str, tuple[str, str]]:
    """Return the state of the calibrations that were used last, as far as there is anything to compare."""
    some = used.filter("compared").sort("last_measured", descending=True, nulls_last=True).head(_MONITORED)
    return {name: _verdict(_monitored(store, name)) for name in some["name"].to_list()}


def alarms(store: WorkspaceStore) -> list[dict[str, Any]]:
    """Return the calibrations that are out of control, with what is wrong, for the overview."""
    found = [
        {"name": name, "link": calibration_address(name), "words": words}
        for name, (state, words) in _standing(store, _in_use(store)).items()
        if state == "out of control"
    ]
    more = {"name": f"{len(found) - _ALARMS} more", "link": "/calibrations", "words": "see the list"}
    return found if len(found) <= _ALARMS else [*found[:_ALARMS], more]


def is_compared(store: WorkspaceStore) -> bool:
    """Tell whether there is anything to compare: predictions in the log, and references."""
    found = store.sql(
        "SELECT EXISTS (SELECT 1 FROM measurements) AND EXISTS (SELECT 1 FROM sample_references)"
    )
    return bool(found.item())


def out_of_control(request: Request) -> View:
    """Show the calibrations that are out of control: later than the rest of the overview, as it takes longer."""
    found = alarms(request.store)
    return View("alarms.html", "Calibrations out of control", {"alarms": found}, data=found)


def _monitored(store: WorkspaceStore, name: str) -> list[Monitoring]:
    """Monitor a calibration, each of its targets alone."""
    try:
        return [store.calibrations.monitor(name)]
    except InvalidInput:
        targets = _values_of(store, name, "target")
        return [store.calibrations.monitor(name, target=each) for each in targets] if len(targets) > 1 else []


def _verdict(reports: list[Monitoring]) -> tuple[str, str]:
    """Return the state of a calibration in two words, and what is said of it; the target where there are several."""
    wrong = [each for each in reports if each.alarms]
    known = wrong or [each for each in reports if each.agreement.enough]
    state = "out of control" if wrong else "in control" if known else "open" if reports else ""
    words = [
        (f"{each.target}: " if len(reports) > 1 else "") + ("; ".join(each.alarms) or each.verdict)
        for each in known or reports
    ]
    return state, "; ".join(words)


_LISTED = (
    Column("name", "Calibration", link=lambda row: calibration_address(row["name"])),
    Column("state", kind="status"), Column("aliases"), Column("versions", kind="whole"), Column("target"),
    Column("measurements", "Measured", "whole"), Column("last_measured", "Last", "time"),
    Column("verdict", "Against the laboratory", "wrap", longest=300),
    Column("latest", "Newest version", "whole", hidden=True), Column("created_at", "Registered", "time", hidden=True),
    Column("chain_id", "Chain", "id", link=to("/chains", "chain_id"), hidden=True),
)  # fmt: skip


def listing(request: Request) -> View:
    """List calibrations with their aliases and what the control chart says."""
    store = request.store
    used = _in_use(store)
    known = store.calibrations.list().join(used, on="name", how="left", maintain_order="left")
    standing = _standing(store, used)
    states = [standing.get(name, ("", "")) for name in known["name"].to_list()]
    frame = known.drop("compared").hstack(
        pl.DataFrame(states, schema={"state": pl.String, "verdict": pl.String}, orient="row")
    )
    empty = "No calibration was registered yet: nirs-store register NAME CHAIN"
    return list_of(request, "Calibrations", frame, _LISTED, empty=empty, name="calibrations")


# -- One calibration.


def one(request: Request) -> View:
    """Show a calibration: how it does in service, its versions, aliases, signatures, corrections and log."""
    store, asked = request.store, _named(request)
    known, name, options = store.calibrations, asked.partition("@")[0], _options(request)
    why, report = "", None
    try:
        report = known.monitor(asked, **options)
    except InvalidInput as error:
        known.get(asked if "@" in asked else f"{name}@latest")
        why = str(error)
    of_one = report is not None and report.version is not None
    version = known.get(f"{name}@v{report.version}" if report is not None and of_one else f"{name}@latest")
    number = version.version
    logged = _logged(request, name, None if options.get("version") == "all" else number)
    log = _log(request, name, logged)
    also_as_data = {
        "versions": _versions(request, name),
        "aliases": known.aliases(name),
        "rules": known.rules(name),
        "signatures": known.signatures(version.label),
        "corrections": known.corrections(name)[::-1],
        "challengers": known.challengers(name),
        "history": _history(request, name),
        "figures": _figures(report, logged),
    }
    values = also_as_data | {
        "calibration": version,
        "links": {end: calibration_address(name, number, f"/{end}") for end in ("dossier", "signatures")},
        "why": why,
        "report": report,
        "cards": [] if report is None else _cards(report),
        "parts_of": [] if report is None else _parts(request, report),
        "corrected": current_correction(store, name, number),
        "open": _without_reference(store, name),
        "instruments": _values_of(store, name, "instrument"),
        "targets": _values_of(store, name, "target"),
        "chosen": {key: request.text(key) for key in _CHOSEN},
        "scope": version.scope,
        "unit": report.unit if report is not None else None,
        "table": log,
    }
    data = also_as_data | {"calibration": version, "monitoring": report, "measurements": log}
    title = version.label if "@" in asked else name
    return View("calibration.html", title, values, data=data, table=log)


def _named(request: Request) -> str:
    """Return the name that is asked for; the id of a version, as the audit trail has it, becomes its name."""
    asked = asked_for(request, "calibration")
    if not is_id(asked):
        return asked
    sql = "SELECT name || '@v' || version FROM calibration_versions WHERE version_id = ?"
    found = request.store.sql(sql, [asked])
    return str(found.item()) if found.height else asked


def _options(request: Request) -> dict[str, Any]:
    """Return what of the address `Calibrations.monitor` takes."""
    found = {key: request.text(key) for key in _CHOSEN[:4] if request.text(key)}
    asked = request.text("version").removeprefix("v")
    if asked and "@" not in _named(request):
        found["version"] = asked if asked == "all" else f"v{asked}"
    return found


def _cards(report: Monitoring) -> list[tuple[str, str, bool]]:
    """Return the figures of the comparison: value, words, and whether it is beyond its limit."""
    found, unit = report.agreement, f" {report.unit}" if report.unit else ""

    def known(value: float, words: str = "") -> str:
        return f"{short(value)}{words}" if np.isfinite(value) else "not defined"

    share = f", {report.share_flagged:.0%} flagged" if report.n_measurements else ""
    cards = [
        (count_text(report.n_measurements), f"measurements{share}", False),
        (count_text(report.n), "samples with a reference", False),
    ]
    if report.n:
        slope = f"slope, t {known(found.slope_t)} (limit {known(found.slope_t_limit)})"
        sign, bias = "+" if found.bias > 0 else "", f"{BIAS}, limit ±{known(found.bias_limit)}"
        cards += [
            (sign + known(found.bias, unit), bias, bool(found.bias_significant)),
            (known(found.sep, unit), f"SEP, limit {known(found.sep_limit)}", bool(found.sep_exceeds)),
            (known(found.slope), slope, bool(found.slope_significant)),
            (known(found.rmsep, unit), "RMSEP", False),
        ]
    if report.sel_df:
        cards.append((known(report.sel, unit), f"SEL of the laboratory, {report.sel_df} df", False))
    return cards


_MONITORED_PARTS = (
    Column("n_measurements", "Measured", "whole"), Column("share_flagged", "Flagged", "number", places=3),
    Column("n", "With reference", "whole"), Column("bias", "Bias, reference - predicted", "number", like="sep"),
    Column("bias_limit", "Limit of the bias", "number", like="sep"), Column("sep", "SEP", "number"),
    Column("rmsep", "RMSEP", "number", like="sep"), Column("verdict", kind="wrap", longest=300),
)  # fmt: skip
_RIVALS = (
    Column("version", kind="whole"), Column("n", "Samples", "whole"), Column("rmsep", "RMSEP", "number"),
    Column("rmsep_reported", "RMSEP of what was reported", "number"), Column("p", kind="number"),
    Column("verdict", kind="wrap", longest=300),
)  # fmt: skip


def _parts(request: Request, report: Monitoring) -> list[tuple[str, Table]]:
    """Return the figures by month, version and instrument, and the challengers."""
    by_month = report.by_month.with_columns(pl.col("month").dt.strftime("%Y-%m")).reverse()
    parts = (
        ("By month", "month", by_month, (Column("month"), *_MONITORED_PARTS), 1),
        ("By version", "version", report.by_version, (Column("version", kind="whole"), *_MONITORED_PARTS), 2),
        ("By instrument", "instrument", report.by_instrument, (Column("instrument"), *_MONITORED_PARTS), 2),
        ("Challengers", "rival", report.challengers, _RIVALS, 1),
    )
    return [
        (title, table_of(request, frame, columns, prefix=f"{prefix}_", size=60, name=title))
        for title, prefix, frame, columns, least in parts
        if frame.height >= least
    ]


_VERSIONS = (
    Column("aliases"), Column("rmsecv", "RMSECV", "number"), Column("rmsep", "RMSEP", "number", like="rmsecv"),
    Column("author", longest=30), Column("note", longest=60), Column("signatures", kind="whole"),
    Column("chain_id", "Chain", "id", link=lambda row: f"/chains/{row['chain_id']}" if row["chain_exists"] else ""),
    Column("created_at", "Registered", "time"),
)  # fmt: skip
_HISTORY = (
    Column("set_at", "When", "time"), Column("alias"), Column("previous", "From version", "whole"),
    Column("version", "To version", "whole"), Column("set_by", "By", longest=30), Column("reason", longest=80),
)  # fmt: skip


def _versions(request: Request, name: str) -> Table:
    frame = request.store.calibrations.versions(name)
    figures = [from_json(each) or {} for each in frame["figures"].to_list()]
    scores = {key: [_plain(each.get(key)) for each in figures] for key in ("rmsecv", "rmsep")}
    frame = frame.drop("figures", "scope").with_columns(
        pl.Series(key, values, dtype=pl.Float64) for key, values in scores.items()
    )
    first = Column("version", kind="whole", link=lambda row: calibration_address(name, row["version"]))
    return table_of(request, frame, (first, *_VERSIONS), prefix="v_", size=25, name="versions")


def _plain(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _history(request: Request, name: str) -> Table:
    changes, empty = request.store.calibrations.history(name)[::-1], "No alias was set yet."
    return table_of(request, changes, _HISTORY, prefix="h_", size=25, name="aliases", empty=empty)


def current_correction(store: WorkspaceStore, name: str, version: int) -> Any:
    """Return the correction that is applied to a version now."""
    live = [c for c in store.calibrations.corrections(name) if c.version == version and c.retired_at is None]
    return live[-1] if live else None


# -- The log of predictions.

_LOG = (
    Column("measured_at", "Measured", "time"), Column("sample_id", "Sample", longest=40),
    Column("version", kind="whole"),
    Column("prediction", kind="number"), Column("lower", kind="number", like="prediction"),
    Column("upper", kind="number", like="prediction"), Column("flags", kind="list"), Column("label", hidden=True),
    Column("instrument", longest=30), Column("operator", longest=30), Column("target", hidden=True),
    Column("raw", "Before the correction", "number", like="prediction", hidden=True), Column("correction", longest=40),
    Column("logged_at", "Logged", "time", hidden=True),
    Column("measurement_id", "Id", "id", hidden=True), Column("batch_id", "Batch", "id", hidden=True),
    Column("spectrum_hash", "Spectrum", "id", hidden=True),
)  # fmt: skip


def _logged(request: Request, name: str, version: int | None) -> pl.DataFrame:
    flagged = {"yes": True, "no": False}.get(request.text("flagged"))
    some: dict[str, Any] = {key: request.text(key) or None for key in ("since", "until", "instrument")}
    frame = request.store.measurements.list(
        name, version=version, role="reported", flagged=flagged, limit=_LOGGED, **some
    ).reverse()
    return frame.with_columns(pl.col("flags").list.set_difference([_CALM])) if frame.height else frame


def _log(request: Request, name: str, frame: pl.DataFrame) -> Table:
    columns = [each for each in _LOG if each.name in frame.columns]
    empty = "Nothing was measured with it in this time."
    counted = "SELECT count(*) FROM measurements WHERE role = 'reported' AND calibration = ?"
    cut = cut_of(request.store, frame, _LOGGED, counted, values=[name])
    return table_of(request, frame, columns, size=25, empty=empty, name=f"log_{name}", cut=cut)


def _values_of(store: WorkspaceStore, name: str, column: str) -> list[str]:
    """Return the instruments, or the targets, that the log of a calibration names."""
    found = store.sql("SELECT DISTINCT instrument, target FROM measurements WHERE calibration = ?", [name])
    return sorted(found[column].drop_nulls().unique().to_list())[:200]


def _without_reference(store: WorkspaceStore, name: str) -> list[str]:
    """Return the newest samples that the laboratory has not told a value of yet."""
    return store.sql(
        "SELECT sample_id FROM measurements WHERE calibration = ? AND role = 'reported' AND sample_id IS NOT NULL AND "
        "sample_id NOT IN (SELECT sample_id FROM sample_references WHERE value IS NOT NULL AND sample_id IS NOT NULL) "
        "GROUP BY sample_id ORDER BY max(measured_at) DESC, sample_id LIMIT 200",
        [name],
    )["sample_id"].to_list()


# -- Figures.


def _figures(report: Monitoring | None, log: pl.DataFrame) -> dict[str, Figure]:
    drawn = {} if report is None else {"control": _control(report), "agreement": _agreement(report)}
    return {name: each for name, each in {**drawn, "intervals": _intervals(report, log)}.items() if each}


def _seconds(moments: pl.Series) -> Any:
    return moments.dt.timestamp("us").to_numpy() / 1e6


def _floats(values: pl.Series) -> Any:
    return values.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _control(report: Monitoring) -> Figure | None:
    """Draw reference minus predicted over time with its limits, the moving average, and what signals."""
    chart = report.chart.filter(pl.col("measured_at").is_not_null())
    if not chart.height:
        return None
    words = axis_words("Reference − predicted", report.target or "", report.unit or "")
    figure = Figure("Control chart", "", words, times=True, width=720, height=360)
    when, reach = _seconds(chart["measured_at"]), _floats(chart["ewma_limit"])
    figure.band(when, -reach, reach, "cv", label="limits of the EWMA")
    figure.across(0.0, "line")
    for times, name, kind in ((2, "warning", "faint"), (3, "action", "limit")):
        limit = _floats(chart[name])
        if np.isfinite(limit).any():
            figure.line(when, limit, kind, label=f"± {times} SEP", dashed=True)
            figure.line(when, -limit, kind, dashed=True)
    figure.line(when, chart["ewma"], "cv", label="EWMA")
    titles = [
        f"{row['sample_id']}\n{row['measured_at']:%Y-%m-%d %H:%M}\nreference {short(row['reference'])}\n"
        f"predicted {short(row['prediction'])}\ndifference {short(row['difference'])}"
        + (f"\n{', '.join(row['signals'])}" if row["signals"] else "")
        for row in chart.iter_rows(named=True)
    ]
    beyond = np.array(["action" in words for words in chart["signals"].to_list()], dtype=bool)
    noted = ~beyond & np.array([bool(words) for words in chart["signals"].to_list()], dtype=bool)
    parts = (
        (~beyond & ~noted, "cal", "in control"),
        (noted, "s4", "signals"),
        (beyond, "test", "beyond 3 SEP"),
    )
    return figure.groups(when, chart["difference"], parts, titles=titles, keys=chart["sample_id"].to_list())


def _agreement(report: Monitoring) -> Figure | None:
    """Draw predicted against reference of what was measured in service."""
    chart = report.chart
    if not chart.height:
        return None
    axes = (axis_words(words, report.target or "", report.unit or "") for words in ("Reference", "Predicted"))
    figure = Figure("Predicted against the laboratory", *axes, equal=True, width=360)
    titles = [f"{s}\nreference {short(r)}\npredicted {short(p)}" for s, r, p in
              chart.select("sample_id", "reference", "prediction").iter_rows()]  # fmt: skip
    words, keys = f"RMSEP {short(report.agreement.rmsep)}, n {chart.height}", chart["sample_id"].to_list()
    return figure.points(chart["reference"], chart["prediction"], "cv", titles=titles, keys=keys, label=words)


def _intervals(report: Monitoring | None, log: pl.DataFrame) -> Figure | None:
    """Draw the newest predictions with their intervals over time."""
    if not log.height or "prediction" not in log.columns:
        return None
    target, unit = (report.target, report.unit) if report is not None else (None, None)
    some = log.filter(pl.col("prediction").is_finite() & pl.col("measured_at").is_not_null())
    some = some.filter(pl.col("target") == target) if target is not None else some
    some = some.head(_INTERVALS).reverse()
    if not some.height:
        return None
    title = "Predictions with their intervals" + (
        f", the newest {some.height}" if log.height > some.height else ""
    )
    words = axis_words("Predicted", target or "", unit or "")
    figure = Figure(title, "", words, times=True, width=720, height=300)
    flags = some["flags"].fill_null([]).to_list()
    when, lower, upper = _seconds(some["measured_at"]), _floats(some["lower"]), _floats(some["upper"])
    titles = [
        f"{s or 'without a name'}\n{short(p)}" + (f" ({short(lo)} to {short(up)})" if np.isfinite(lo) else "")
        + (f"\n{', '.join(words)}" if words else "")
        for s, p, lo, up, words in zip(some["sample_id"], some["prediction"], lower, upper, flags, strict=True)
    ]  # fmt: skip
    flagged = np.array([bool(words) for words in flags], dtype=bool)
    for mask, kind, words in ((~flagged, "cv", "predicted"), (flagged, "limit", "flagged")):
        figure.spans(when[mask], lower[mask], upper[mask], kind)
        part = [(mask, kind, f"{words}: {mask.sum()}")]
        figure.groups(
            when, some["prediction"], part, titles=titles, keys=some["sample_id"].to_list(), size=2.6
        )
    return figure


# -- Dossier and signatures.


def dossier(request: Request) -> View:
    """Show what a validation asks for, and what is missing of it."""
    name = asked_for(request, "calibration")
    found = request.store.calibrations.dossier(name, figures=False)
    version = request.store.calibrations.get(name)
    values = {"dossier": found, "base": calibration_address(version.name, version.version)}
    values["pickles"] = pickles_of(request.store.show_chain(version.chain_id)) if version.chain_exists else 0
    return View("dossier.html", f"Dossier of {found.calibration}", values, data=found)


def save_dossier(request: Request) -> Download:
    """Send the dossier with its figures as HTML, PDF or JSON; figures may open stored objects."""
    calibrations, name = request.store.calibrations, asked_for(request, "calibration")
    version = calibrations.get(name)
    drawn = request.text("kind") in ("html", "pdf")
    if drawn and version.chain_exists:
        ask_trust(request, request.store.show_chain(version.chain_id))

    def save(path: Path) -> None:
        calibrations.dossier(name, figures=drawn).save(path)

    kinds = {kind: (kind, save) for kind in ("html", "pdf", "json")}
    return Download.chosen(request, f"dossier_{version.name}_v{version.version}", kinds)


def signatures(request: Request) -> View:
    """Check the signatures of a version against its content, its files and the audit trail."""
    store = request.store
    version = store.calibrations.get(asked_for(request, "calibration"))
    found = store.calibrations.verify_signatures(version.label)
    values = {"check": found, "base": calibration_address(version.name, version.version)}
    return View("signatures.html", f"Signatures of {version.label}", values, data=found)


SCREENS = (
    Screen("/calibrations", listing, "Calibrations", keeps=True),
    Screen("/alarms", out_of_control, keeps=True),
    Screen("/calibrations/{calibration}", one, keeps=True),
    Screen("/calibrations/{calibration}/dossier", dossier),
    Screen("/calibrations/{calibration}/signatures", signatures),
    Screen("/calibrations/{calibration}/dossier", save_dossier, method="POST"),
)
