"""Changes of a calibration, with ``--allow-changes`` only: references, aliases, corrections, each planned first."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from nirs_store.display import counted
from nirs_store.errors import InvalidInput, UnknownId, quoted
from nirs_store.lazy import polars as pl
from nirs_store.ui.chart import short
from nirs_store.ui.frame import Redirect, Request, Screen, View
from nirs_store.ui.screens.calibrations import calibration_address, current_correction
from nirs_store.ui.screens.changes import confirm, sure
from nirs_store.ui.screens.datasets import asked_for
from nirs_store.ui.table import Column, table_of
from nirs_store.values import from_json

__all__ = ["SCREENS"]

_KEPT = 16
_OPTIONS = ("target", "unit", "lab", "method", "measured_at")
#: Rows that were shown and wait to be confirmed, the calibration they are for, and the options they were read with.
_plans: OrderedDict[str, tuple[pl.DataFrame, str]] = OrderedDict()


def _name(request: Request) -> str:
    return asked_for(request, "calibration").partition("@")[0]


# -- References.


def references(request: Request) -> View | Redirect:
    """Read references that were typed or sent as a file, show them, and add them when they are confirmed."""
    store, name = request.store, _name(request)
    if sure(request):
        key = request.text("key")
        if key not in _plans:
            raise UnknownId(
                "plan", key, "Plans are kept while the page runs, the last 16; enter the values again."
            )
        rows, name = _plans[key]
        store.references.add_many(rows.drop("stored", "measured"), existing="skip")
        del _plans[key]
        return Redirect(calibration_address(name))
    version = store.calibrations.get(f"{name}@latest")
    given = request.files[0].path if request.files else _typed(request)
    options: dict[str, Any] = {key: request.text(key).strip() or None for key in _OPTIONS}
    rows = store.references.plan_many(given, **options)
    key = secrets.token_urlsafe(12)
    _plans[key] = (rows, name)
    while len(_plans) > _KEPT:
        _plans.popitem(last=False)
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
    if sure(request):
        _unchanged(request, str(before))
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
    rule = calibrations.rules(name).get(word)
    if rule is not None and new is not None:
        signed = len(calibrations.signatures(new.label))
        meanings = f" with the meaning {' or '.join(rule.meanings)}" if rule.meanings else ""
        lines.append(
            f"The alias demands {counted(rule.signatures, 'signature')}{meanings}, {rule.others} not by the author; "
            f"v{new.version} has {signed}."
        )
    lines.append("Predictions by this alias use the other version from then on.")
    title = f"Remove {word} of {name}?" if new is None else f"Point {word} of {name} to v{new.version}?"
    return confirm(request, title, lines, "Remove it" if new is None else "Move the alias", calibration_address(name),
                   danger=new is None, name=name, alias=word, version=wanted, reason=reason,
                   planned=str(before))  # fmt: skip


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


def _unchanged(request: Request, now: str) -> None:
    if request.text("planned") != now:
        raise InvalidInput("It has changed since the plan was shown; nothing was changed. Look at it again.")


# -- Corrections.


def correct(request: Request) -> View | Redirect:
    """Correct a version by slope and bias, from the samples with a reference."""
    calibrations, name = request.store.calibrations, _name(request)
    version = calibrations.get(f"{name}@v{request.text('version').removeprefix('v')}")
    fields = {key: request.text(key).strip() for key in ("kind", "since", "until", "instrument", "reason")}
    options: dict[str, Any] = {key: value or None for key, value in fields.items()}
    options["kind"] = fields["kind"] or "auto"
    plan = calibrations.correct(version.label, dry_run=True, **options)
    marks = f"{plan.slope!r} {plan.bias!r} {len(plan.samples)}"
    if sure(request):
        _unchanged(request, marks)
        calibrations.correct(version.label, **options)
        return Redirect(calibration_address(name))
    lines = [f"{plan.words}, from {counted(len(plan.samples), 'sample')}", *_effect(plan.figures)]
    live = current_correction(request.store, name, version.version)
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
    if sure(request):
        _unchanged(request, live.correction_id)
        calibrations.retire_correction(version.label, reason=reason or None)
        return Redirect(calibration_address(name))
    lines = [f"{live.words} would be applied no more; no earlier one comes back."]
    return confirm(request, f"Retire the correction of {version.label}?", lines, "Retire it", calibration_address(name),
                   name=name, version=str(version.version), reason=reason, planned=live.correction_id)  # fmt: skip


SCREENS = tuple(
    Screen(f"/calibrations/{{calibration}}/{name}", show, method="POST", changes=True)
    for name, show in (("references", references), ("alias", alias), ("correct", correct), ("retire", retire))
)
