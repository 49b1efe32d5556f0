"""Slope and bias corrections: versioned objects with the samples that they came from, applied visibly."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nirs_store.audit.trail import moment
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.table import Table
from nirs_store.display import block, counted, field_table
from nirs_store.domain.frame import as_names, as_real
from nirs_store.errors import (
    CalibrationNotFound,
    InvalidInput,
    RecordingWarning,
    ShapeMismatch,
    UnknownId,
    quoted,
)
from nirs_store.ids import new_id, now_naive
from nirs_store.lazy import polars as pl
from nirs_store.records.named import find_version
from nirs_store.records.notes import check_guard, note
from nirs_store.scores import is_classification
from nirs_store.service.log import clean_ids, user_name
from nirs_store.service.pairs import Wanted, figures_of_target, pairs_of_chain
from nirs_store.service.statistics import BIAS, Agreement, Baseline, agreement
from nirs_store.values import as_name, is_frame, native, one_of, with_zone
from nirs_store.values import column_names as column_names_of

Kind = Literal["auto", "bias", "slope_bias"]
#: Refuse to change what a version reports: `signing.refuse_ruled` or `signing.keep_rules`.
Allow = Callable[[Connection, Mapping[str, Any], str, str], None]
Floats = NDArray[np.float64]

#: Share of the calibration's range that samples must span before a slope can be judged: a convention.
_SPAN = 0.5


@dataclass(frozen=True)
class Correction:
    """A correction of one version: corrected = slope * prediction + bias.

    Attributes
    ----------
    correction_id : str
    calibration : str
    version : int
        The version that it corrects, and no other.
    number : int
        Counted per calibration; `label` is "c2" for 2.
    slope, bias : float
    samples : tuple of dict
        ``sample_id, reference, prediction`` (uncorrected) of the samples that it was computed from.
    reason, author : str
    figures : dict
        n, bias, SEP and RMSEP of these samples before and after; the values after are not an independent check.
        ``bias_before`` and ``bias_after`` are reference - predicted, as ``sign`` says.
    created_at : datetime
    retired_at : datetime or None
        When it stopped being applied.
    """

    correction_id: str
    calibration: str
    version: int
    number: int
    slope: float
    bias: float
    samples: tuple[Mapping[str, Any], ...]
    reason: str | None
    author: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None
    retired_at: datetime | None = None

    @property
    def label(self) -> str:
        """Return the short name, such as ``c2``."""
        return f"c{self.number}"

    @property
    def words(self) -> str:
        """Describe the correction in words, such as ``corrected by c2: 0.98 y + 0.12``."""
        sign = "-" if self.bias < 0 else "+"
        slope = "y" if self.slope == 1 else f"{self.slope:.6g} y"
        return f"corrected by {self.label}: {slope} {sign} {abs(self.bias):.6g}"

    def apply(self, details: pl.DataFrame) -> pl.DataFrame:
        """Correct the predictions and bounds of a detailed prediction; ``raw`` and ``correction`` record it.

        Raises
        ------
        InvalidInput
            Labels, or several targets: a slope and bias correction is about one number.
        """
        numeric = details["prediction"].dtype.is_numeric()
        if "target" in details.columns or "set" in details.columns or not numeric:
            raise InvalidInput(
                f"{self.calibration}@v{self.version} is {self.words}, which is about one number for each "
                "sample; this version predicts several targets or labels. Retire the correction."
            )
        raw = details["prediction"]
        bounds = ("lower", "upper") if self.slope > 0 else ("upper", "lower")
        sources = {"prediction": "prediction", "lower": bounds[0], "upper": bounds[1]}
        changed = details.with_columns(
            (pl.col(source) * self.slope + self.bias).alias(name) for name, source in sources.items()
        )
        place = changed.get_column_index("prediction") + 1
        changed.insert_column(place, raw.alias("raw"))
        changed.insert_column(place + 1, pl.Series("correction", [self.words] * changed.height))
        return changed

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"label": self.label, "words": self.words}

    def __repr__(self) -> str:
        state = f", retired {self.retired_at:%Y-%m-%d}" if self.retired_at else ""
        before = self.figures.get("bias_before")
        bias = "" if before is None else f", {BIAS} {before:+.4g} before"
        told = f"{self.words}; {counted(len(self.samples), 'sample')}{bias}{state}"
        return f"<{self.calibration}@v{self.version} {told}>"

    def _repr_html_(self) -> str:
        facts = {
            "calibration": f"{self.calibration}@v{self.version}",
            "samples": len(self.samples),
            "reason": self.reason,
            "author": self.author,
            **{
                f"{name} (reference - predicted)" if name.startswith("bias_") else name: value
                for name, value in self.figures.items()
                if name != "sign"
            },
            "retired": self.retired_at,
        }
        return block(self.words, field_table(facts))


def correct(
    engine: Engine,
    calibration: Any,
    samples: Any,
    *,
    kind: Kind,
    slope: float | None,
    bias: float | None,
    since: Any,
    until: Any,
    instrument: str | None,
    lab: str | None,
    method: str | None,
    include_flagged: bool,
    reason: str | None,
    author: str | None,
    alpha: float,
    force: bool,
    allow: Allow,
    dry_run: bool = False,
) -> Correction:
    """Correct a version by slope and bias from samples; see `Calibrations.correct`."""
    row = engine.query(lambda con: find_version(con, calibration))
    engine.query(lambda con: allow(con, row, "corrected", _INSTEAD))
    refuse_several(row["figures"], f"{row['name']}@v{row['version']}")
    if is_frame(samples) or isinstance(samples, Mapping):
        pairs = _given(samples)
    else:
        listed = as_names(samples)
        asked = None if listed is None else clean_ids(listed, len(listed))
        wanted = Wanted(
            row["name"], None, None, moment(since, "since"), moment(until, "until"), instrument, lab, method,
            include_flagged=include_flagged, chain_id=row["chain_id"],
        )  # fmt: skip
        pairs, notes = pairs_of_chain(engine, wanted, asked)
        for said in notes:
            warnings.warn(f"{row['name']}@v{row['version']}: {said}.", RecordingWarning, stacklevel=3)
    if slope is None and bias is None:
        figures = figures_of_target(row["figures"], None)
        span = figures.get("range")
        slope, bias, _ = choose(pairs, kind, Baseline.of(figures), span, force=force, alpha=alpha)
    else:
        slope, bias = 1.0 if slope is None else slope, 0.0 if bias is None else bias
    # The version, not the alias: that may have moved meanwhile.
    fixed = f"{row['name']}@v{row['version']}"
    return save(engine, fixed, slope, bias, pairs, reason=reason, author=author, allow=allow, dry_run=dry_run)


#: What can be done where a rule forbids to change what a version reports.
_INSTEAD = (
    "Register its chain once more, change the new version (a correction is computed from the log of all versions of "
    "this chain), have that signed, and move the alias to it."
)


def refuse_several(figures: Mapping[str, Any], label: str) -> None:
    """Refuse a correction of a version that does not predict one number for each sample."""
    labels = is_classification(figures.get("task"))
    if labels or isinstance(figures.get("targets"), Mapping):
        raise InvalidInput(
            f"{label} predicts {'labels' if labels else 'several targets'}; a slope and bias correction is about one "
            "number for each sample. Nothing was changed."
        )


def _given(samples: Any) -> pl.DataFrame:
    """Read pairs that a caller brings."""
    table = native(samples, "samples")
    columns = list(table) if isinstance(table, Mapping) else column_names_of(table)
    missing = [name for name in ("reference", "prediction") if name not in columns]
    if missing:
        raise InvalidInput(
            f"samples: expected the columns reference and prediction; found {', '.join(map(str, columns))}. "
            "Nothing was changed."
        )
    try:
        found = {name: np.asarray(table[name], dtype=np.float64) for name in ("reference", "prediction")}
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"samples: reference and prediction must be numbers: {error}. Nothing was changed."
        ) from error
    if not all(each.ndim == 1 and np.isfinite(each).all() for each in found.values()):
        raise InvalidInput("samples: reference and prediction must be finite numbers. Nothing was changed.")
    named = {"sample_id": [str(each) for each in table["sample_id"]]} if "sample_id" in columns else {}
    if len({*map(len, named.values()), *map(len, found.values())}) > 1:
        raise ShapeMismatch("samples: its columns have different lengths. Nothing was changed.")
    return pl.DataFrame({**named, **found})


def choose(
    pairs: pl.DataFrame,
    kind: Kind,
    baseline: Baseline | None,
    span: Sequence[float] | None,
    *,
    force: bool = False,
    alpha: float = 0.05,
) -> tuple[float, float, Agreement]:
    """Compute slope and bias from samples; refuse what their number, range and significance do not justify."""
    one_of("kind", kind, get_args(Kind))
    found = agreement(
        pairs["reference"].to_numpy(), pairs["prediction"].to_numpy(), baseline=baseline, alpha=alpha
    )
    if found.n < (3 if force else 10):
        raise InvalidInput(
            f"A correction needs at least 10 samples with a reference; found {found.n}. Nothing was changed. "
            "force=True (on the command line: --force) takes 3 and more."
        )
    wide, share = _is_wide(pairs, span)
    narrow = f"the samples span only {share:.0%} of the calibration's range"
    if kind == "auto":
        if found.slope_significant and wide:
            kind = "slope_bias"
        elif found.bias_significant or force:
            kind = "bias"
        else:
            why = f" (the slope differs from 1, but {narrow})" if found.slope_significant else ""
            raise InvalidInput(f"Nothing to correct: the bias is not significant{why}. Nothing was changed.")
    elif kind == "slope_bias" and not np.isfinite(found.slope):
        raise InvalidInput(
            "The predictions or the references of the samples do not differ, so there is no slope. Nothing was changed."
        )
    elif not force:
        if kind == "bias" and not found.bias_significant:
            raise InvalidInput(
                f"The {BIAS} {found.bias:+.4g} is within {found.bias_limit:.4g}, so it is not significant. "
                "Nothing was changed. force=True (on the command line: --force) corrects it anyway."
            )
        if kind == "slope_bias" and not (found.slope_significant and wide):
            what = f"the slope {found.slope:.4g} does not differ from 1" if wide else narrow
            raise InvalidInput(
                f"A slope correction is not justified: {what}. Nothing was changed. Correct the bias alone, or "
                "force=True."
            )
    if kind == "bias":
        return 1.0, found.bias, found
    return found.slope, found.intercept, found


def _is_wide(pairs: pl.DataFrame, span: Sequence[float] | None) -> tuple[bool, float]:
    if span is None or not pairs.height or not span[1] > span[0]:
        return True, 1.0
    values = pairs["reference"].to_numpy()
    share = float(values.max() - values.min()) / float(span[1] - span[0])
    return share >= _SPAN, share


def save(
    engine: Engine,
    calibration: Any,
    slope: float,
    bias: float,
    pairs: pl.DataFrame,
    *,
    reason: str | None,
    author: str | None,
    allow: Allow,
    dry_run: bool = False,
) -> Correction:
    """Store a correction of one version, or only plan it; retire the previous one in the same transaction."""
    for name, value in (("slope", slope), ("bias", bias)):
        if not math.isfinite(as_real(value)):
            raise InvalidInput(
                f"{name}: expected a finite number; found {quoted(value)}. Nothing was changed."
            )
    slope, bias = float(slope), float(bias)
    if slope == 0:
        raise InvalidInput("slope: 0 would give every sample the same value. Nothing was changed.")
    why = None if reason is None else as_name(reason, "reason")
    by = user_name() if author is None else as_name(author, "author")
    told = [name for name in ("sample_id", "reference", "prediction") if name in pairs.columns]
    samples = pairs.select(told).to_dicts()
    check_guard(engine, {"reason": why, "author": author, "samples": samples})

    def plan(con: Connection) -> Correction:
        row = find_version(con, calibration)
        return Correction(
            new_id(), row["name"], int(row["version"]), next_number(con, "corrections", calibration=row["name"]),
            slope, bias, tuple(samples), why, by, _figures(pairs, slope, bias), with_zone(now_naive()),
        )  # fmt: skip

    def work(con: Connection) -> Correction:
        row = find_version(con, calibration)
        allow(con, row, "corrected", _INSTEAD)
        before = active(con, row)
        if before is not None:
            _end(con, row, before, by)
        # Numbered after the copies that an end may leave.
        made = plan(con)
        _insert(con, made)
        facts = {"calibration": made.calibration, "version": made.version, "correction": made.words}
        facts |= {"reason": why, "samples": len(samples)}
        note(engine, "correct_calibration", "calibration", row["version_id"], details=facts, con=con)
        return made

    return engine.query(plan) if dry_run else engine.change(work)


def next_number(con: Connection, table: str, **name: str) -> int:
    """Return the number that the next row of a name has in a table of numbered rows."""
    newest = Table(con, table).where("number DESC", 1, **name)
    return int(newest[0]["number"]) + 1 if newest else 1


def _insert(con: Connection, made: Correction) -> None:
    row = {**vars(made), "samples": list(made.samples), "metadata": made.figures, "created_at": now_naive()}
    del row["figures"]
    Table(con, "corrections").insert([row])


def take_over(con: Connection, correction_id: str, name: str, version: int, author: str) -> str:
    """Copy a correction for a version that is being registered; returns the id of the copy."""
    # A copy, because each version's correction is replaced and retired alone.
    rows = Table(con, "corrections").where(correction_id=correction_id)
    if not rows:
        raise UnknownId("correction", correction_id, "Nothing was registered.")
    found = _made(rows[0])
    reason = f"as {found.label} of {found.calibration}@v{found.version}"
    number = next_number(con, "corrections", calibration=name)
    made = replace(
        found, correction_id=new_id(), calibration=name, version=version, number=number,
        reason=reason if found.reason is None else f"{reason}: {found.reason}", author=author, retired_at=None,
    )  # fmt: skip
    _insert(con, made)
    return made.correction_id


def _figures(pairs: pl.DataFrame, slope: float, bias: float) -> dict[str, Any]:
    if not pairs.height:
        return {}
    y, x = pairs["reference"].to_numpy(), pairs["prediction"].to_numpy()
    found: dict[str, Any] = {"n": pairs.height, "sign": "reference - predicted"}
    for name, values in (("before", x), ("after", slope * x + bias)):
        each = agreement(y, values).to_dict()
        found |= {f"{key}_{name}": each[key] for key in ("bias", "sep", "rmsep")}
    return found


def retire(
    engine: Engine, calibration: Any, *, reason: str | None, user: str | None, allow: Allow
) -> Correction:
    """Stop applying the current correction of a version; it stays in the history."""
    why = None if reason is None else as_name(reason, "reason")
    by = user_name() if user is None else as_name(user, "user")
    check_guard(engine, {"reason": why, "user": user})

    def work(con: Connection) -> Correction:
        row = find_version(con, calibration)
        found = active(con, row)
        if found is None:
            label = f"{row['name']}@v{row['version']}"
            raise CalibrationNotFound(label, f"{label} has no correction to retire. Nothing was changed.")
        ended = _end(con, row, found, by)
        facts = {"calibration": row["name"], "version": row["version"], "correction": found.words}
        facts |= {"reason": why, "by": by}
        note(engine, "retire_correction", "calibration", row["version_id"], details=facts, con=con)
        allow(con, row, "freed of its correction", _INSTEAD)
        return ended

    return engine.change(work)


def _end(con: Connection, version: Mapping[str, Any], applied: Correction, by: str) -> Correction:
    """Stop applying a correction to one version; others that it is applied to keep it."""
    # In older workspaces versions share a correction: where it ends for its owner, each of the others gets a copy;
    # where it ends for another version, that one gets the copy that ends.
    here = (str(version["name"]), int(version["version"]))
    ended = applied.correction_id
    if here == (applied.calibration, applied.version):
        sharing = con.execute(
            "SELECT name, version FROM calibration_versions v WHERE correction_id = ? AND NOT EXISTS (SELECT 1 FROM "
            "corrections c WHERE c.calibration = v.name AND c.version = v.version) ORDER BY name, version",
            [ended],
        ).fetchall()
        for name, number in sharing:
            take_over(con, ended, str(name), int(number), by)
    else:
        ended = take_over(con, ended, *here, by)
    table = Table(con, "corrections")
    table.update({"retired_at": now_naive()}, correction_id=ended)
    return _made(table.where(correction_id=ended)[0])


def active(con: Connection, version: Mapping[str, Any]) -> Correction | None:
    """Read the correction that is applied to a version now."""
    # Older workspaces have versions registered with a correction of another version: it counts until they have one of
    # their own, and does not come back when that is retired; see `_end`.
    table, mine = Table(con, "corrections"), {"calibration": version["name"], "version": version["version"]}
    rows = table.where("number DESC", 1, **mine, retired_at=None)
    own = version.get("correction_id")
    if not rows and own is not None and not table.keys(**mine):
        rows = table.where(correction_id=own, retired_at=None)
    return _made(rows[0]) if rows else None


def _made(row: Mapping[str, Any]) -> Correction:
    values = {name: value for name, value in row.items() if name in Correction.__dataclass_fields__}
    values |= {"samples": tuple(row["samples"] or ()), "figures": row["metadata"] or {}}
    zoned = {name: with_zone(row[name]) for name in ("created_at", "retired_at")}
    return Correction(**values | zoned)


def list_corrections(con: Connection, name: str, version: int | None = None) -> tuple[Correction, ...]:
    """Read the corrections of a calibration, oldest first."""
    wanted: dict[str, Any] = {"calibration": name} | ({} if version is None else {"version": version})
    return tuple(map(_made, Table(con, "corrections").where("number", **wanted)))
