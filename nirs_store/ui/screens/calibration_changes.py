"""Changes of a calibration, with ``--allow-changes`` only: references, aliases, corrections, each planned first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nirs_store.display import counted
from nirs_store.errors import InvalidInput, UnknownId, quoted
from nirs_store.lazy import polars as pl
from nirs_store.reading.dialect import at_most
from nirs_store.ui.chart import short
from nirs_store.ui.frame import Redirect, Request, Screen, View
from nirs_store.ui.screens.calibrations import calibration_address, current_correction
from nirs_store.ui.screens.changes import Plan, planned
from nirs_store.ui.screens.datasets import asked_for
from nirs_store.ui.table import Column, table_of
from nirs_store.values import from_json

#: Of a file of references, packed or not: some hundred thousand rows.
_MOST_BYTES = 16 << 20


def _name(request: Request) -> str:
    return asked_for(request, "calibration").partition("@")[0]


def _version(request: Request) -> Any:
    number = request.text("version").strip().removeprefix("v")
    return request.store.calibrations.get(f"{_name(request)}@v{number}")


# -- References.

_REFERENCES = (
    Column("sample_id", "Sample", longest=40), Column("value", kind="number"), Column("target"), Column("unit"),
    Column("lab"), Column("method"), Column("measured_at", "Determined", "time"), Column("note", longest=40),
    Column("measured", "Predictions", "whole"), Column("stored", "Stored already"),
)  # fmt: skip


def references(request: Request) -> View | Redirect:
    """Read references that were typed or sent as a file, show them, and add them when they are confirmed."""
    store, name, key = request.store, _name(request), request.text("key")
    if request.is_sure:
        rows, planned_for = request.kept.get("references", key) or (None, name)
        if rows is None:
            raise UnknownId(
                "plan", key, "Plans are kept while the page runs, the last 16; enter the values again."
            )
        if planned_for != name:
            raise InvalidInput(
                f"The plan was made for {quoted(planned_for)}, not for {quoted(name)}; nothing was recorded."
            )
        store.references.add_many(rows.drop("stored", "measured"), existing="skip")
        request.kept.drop("references", key)
        return Redirect(calibration_address(name))
    version = store.calibrations.get(f"{name}@latest")
    given = request.files[0].path if request.files else _typed(request)
    if request.files and request.files[0].path.stat().st_size > _MOST_BYTES:
        raise InvalidInput(
            f"The file is larger than {_MOST_BYTES >> 20} MB; divide it, or add it with: nirs-store references add. "
            "Nothing was recorded."
        )
    with at_most(_MOST_BYTES):
        rows = store.references.plan_many(
            given, **request.options("target", "unit", "lab", "method", "measured_at")
        )
    key, new = request.kept.put("references", (rows, name)), rows.height - int(rows["stored"].sum())
    unknown, low_high = rows.filter(pl.col("measured") == 0).height, version.figures.get("range")
    lines = [f"{new} of {counted(rows.height, 'value')} would be added."]
    if new < rows.height:
        lines.append(f"Stored already, word for word, and left out: {rows.height - new}.")
    if unknown:
        lines.append(
            f"Of samples that were never predicted here: {unknown}; waiting for a prediction of this name."
        )
    if low_high and (beyond := rows.filter(~pl.col("value").is_between(*low_high)).height):
        low, high = map(short, low_high)
        lines.append(f"Outside the range of the calibration, {low} to {high}: {beyond}.")
    table, back = table_of(request, rows, _REFERENCES, size=1000), calibration_address(name)
    values = {"plan": lines, "table": table, "key": key, "name": name, "new": new, "back": back}
    return View("references.html", f"Add references of {name}?", values, data={"plan": lines, "rows": rows})


def _typed(request: Request) -> list[dict[str, Any]]:
    rows = []
    for sample, text in zip(request.form.get("sample", []), request.form.get("value", []), strict=False):
        if not text.strip():
            continue
        try:
            number = float(text.strip().replace(",", "."))
        except ValueError:
            raise InvalidInput(
                f"{quoted(sample)}: expected a number, found {quoted(text)}. Nothing was recorded."
            ) from None
        rows.append({"sample_id": sample.strip(), "value": number})
    if not rows:
        raise InvalidInput("Expected a value of at least one sample, or a file. Nothing was recorded.")
    return rows


# -- Aliases.


def alias(request: Request) -> Plan:
    """Move or remove an alias."""
    calibrations, name = request.store.calibrations, _name(request)
    word, wanted, reason = (request.text(key).strip() for key in ("alias", "version", "reason"))
    before, rule = calibrations.aliases(name).get(word), calibrations.rules(name).get(word)
    was, fields = "", {"name": name, "alias": word, "version": wanted, "reason": reason}
    if before is not None:
        was = f" It points to v{before} now."
    after = "Predictions by this alias use the other version from then on."
    back = calibration_address(name)
    if not wanted:
        if before is None:
            raise InvalidInput(f"alias: {name} has no alias {quoted(word)}. Nothing was changed.")
        lines = [f"{word} would be removed.{was}", after]
        return Plan(f"Remove {word} of {name}?", lines, "Remove it", back,
                    lambda: calibrations.remove_alias(name, word, reason=reason or None),
                    (name, word, before, rule), fields)  # fmt: skip
    new = _version(request)
    if new.version == before:
        raise InvalidInput(f"alias: {word} points to v{before} already. Nothing was changed.")
    signed = len(calibrations.signatures(new.label))
    lines = [f"{word} would point to v{new.version}.{was}"]
    lines += [words for each in (before, new.version) for words in _about(request, name, each)]
    if rule is not None:
        meanings = f" with the meaning {' or '.join(rule.meanings)}" if rule.meanings else ""
        lines.append(
            f"The alias demands {counted(rule.signatures, 'signature')}{meanings}, {rule.others} not by the author; "
            f"v{new.version} has {signed}."
        )
    return Plan(f"Point {word} of {name} to v{new.version}?", [*lines, after], "Move the alias", back,
                lambda: calibrations.set_alias(name, word, new.version, reason=reason or None),
                (name, word, before, new.version, rule, signed), fields, danger=False)  # fmt: skip


def _about(request: Request, name: str, version: int | None) -> list[str]:
    """Say how good a version was when it was registered, and what is applied to it."""
    if version is None:
        return []
    rows = request.store.calibrations.versions(name).filter(pl.col("version") == version)
    figures = (from_json(rows["figures"][0]) or {}) if rows.height else {}
    known = [f"{words} {short(figures[key])}" for key, words in (("rmsecv", "RMSECV"), ("rmsep", "RMSEP"))
             if isinstance(figures.get(key), int | float)]  # fmt: skip
    live = current_correction(request.store, name, version)
    parts = [*known, *([f"correction {live.words}"] if live else [])]
    return [f"v{version}: {', '.join(parts)}"] if parts else []


# -- Corrections.


def correct(request: Request) -> Plan:
    """Correct a version by slope and bias, from the samples with a reference."""
    calibrations, name, version = request.store.calibrations, _name(request), _version(request)
    options = request.options("kind", "since", "until", "instrument", "reason")
    fields = {key: value or "" for key, value in options.items()}
    options["kind"] = options["kind"] or "auto"
    plan = calibrations.correct(version.label, dry_run=True, **options)
    live = current_correction(request.store, name, version.version)
    lines = [f"{plan.words}, from {counted(len(plan.samples), 'sample')}", *_effect(plan.figures)]
    if live:
        lines.append(f"It would retire {live.words}.")
    lines.append("Predictions by name carry it from then on; what was logged stays as it is.")
    found = version.label, options, plan.slope, plan.bias, list(plan.samples), live and live.correction_id
    return Plan(f"Correct {version.label}?", lines, "Correct it", calibration_address(name),
                lambda: calibrations.correct(version.label, **options), found,
                {"name": name, "version": str(version.version), **fields}, danger=False)  # fmt: skip


def _effect(figures: Mapping[str, Any]) -> list[str]:
    """Say what a correction does to the samples that it was computed from."""
    lines = []
    for key, words in (("bias", "Bias (reference - predicted)"), ("sep", "SEP"), ("rmsep", "RMSEP")):
        before, after = figures.get(f"{key}_before"), figures.get(f"{key}_after")
        if before is not None and after is not None:
            # The rest of a bias after its correction is the rounding of the computer.
            after = 0.0 if abs(after) < 1e-9 * abs(before) else after
            lines.append(f"{words} of these samples: {short(before)} before, {short(after)} after")
    return lines


def retire(request: Request) -> Plan:
    """Apply the correction of a version no more."""
    calibrations, name, version = request.store.calibrations, _name(request), _version(request)
    live = current_correction(request.store, name, version.version)
    if live is None:
        raise InvalidInput(f"{version.label} has no correction. Nothing was changed.")
    reason = request.text("reason").strip()
    lines = [f"{live.words} would be applied no more; no earlier one comes back."]
    return Plan(f"Retire the correction of {version.label}?", lines, "Retire it", calibration_address(name),
                lambda: calibrations.retire_correction(version.label, reason=reason or None),
                (version.label, live.correction_id),
                {"name": name, "version": str(version.version), "reason": reason})  # fmt: skip


SCREENS = (
    Screen("/calibrations/{calibration}/references", references, method="POST", changes=True),
    planned("/calibrations/{calibration}/alias", alias),
    planned("/calibrations/{calibration}/correct", correct),
    planned("/calibrations/{calibration}/retire", retire),
)
