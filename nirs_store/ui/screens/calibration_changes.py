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
from nirs_store.ui.screens.changes import confirm, mark, sure, unchanged
from nirs_store.ui.screens.datasets import asked_for
from nirs_store.ui.table import Column, table_of
from nirs_store.values import from_json

__all__ = ["SCREENS"]

#: Of a file of references, packed or not: some hundred thousand rows.
_MOST_BYTES = 16 << 20
_OPTIONS = ("target", "unit", "lab", "method", "measured_at")


def _name(request: Request) -> str:
    return asked_for(request, "calibration").partition("@")[0]


# -- References.


def references(request: Request) -> View | Redirect:
    """Read references that were typed or sent as a file, show them, and add them when they are confirmed."""
    store, name = request.store, _name(request)
    if sure(request):
        key = request.text("key")
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
    options: dict[str, Any] = {key: request.text(key).strip() or None for key in _OPTIONS}
    with at_most(_MOST_BYTES):
        rows = store.references.plan_many(given, **options)
    key = request.kept.put("references", (rows, name))
    unknown, stored = rows.filter(pl.col("measured") == 0).height, int(rows["stored"].sum())
    lines = [f"{rows.height - stored} of {counted(rows.height, 'value')} would be added."]
    if stored:
        lines.append(f"Stored already, word for word, and left out: {stored}.")
    if unknown:
        lines.append(
            f"Of samples that were never predicted here: {unknown}; waiting for a prediction of this name."
        )
    span = version.figures.get("range")
    if span:
        beyond = rows.filter((pl.col("value") < span[0]) | (pl.col("value") > span[1])).height
        lines += [
            f"Outside the range of the calibration, {short(span[0])} to {short(span[1])}: {beyond}."
        ] * bool(beyond)
    columns = (
        Column("sample_id", "Sample", longest=40), Column("value", kind="number"), Column("target"), Column("unit"),
        Column("lab"), Column("method"), Column("measured_at", "Determined", "time"), Column("note", longest=40),
        Column("measured", "Predictions", "whole"), Column("stored", "Stored already"),
    )  # fmt: skip
    table = table_of(request, rows, columns, size=1000)
    values = {"plan": lines, "table": table, "key": key, "name": name, "new": rows.height - stored}
    values["back"] = calibration_address(name)
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


def alias(request: Request) -> View | Redirect:
    """Move or remove an alias."""
    calibrations, name = request.store.calibrations, _name(request)
    word, wanted, reason = (request.text(key).strip() for key in ("alias", "version", "reason"))
    before = calibrations.aliases(name).get(word)
    if not wanted and before is None:
        raise InvalidInput(f"alias: {name} has no alias {quoted(word)}. Nothing was changed.")
    new = calibrations.get(f"{name}@v{wanted.removeprefix('v')}") if wanted else None
    if new is not None and new.version == before:
        raise InvalidInput(f"alias: {word} points to v{before} already. Nothing was changed.")
    rule = calibrations.rules(name).get(word)
    signed = 0 if new is None else len(calibrations.signatures(new.label))
    planned = mark(request, name, word, before, None if new is None else new.version, rule, signed)
    if sure(request):
        unchanged(request, planned)
        if new is None:
            calibrations.remove_alias(name, word, reason=reason or None)
        else:
            calibrations.set_alias(name, word, new.version, reason=reason or None)
        return Redirect(calibration_address(name))
    was = "" if before is None else f" It points to v{before} now."
    lines = [
        f"{word} would be removed.{was}" if new is None else f"{word} would point to v{new.version}.{was}"
    ]
    for each in [] if new is None else [before, new.version]:
        lines += _about(request, name, each)
    if rule is not None and new is not None:
        meanings = f" with the meaning {' or '.join(rule.meanings)}" if rule.meanings else ""
        lines.append(
            f"The alias demands {counted(rule.signatures, 'signature')}{meanings}, {rule.others} not by the author; "
            f"v{new.version} has {signed}."
        )
    lines.append("Predictions by this alias use the other version from then on.")
    title = f"Remove {word} of {name}?" if new is None else f"Point {word} of {name} to v{new.version}?"
    return confirm(request, title, lines, "Remove it" if new is None else "Move the alias", calibration_address(name),
                   danger=new is None, name=name, alias=word, version=wanted, reason=reason,
                   planned=planned)  # fmt: skip


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


def correct(request: Request) -> View | Redirect:
    """Correct a version by slope and bias, from the samples with a reference."""
    calibrations, name = request.store.calibrations, _name(request)
    version = calibrations.get(f"{name}@v{request.text('version').removeprefix('v')}")
    fields = {key: request.text(key).strip() for key in ("kind", "since", "until", "instrument", "reason")}
    options: dict[str, Any] = {key: value or None for key, value in fields.items()}
    options["kind"] = fields["kind"] or "auto"
    plan = calibrations.correct(version.label, dry_run=True, **options)
    live = current_correction(request.store, name, version.version)
    marks = mark(
        request,
        version.label,
        options,
        plan.slope,
        plan.bias,
        list(plan.samples),
        live and live.correction_id,
    )
    if sure(request):
        unchanged(request, marks)
        calibrations.correct(version.label, **options)
        return Redirect(calibration_address(name))
    lines = [f"{plan.words}, from {counted(len(plan.samples), 'sample')}", *_effect(plan.figures)]
    if live:
        lines.append(f"It would retire {live.words}.")
    lines.append("Predictions by name carry it from then on; what was logged stays as it is.")
    return confirm(request, f"Correct {version.label}?", lines, "Correct it", calibration_address(name),
                   danger=False, name=name, version=str(version.version), planned=marks, **fields)  # fmt: skip


def _effect(figures: Mapping[str, Any]) -> list[str]:
    """Say what a correction does to the samples that it was computed from."""
    lines = []
    for key, words in (("bias", "Bias (reference - predicted)"), ("sep", "SEP"), ("rmsep", "RMSEP")):
        before, after = figures.get(f"{key}_before"), figures.get(f"{key}_after")
        if before is not None and after is not None:
            # What is left of a bias after its correction is the rounding of the computer.
            after = 0.0 if abs(after) < 1e-9 * abs(before) else after
            lines.append(f"{words} of these samples: {short(before)} before, {short(after)} after")
    return lines


def retire(request: Request) -> View | Redirect:
    """Apply the correction of a version no more."""
    calibrations, name = request.store.calibrations, _name(request)
    version = calibrations.get(f"{name}@v{request.text('version').removeprefix('v')}")
    live = current_correction(request.store, name, version.version)
    if live is None:
        raise InvalidInput(f"{version.label} has no correction. Nothing was changed.")
    reason = request.text("reason").strip()
    planned = mark(request, version.label, live.correction_id)
    if sure(request):
        unchanged(request, planned)
        calibrations.retire_correction(version.label, reason=reason or None)
        return Redirect(calibration_address(name))
    lines = [f"{live.words} would be applied no more; no earlier one comes back."]
    return confirm(request, f"Retire the correction of {version.label}?", lines, "Retire it", calibration_address(name),
                   name=name, version=str(version.version), reason=reason, planned=planned)  # fmt: skip


SCREENS = tuple(
    Screen(f"/calibrations/{{calibration}}/{name}", show, method="POST", changes=True)
    for name, show in (("references", references), ("alias", alias), ("correct", correct), ("retire", retire))
)
