"""Which measurements and references are looked at, and the pairs of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.table import Table
from nirs_store.display import counted
from nirs_store.errors import InvalidInput, quoted
from nirs_store.lazy import polars as pl
from nirs_store.records.named import DEFAULT_ALIAS, aliases_of, find_version, version_number
from nirs_store.records.queries import frame
from nirs_store.service.log import NOT_FLAGGED
from nirs_store.service.references import COMBINED, CURRENT, Combine
from nirs_store.service.statistics import per_sample
from nirs_store.values import one_of

#: Days after which a name that comes again may be another sample: a convention.
_AGAIN = 7


#: Conditions on measurements, by the field of `Wanted` that is compared.
_CONDITIONS = {
    "name": "calibration =", "version": "version =", "chain_id": "chain_id =", "instrument": "instrument =",
    "since": "measured_at >=", "until": "measured_at <",
}  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """Which measurements and references are looked at."""

    name: str
    version: int | None
    target: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    instrument: str | None = None
    lab: str | None = None
    method: str | None = None
    combine: Combine = "mean"
    include_flagged: bool = True
    chain_id: str | None = None

    @property
    def where(self) -> str:
        """Return the condition on measurements `m`, with the values of `params`."""
        # A row by another chain than the version has is another calibration's version of the same number.
        own = (
            "NOT EXISTS (SELECT 1 FROM calibration_versions v WHERE v.name = m.calibration AND v.version = m.version "
            "AND v.chain_id <> m.chain_id)"
        )
        return " AND ".join([own, *(f"m.{_CONDITIONS[name]} ${name}" for name in self.params)])

    @property
    def params(self) -> dict[str, Any]:
        """Return the values of `where`."""
        given = {name: getattr(self, name) for name in _CONDITIONS}
        return {name: value for name, value in given.items() if value is not None}


def which_version(
    con: Connection, calibration: Any, alias: str | None, version: Any
) -> tuple[dict[str, Any], bool]:
    """Find the version that is meant, and whether all of the name are."""
    # A name alone means what its alias "production" points to; without that alias, the newest that has measurements,
    # else the newest.
    if alias is not None and version is not None:
        raise InvalidInput("Give an alias or a version, not both.")
    named = isinstance(calibration, str) and "@" not in calibration
    if (alias is not None or version is not None) and not named:
        raise InvalidInput(
            f"calibration: {quoted(calibration)} names a version already; give the name alone with alias or version."
        )
    if alias is not None:
        return find_version(con, f"{calibration}@{alias}"), False
    if version == "all":
        return find_version(con, f"{calibration}@latest"), True
    if version is not None:
        number = version if type(version) is int else version_number(str(version))
        if number is None:
            raise InvalidInput(f'version: expected a number, "v3" or "all"; found {version!r}.')
        return find_version(con, f"{calibration}@v{number}"), False
    if not named:
        return find_version(con, calibration), False
    newest = find_version(con, f"{calibration}@latest")
    if (newest["name"], DEFAULT_ALIAS) in aliases_of(con, newest["name"]):
        return find_version(con, newest["name"]), False
    # By the chain too: rows of a deleted version may bear any number.
    used = con.execute(
        "SELECT max(v.version) FROM calibration_versions v JOIN measurements m ON m.calibration = v.name AND "
        "m.version = v.version AND m.chain_id = v.chain_id WHERE v.name = ? AND m.role = 'reported'",
        [newest["name"]],
    ).fetchall()
    if used and used[0][0] is not None:
        return find_version(con, f"{newest['name']}@v{used[0][0]}"), False
    return newest, False


def figures_of_target(figures: Mapping[str, Any], target: str | None) -> dict[str, Any]:
    """Return the figures of a version, of one of its targets where there are several."""
    several = figures.get("targets")
    if not isinstance(several, Mapping):
        return dict(figures)
    return {**figures, **(several.get(target or "") or {})}


def pairs_of(con: Connection, wanted: Wanted, *, role: str = "reported") -> tuple[pl.DataFrame, list[str]]:
    """Join measurements with references; returns the pairs in time order, and what was left out in words.

    Columns: ``sample_id, measured_at, version, instrument, batch_id, prediction, raw, reference, n_references,
    reference_sd, reference_days``.
    """
    unit = unit_of(con, wanted)
    notes: list[str] = []
    told = {
        "target": (wanted.target or "").lower(), "calibration": wanted.name.lower(), "lab": wanted.lab,
        "method": wanted.method, "unit": unit,
    }  # fmt: skip
    unclear = _unclear(con)
    if unclear:
        notes.append(
            f"references of {counted(len(unclear), 'sample')} name no target, where several were predicted: they are "
            "left out; add them with target=..."
        )
    if unit is not None:
        ((strange,),) = con.execute(
            f"SELECT count(*) FROM {CURRENT} r WHERE lower(coalesce(r.target, $target)) = $target AND r.unit <> $unit "
            "AND r.sample_id IN (SELECT sample_id FROM measurements m WHERE m.calibration = $name)",
            {"target": told["target"], "unit": unit, "name": wanted.name},
        ).fetchall()
        if strange:
            notes.append(f"left out: {counted(strange, 'reference')} in another unit than {unit}")
    about = "lower(r.target) = $target" if wanted.target else "lower(r.target) = $calibration"
    flags = "" if wanted.include_flagged else f" AND {NOT_FLAGGED}"
    target = " AND (m.target IS NULL OR lower(m.target) = $target)" if wanted.target else ""
    sql = f"""
        WITH refs AS (
            SELECT r.sample_id, {COMBINED[wanted.combine]} AS reference, count(*) AS n_references,
                stddev_samp(r.value) AS reference_sd,
                date_diff('day', min(coalesce(r.measured_at, r.added_at)), max(coalesce(r.measured_at, r.added_at)))
                    AS reference_days
            FROM {CURRENT} r WHERE ({about} OR (r.target IS NULL AND NOT list_contains($unclear, r.sample_id)))
                AND ($lab::VARCHAR IS NULL OR r.lab = $lab) AND ($method::VARCHAR IS NULL OR r.method = $method)
                AND ($unit::VARCHAR IS NULL OR r.unit IS NULL OR r.unit = $unit)
            GROUP BY r.sample_id)
        SELECT m.sample_id, m.measured_at, m.version, m.instrument, m.batch_id, m.prediction, m.raw, refs.reference,
            refs.n_references, refs.reference_sd, refs.reference_days
        FROM measurements m JOIN refs USING (sample_id)
        WHERE {wanted.where} AND m.role = $role AND isfinite(m.prediction){flags}{target}
        ORDER BY m.measured_at, m.measurement_id"""
    used = {name: value for name, value in {**told, "unclear": unclear}.items() if f"${name}" in sql}
    found = frame(con, sql, {**used, **wanted.params, "role": role})
    return found, notes + _used_again(found)


def _used_again(pairs: pl.DataFrame) -> list[str]:
    """Say which names may belong to several samples: those measured and determined again much later."""
    spans = pairs.filter(pl.col("reference_days") >= _AGAIN).group_by("sample_id")
    apart = spans.agg(days=(pl.col("measured_at").max() - pl.col("measured_at").min()).dt.total_days())
    names = sorted(apart.filter(pl.col("days") >= _AGAIN)["sample_id"].to_list())
    if not names:
        return []
    return [
        f"{counted(len(names), 'sample')}, such as {quoted(names[0])}, measured and determined again after {_AGAIN} "
        "days or more: the values of one name count as one sample, so a name must not be used for another sample"
    ]


def why_none(con: Connection, wanted: Wanted) -> list[str]:
    """Say why measurements have no pairs, where names that do not fit each other can be the reason."""
    measured = f"SELECT sample_id FROM measurements m WHERE {wanted.where} AND m.role = 'reported'"
    ((n, first),) = con.execute(
        f"SELECT count(*), min(sample_id) FROM ({measured})", wanted.params
    ).fetchall()
    if not n:
        if wanted.instrument is None:
            return []
        others = Wanted(wanted.name, wanted.version)
        there = con.execute(
            f"SELECT DISTINCT coalesce(instrument, '(none)') FROM measurements m WHERE {others.where} ORDER BY 1",
            others.params,
        ).fetchall()
        told = ", ".join(str(each) for (each,) in there[:5])
        return [
            f"no measurements with the instrument {quoted(wanted.instrument)}; there are: {told or 'none'}"
        ]
    rows = con.execute(
        f"SELECT r.target, r.lab, r.method, count(*) FROM {CURRENT} r WHERE r.sample_id IN ({measured}) GROUP BY ALL "
        "ORDER BY ALL",
        wanted.params,
    ).fetchall()
    if rows:
        names = {(wanted.target or wanted.name).lower(), wanted.name.lower()}
        for target, lab, method, _ in rows:
            fits = (target is None or target.lower() in names) and wanted.lab in (None, lab)
            if fits and wanted.method in (None, method):
                return []  # left out for another reason, such as its flags
        told = "; ".join(
            f"{', '.join(str(each) for each in about if each is not None) or 'no target'} ({count})"
            for *about, count in rows[:5]
        )
        return [
            f"the references of the measured samples are about something else (target, lab, method): {told}"
        ]
    other = con.execute(
        f"SELECT min(r.sample_id) FROM {CURRENT} r WHERE lower(r.target) IN ($target, $calibration)",
        {"target": (wanted.target or "").lower(), "calibration": wanted.name.lower()},
    ).fetchall()
    if first is None or not other or other[0][0] is None:
        return []
    return [
        f"none of the measured samples has a reference: samples are called like {quoted(first)} here, and like "
        f"{quoted(other[0][0])} in the references"
    ]


def pairs_of_chain(
    engine: Engine, wanted: Wanted, samples: Sequence[str | None] | None
) -> tuple[pl.DataFrame, list[str]]:
    """Return uncorrected predictions and references of a version's chain, one row per sample, for a correction."""
    # Without the correction all versions of one chain predict the same, so the log of all of them counts. The second
    # value says what was left out.

    def ask(con: Connection) -> tuple[pl.DataFrame, list[str]]:
        about = target_of(con, counts_of(con, wanted), wanted.chain_id, None)
        return pairs_of(con, replace(wanted, target=about))

    found, notes = engine.query(ask)
    pairs = found.with_columns(prediction=pl.col("raw"))
    if samples is not None:
        there = set(pairs["sample_id"].to_list())
        missing = [str(each) for each in samples if each not in there]
        if missing:
            raise InvalidInput(
                f"samples: expected a logged prediction of this version and a reference for each; {len(missing)} of "
                f"{counted(len(samples), 'sample')} without: {', '.join(missing[:5])}. Nothing was changed."
            )
        pairs = pairs.filter(pl.col("sample_id").is_in([each for each in samples if each is not None]))
    return per_sample(pairs, "mean"), notes


def _unclear(con: Connection) -> list[str]:
    """List samples whose references name no target although they were predicted for several."""
    ((some,),) = con.execute(f"SELECT count(*) FROM {CURRENT} WHERE target IS NULL").fetchall()
    if not some:
        return []
    rows = con.execute(
        f"SELECT sample_id FROM measurements WHERE role = 'reported' AND sample_id IN (SELECT sample_id FROM {CURRENT} "
        "WHERE target IS NULL) GROUP BY sample_id HAVING count(DISTINCT coalesce(target, calibration, chain_id)) > 1 "
        "ORDER BY sample_id"
    ).fetchall()
    return [str(row[0]) for row in rows]


def unit_of(con: Connection, wanted: Wanted) -> str | None:
    """Return the unit of the predictions, where all versions agree."""
    rows = con.execute(
        "SELECT DISTINCT c.target_unit FROM calibration_versions v JOIN chains c USING (chain_id) WHERE v.name = $name "
        "AND ($version::INTEGER IS NULL OR v.version = $version) AND ($chain::VARCHAR IS NULL OR v.chain_id = $chain) "
        "AND c.target_unit IS NOT NULL",
        {"name": wanted.name, "version": wanted.version, "chain": wanted.chain_id},
    ).fetchall()
    units = {str(row[0]) for row in rows if not str(row[0]).startswith("[")}
    return units.pop() if len(units) == 1 else None


def target_of(con: Connection, counts: pl.DataFrame, chain_id: Any, asked: str | None) -> str | None:
    """Return the one target that is looked at."""
    logged = sorted(counts["target"].drop_nulls().unique().to_list()) if counts.height else []
    if asked is not None:
        near: dict[str, str] = {each.casefold(): each for each in logged}
        if logged and asked.casefold() not in near:
            one_of("target", asked, logged)
        return near.get(asked.casefold(), asked)
    if len(logged) > 1:
        raise InvalidInput(f"target: expected one of {', '.join(logged)}; the calibration predicts several.")
    if logged:
        return str(logged[0])
    told = [row["target"] for row in Table(con, "chains").where(chain_id=chain_id)]
    return next((str(each) for each in told if each is not None and not each.startswith("[")), None)


def counts_of(con: Connection, wanted: Wanted) -> pl.DataFrame:
    """Count measurements by role, target, month, instrument and version."""
    return frame(
        con,
        f"""
        SELECT m.role, m.target, date_trunc('month', m.measured_at)::DATE AS month, m.instrument, m.version,
            count(*) AS n, count(*) FILTER (NOT {NOT_FLAGGED}) AS flagged,
            count(*) FILTER (m.sample_id IS NULL) AS nameless,
            count(*) FILTER (m.prediction IS NULL AND m.label IS NULL OR NOT isfinite(m.prediction)) AS no_number,
            count(*) FILTER (m.label IS NOT NULL) AS labels, count(m.correction_id) AS corrected
        FROM measurements m WHERE {wanted.where} GROUP BY ALL ORDER BY ALL""",
        wanted.params,
    )
