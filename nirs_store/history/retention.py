"""Retention: letting go of what no rule keeps; plan, then execute.

Nothing goes that something else needs: pins, aliases, present champions, stacks and meta-models, recorded links
to what stays, and whatever is being recorded hold. The plan names them with the reason.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from nirs_store.audit.trail import attempting, guarded, note, store_setting
from nirs_store.db.database import CatalogAccess, Connection
from nirs_store.db.session import Engine, put_setting, read_settings
from nirs_store.display import byte_text, escape, short
from nirs_store.errors import InvalidInput, StoreBusy, did_you_mean
from nirs_store.files.names import MODES, PRODUCTION
from nirs_store.files.output import remove_copies
from nirs_store.files.rows import delete_versions, versions
from nirs_store.history.clocks import AHEAD, read_clock
from nirs_store.history.lineage import find_ref
from nirs_store.history.moments import DONE, EVERY, RETENTION, retention_is_due
from nirs_store.ids import earlier, new_id, now_naive, utcnow
from nirs_store.lazy import polars as pl
from nirs_store.maintenance.deletion import release_chains
from nirs_store.maintenance.gc import delete_run, prune_arrays
from nirs_store.maintenance.trash import deleting
from nirs_store.records.named import HELD
from nirs_store.records.queries import frame
from nirs_store.scores import higher_is_better
from nirs_store.values import as_text

__all__ = [
    "AUTOMATIC",
    "Held",
    "Item",
    "Limit",
    "Retention",
    "RetentionPlan",
    "RetentionPolicy",
    "RetentionResult",
    "Rule",
    "add_pin",
    "artifacts_of",
    "candidates",
    "champions",
    "file_values",
    "keep_all",
    "keep_champions",
    "keep_recent",
    "keep_top_k",
    "let_go",
    "limit",
    "make_plan",
    "pins",
    "reasons",
    "remove_pin",
    "run_values",
    "settle",
    "unheld",
]


# -- What retention asks of the catalog, and how it lets go: chains, runs and versions of files.


_DAY = "coalesce(calibration, chain_id) || ' ' || strftime(logged_at, '%Y-%m-%d')"
# Columns: id, name, type, model, dataset, run, made_at, bytes (that only this thing holds), score; of chains the
# target, of files the mode and what they were evaluated on.
_CANDIDATES = {
    "chain": """
        SELECT c.chain_id AS id, concat_ws(' > ', nullif(c.preprocessings, ''),
                regexp_extract(c.model_class, '[^.]*$')) AS name,
            coalesce(t.task_type, '') AS type, c.model_class AS model, p.dataset_name AS dataset,
            p.run_id AS run, c.created_at AS made_at, coalesce(o.bytes, 0)::BIGINT AS bytes,
            NULL::DOUBLE AS score, NULL::VARCHAR AS metric,
            coalesce(c.target, '') AS target, coalesce(c.target_unit, '') AS unit
        FROM chains c LEFT JOIN pipelines p USING (pipeline_id)
            LEFT JOIN (SELECT chain_id, any_value(task_type) AS task_type FROM predictions GROUP BY chain_id) t
                USING (chain_id)
            LEFT JOIN (SELECT owner_id, sum(size_bytes) AS bytes FROM (
                    SELECT DISTINCT r.owner_id, r.artifact_id, b.size_bytes FROM artifact_refs r
                        JOIN blobs b USING (artifact_id)
                        JOIN (SELECT artifact_id FROM artifact_refs WHERE owner_kind <> 'record'
                            GROUP BY artifact_id HAVING count(DISTINCT owner_id) = 1) USING (artifact_id)
                    WHERE r.owner_kind = 'chain') GROUP BY owner_id) o ON o.owner_id = c.chain_id
        ORDER BY c.created_at DESC, c.chain_id DESC""",
    "run": """
        SELECT r.run_id AS id, r.name, r.status AS type, '' AS model,
            coalesce(any_value(p.dataset_name), '') AS dataset, r.run_id AS run, r.created_at AS made_at,
            coalesce(any_value(o.bytes), 0)::BIGINT AS bytes,
            arg_min(p.best_val, p.created_at) FILTER (p.best_val IS NOT NULL) AS score,
            any_value(p.metric) AS metric
        FROM runs r LEFT JOIN pipelines p USING (run_id)
            LEFT JOIN (SELECT run_id, sum(size_bytes) AS bytes FROM (
                    SELECT r.artifact_id, any_value(l.run_id) AS run_id, any_value(b.size_bytes) AS size_bytes
                    FROM artifact_refs r JOIN blobs b USING (artifact_id) LEFT JOIN pipelines l USING (pipeline_id)
                    GROUP BY r.artifact_id
                    HAVING count(DISTINCT l.run_id) = 1 AND count(*) = count(l.run_id)) GROUP BY run_id) o
                USING (run_id)
        GROUP BY r.run_id, r.name, r.status, r.created_at ORDER BY r.created_at DESC, r.run_id DESC""",
    "file": """
        SELECT f.version_id AS id, f.name || ' v' || f.version AS name, f.type,
            coalesce(f.model_id, f.name) AS model, '' AS dataset, coalesce(f.run_id, '') AS run,
            f.created_at AS made_at, f.stored_bytes AS bytes, NULL::DOUBLE AS score, NULL::VARCHAR AS metric,
            f.name AS of_name, f.mode, f.status, coalesce(f.suite, e.suite, '') AS suite,
            coalesce(json_extract_string(f.metadata, '$.target'), '') AS target
        FROM file_versions f LEFT JOIN evaluations e USING (evaluation_id)
        ORDER BY f.created_at DESC, f.version_id DESC""",
    # Measurements go by days: there may be millions.
    "measurement": f"""
        SELECT {_DAY} AS id, coalesce(calibration, chain_id) || ', ' || count(*) || ' measurements' AS name, '' AS type,
            coalesce(calibration, chain_id) AS model, '' AS dataset, '' AS run, max(logged_at) AS made_at,
            coalesce(sum(octet_length(spectrum)), 0)::BIGINT AS bytes, NULL::DOUBLE AS score, NULL::VARCHAR AS metric
        FROM measurements GROUP BY {_DAY}, coalesce(calibration, chain_id) ORDER BY made_at DESC, id DESC""",
}


def candidates(con: Connection, kind: str) -> pl.DataFrame:
    """Everything of a kind, newest first."""
    found = frame(con, _CANDIDATES[kind])
    return found if "of_name" in found.columns else found.with_columns(pl.col("name").alias("of_name"))


def run_values(
    con: Connection, metric: str | None, highest: bool | None
) -> dict[tuple[str, str, str], dict[str, float]]:
    """Return each run's best validation score in the metric, by data set, target and unit."""
    best = "max" if highest else "min"
    rows = con.execute(
        f"SELECT coalesce(dataset_name, ''), coalesce(target, ''), coalesce(target_unit, ''), run_id, {best}(best_val) "
        "FROM pipelines LEFT JOIN (SELECT DISTINCT pipeline_id, target, target_unit FROM chains) USING (pipeline_id) "
        "WHERE best_val IS NOT NULL AND NOT isnan(best_val) "
        "AND ($metric::VARCHAR IS NULL OR lower(metric) = lower($metric)) GROUP BY ALL",
        {"metric": metric},
    ).fetchall()
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for dataset, target, unit, run_id, value in rows:
        found.setdefault((dataset, target, unit), {})[str(run_id)] = float(value)
    return found


def file_values(con: Connection, metric: str) -> dict[str, float]:
    """Return what versions of files scored: by their own metadata, else by the evaluation that they belong to."""
    paths = {"own": f'$."{metric}"', "metrics": f'$.metrics."{metric}"', "scores": f'$.scores."{metric}"'}
    rows = con.execute(
        """
        SELECT f.version_id, coalesce(
            TRY_CAST(json_extract_string(f.metadata, $own) AS DOUBLE),
            TRY_CAST(json_extract_string(f.metadata, $metrics) AS DOUBLE),
            TRY_CAST(json_extract_string(f.metadata, $scores) AS DOUBLE),
            TRY_CAST(json_extract_string(e.scores, $own) AS DOUBLE)) AS value
        FROM file_versions f LEFT JOIN evaluations e USING (evaluation_id)
        WHERE value IS NOT NULL AND NOT isnan(value)
        """,
        paths,
    ).fetchall()
    return {str(row[0]): float(row[1]) for row in rows}


# -- champions and pins ----------------------------------------------------------------------------

_MODELS = """
    SELECT DISTINCT coalesce(e.chain_id, c.model_id) AS chain_id, c.model_id, c.evaluation_id, e.files, e.run_id
    FROM (SELECT *, row_number() OVER (PARTITION BY suite, metric, rank ORDER BY made_at DESC, champion_id DESC)
        AS age FROM champions) c LEFT JOIN evaluations e USING (evaluation_id)
    WHERE $ever OR c.age = 1
"""
_CHAMPIONS = {
    "measurement": "SELECT NULL::VARCHAR WHERE $ever AND FALSE",
    "chain": f"SELECT DISTINCT chain_id FROM chains WHERE chain_id IN (SELECT chain_id FROM ({_MODELS}))",
    "run": (
        f"SELECT run_id FROM ({_MODELS}) WHERE run_id IS NOT NULL UNION SELECT p.run_id FROM chains c "
        f"JOIN pipelines p USING (pipeline_id) WHERE c.chain_id IN (SELECT chain_id FROM ({_MODELS}))"
    ),
    "file": (
        f"SELECT version_id FROM file_versions WHERE evaluation_id IN (SELECT evaluation_id FROM ({_MODELS})) OR "
        f"version_id IN (SELECT unnest(json_extract_string(files, '$[*]')) FROM ({_MODELS}) WHERE files IS NOT NULL) "
        f"OR version_id IN (SELECT model_id FROM ({_MODELS})) OR model_id IN (SELECT model_id FROM ({_MODELS}))"
    ),
}


def champions(con: Connection, kind: str, *, ever: bool) -> set[str]:
    """Ids of what is a champion now, or ever was one."""
    return {str(row[0]) for row in con.execute(_CHAMPIONS[kind], {"ever": ever}).fetchall()}


def pins(con: Connection) -> pl.DataFrame:
    """Return what is pinned, oldest first."""
    return frame(con, "SELECT object_kind, object_id, reason, made_at FROM pins ORDER BY made_at, pin_id")


def add_pin(con: Connection, kind: str, identifier: str, reason: str | None) -> bool:
    """Pin inside the caller's transaction; False when it was pinned already (the reason is replaced)."""
    there = con.execute(
        "UPDATE pins SET reason = ? WHERE object_kind = ? AND object_id = ? RETURNING pin_id",
        [reason, kind, identifier],
    ).fetchall()
    if not there:
        con.execute(
            "INSERT INTO pins VALUES (?, ?, ?, ?, ?)", [new_id(), kind, identifier, reason, now_naive()]
        )
    return not there


def remove_pin(con: Connection, kind: str, identifier: str) -> bool:
    """Unpin inside the caller's transaction; False when it was not pinned."""
    gone = con.execute(
        "DELETE FROM pins WHERE object_kind = ? AND object_id = ? RETURNING pin_id", [kind, identifier]
    ).fetchall()
    return bool(gone)


# -- what may not go -------------------------------------------------------------------------------

_EXISTS = """
    (SELECT 'run' AS kind, run_id AS id FROM runs UNION ALL SELECT 'pipeline', pipeline_id FROM pipelines
    UNION ALL SELECT 'chain', chain_id FROM chains UNION ALL SELECT 'prediction', prediction_id FROM predictions
    UNION ALL SELECT 'artifact', artifact_id FROM blobs UNION ALL SELECT 'file', version_id FROM file_versions
    UNION ALL SELECT 'evaluation', evaluation_id FROM evaluations
    UNION ALL SELECT 'dataset', dataset_version_id FROM dataset_versions
    UNION ALL SELECT 'processing', processing_id FROM processing_runs UNION ALL SELECT 'backup', backup_id FROM backups
    UNION ALL SELECT 'calibration', version_id FROM calibration_versions
    UNION ALL SELECT 'bundle', target_id FROM lineage_links WHERE target_kind = 'bundle')
"""
# Each gives ids of things that must stay and why; `taken_*` are the ids that would go.
_REASONS: dict[str, tuple[str, ...]] = {
    "measurement": (),
    "chain": (
        "SELECT object_id, 'it is pinned' FROM pins WHERE object_kind = 'chain'",
        "SELECT c.chain_id, 'its pipeline is pinned' FROM chains c JOIN pins p ON p.object_kind = 'pipeline' "
        "AND p.object_id = c.pipeline_id",
        "SELECT c.chain_id, 'its run is pinned' FROM chains c JOIN pipelines l USING (pipeline_id) "
        "JOIN pins p ON p.object_kind = 'run' AND p.object_id = l.run_id",
        "SELECT r.owner_id, 'an artifact of it is pinned' FROM artifact_refs r JOIN pins p "
        "ON p.object_kind = 'artifact' AND p.object_id = r.artifact_id WHERE r.owner_kind = 'chain'",
        "SELECT c.chain_id, 'it is being recorded' FROM chains c JOIN pipelines l USING (pipeline_id) "
        "WHERE l.status = 'running' AND list_contains($alive, l.session_id)",
        "SELECT json_extract_string(source, '$.chain_id'), 'the stack ' || chain_id || ' is made from it' FROM "
        "(SELECT chain_id, unnest(json_extract(steps, '$[*].sources[*]')) AS source FROM chains "
        "WHERE steps LIKE '%\"sources\"%' AND chain_id NOT IN (SELECT unnest($taken_chain)))",
        "SELECT c.chain_id, 'the meta-model ' || k.record_id || ' is fed by its pipeline' FROM chains c "
        "JOIN artifact_links k ON k.kind = 'source' AND split_part(k.target_id, '$', 1) = c.pipeline_id "
        "AND k.pipeline_id <> c.pipeline_id",
        HELD,
    ),
    "run": (
        "SELECT object_id, 'it is pinned' FROM pins WHERE object_kind = 'run'",
        "SELECT l.run_id, 'a pipeline of it is pinned' FROM pipelines l JOIN pins p "
        "ON p.object_kind = 'pipeline' AND p.object_id = l.pipeline_id",
        "SELECT l.run_id, 'a chain of it is pinned' FROM chains c JOIN pipelines l USING (pipeline_id) "
        "JOIN pins p ON p.object_kind = 'chain' AND p.object_id = c.chain_id",
        "SELECT l.run_id, 'an artifact of it is pinned' FROM artifact_refs r JOIN pipelines l USING (pipeline_id) "
        "JOIN pins p ON p.object_kind = 'artifact' AND p.object_id = r.artifact_id",
        "SELECT run_id, 'it is being recorded' FROM runs WHERE status = 'running' "
        "AND list_contains($alive, session_id)",
        "SELECT run_id, 'it is being recorded' FROM pipelines WHERE status = 'running' "
        "AND list_contains($alive, session_id)",
        "SELECT l.run_id, 'the stack ' || s.chain_id || ' is made from a chain of it' FROM (SELECT chain_id, "
        "pipeline_id, json_extract_string(unnest(json_extract(steps, '$[*].sources[*]')), '$.chain_id') AS source "
        "FROM chains WHERE steps LIKE '%\"sources\"%') s JOIN pipelines o ON o.pipeline_id = s.pipeline_id "
        "JOIN chains c ON c.chain_id = s.source JOIN pipelines l ON l.pipeline_id = c.pipeline_id "
        "WHERE o.run_id <> l.run_id AND o.run_id NOT IN (SELECT unnest($taken_run))",
        "SELECT l.run_id, 'the meta-model ' || k.record_id || ' is fed by it' FROM artifact_links k "
        "JOIN pipelines l ON split_part(k.target_id, '$', 1) = l.pipeline_id "
        "JOIN pipelines o ON o.pipeline_id = k.pipeline_id WHERE k.kind = 'source' AND o.run_id <> l.run_id "
        "AND o.run_id NOT IN (SELECT unnest($taken_run))",
        "SELECT run_id, 'the file ' || name || ' was made by it' FROM file_versions "
        "WHERE version_id NOT IN (SELECT unnest($taken_file))",
        f"SELECT l.run_id, h.reason FROM ({HELD}) h JOIN chains c ON c.chain_id = h.id "
        "JOIN pipelines l USING (pipeline_id)",
    ),
    "file": (
        "SELECT object_id, 'it is pinned' FROM pins WHERE object_kind = 'file'",
        "SELECT f.version_id, 'its run is pinned' FROM file_versions f JOIN pins p ON p.object_kind = 'run' "
        "AND p.object_id = f.run_id",
        "SELECT version_id, 'the alias ' || alias || ' names it' FROM file_aliases",
        "SELECT unnest(json_extract_string(members, '$.*')), 'the group ' || name || ' holds it' FROM file_versions "
        "WHERE members IS NOT NULL AND version_id NOT IN (SELECT unnest($taken_file))",
        "SELECT version_id, 'it is ' || replace(status, '_', ' ') FROM file_versions "
        "WHERE status IN ('pending', 'in_progress')",
    ),
}
# Recorded links: the thing itself, or something of a run, is the source of what stays.
_LINEAGE = {
    "measurement": "SELECT 'measurement' AS kind, unnest($ids) AS id, unnest($ids) AS owner",
    "chain": "SELECT 'chain' AS kind, unnest($ids) AS id, unnest($ids) AS owner",
    "file": "SELECT 'file' AS kind, unnest($ids) AS id, unnest($ids) AS owner",
    "run": (
        "SELECT 'run' AS kind, unnest($ids) AS id, unnest($ids) AS owner UNION ALL "
        "SELECT 'pipeline', pipeline_id, run_id FROM pipelines WHERE run_id IN (SELECT unnest($ids)) UNION ALL "
        "SELECT 'chain', chain_id, run_id FROM chains JOIN pipelines USING (pipeline_id) "
        "WHERE run_id IN (SELECT unnest($ids)) UNION ALL SELECT 'prediction', d.prediction_id, p.run_id "
        "FROM predictions d JOIN pipelines p USING (pipeline_id) WHERE p.run_id IN (SELECT unnest($ids))"
    ),
}


def reasons(con: Connection, kind: str, taken: dict[str, list[str]], alive: Sequence[str]) -> dict[str, str]:
    """Why some of what would be taken has to stay, by id."""
    params: dict[str, Any] = {f"taken_{name}": taken.get(name, []) for name in ON}
    ids = params[f"taken_{kind}"]
    found: dict[str, str] = {}
    for sql in _REASONS[kind]:
        used = {name: value for name, value in params.items() if f"${name}" in sql}
        if "$alive" in sql:
            used["alive"] = list(alive)
        rows = con.execute(
            f"SELECT * FROM ({sql}) AS r(id, reason) WHERE id IN (SELECT unnest($ids)) ORDER BY ALL",
            {**used, "ids": ids},
        ).fetchall()
        for identifier, reason in rows:
            found.setdefault(str(identifier), str(reason))
    for identifier in champions(con, kind, ever=False) & set(ids):
        found.setdefault(identifier, "it is a champion")
    gone = " OR ".join(
        f"(k.target_kind = '{name}' AND k.target_id IN (SELECT unnest($taken_{name})))" for name in taken
    )
    rows = con.execute(
        f"""
        WITH own AS ({_LINEAGE[kind]})
        SELECT o.owner, k.target_kind || ' ' || k.target_id FROM own o
            JOIN lineage_links k ON k.source_kind = o.kind AND k.source_id = o.id
            JOIN {_EXISTS} e ON e.kind = k.target_kind AND e.id = k.target_id
        WHERE NOT ({gone or "FALSE"})
            AND NOT EXISTS (SELECT 1 FROM own x WHERE x.kind = k.target_kind AND x.id = k.target_id
                AND x.owner = o.owner)
        ORDER BY ALL
        """,
        {"ids": ids, **{name: value for name, value in params.items() if f"${name}" in gone}},
    ).fetchall()
    for identifier, target in rows:
        found.setdefault(str(identifier), f"the {target} came from it")
    return found


# -- letting go ------------------------------------------------------------------------------------


def let_go(con: Connection, taken: dict[str, list[str]], *, now: bool = True) -> set[str]:
    """Delete runs and versions of files, and the models of chains, inside the caller's transaction.

    Of a chain its scores stay: predictions lose the chain that they name. Unless `now`, the trash keeps runs, each
    by itself, and chains, all of them together. Returns the hashes of contents that
    no version of a file has any more.
    """
    unnamed: set[str] = set()
    chains = taken.get("chain", [])
    if chains:
        name = f"{len(chains)} chains"
        with deleting(con, "chains", new_id(), name, "retention", chains, now=now) as delete:
            release_chains(con, chains, delete)
    for run_id in taken.get("run", []):
        delete_run(con, run_id, now=now, operation="retention")
    days = taken.get("measurement", [])
    if days:
        con.execute(f"DELETE FROM measurements WHERE {_DAY} IN (SELECT unnest(?::VARCHAR[]))", [days])
    files = taken.get("file", [])
    if files:
        wanted = ("version_id IN (SELECT unnest($ids))", {"ids": files})
        unnamed = delete_versions(con, versions(con, wanted))
    prune_arrays(con)
    return unnamed


def unheld(con: Connection, artifact_ids: Sequence[str]) -> list[str]:
    """Those of some artifacts that nothing refers to."""
    rows = con.execute(
        "SELECT artifact_id FROM blobs b WHERE artifact_id IN (SELECT unnest($ids)) AND NOT EXISTS "
        "(SELECT 1 FROM artifact_refs r WHERE r.artifact_id = b.artifact_id) ORDER BY artifact_id",
        {"ids": list(artifact_ids)},
    ).fetchall()
    return [str(row[0]) for row in rows]


def artifacts_of(con: Connection, taken: dict[str, list[str]]) -> list[str]:
    """Artifacts that some chains, runs and files hold."""
    rows = con.execute(
        "SELECT DISTINCT artifact_id FROM artifact_refs r LEFT JOIN pipelines l USING (pipeline_id) "
        "WHERE owner_id IN (SELECT unnest($owners)) OR l.run_id IN (SELECT unnest($runs)) ORDER BY 1",
        {"owners": [*taken.get("chain", []), *taken.get("file", [])], "runs": taken.get("run", [])},
    ).fetchall()
    return [str(row[0]) for row in rows]


# -- What is to be kept: rules, limits and their combination, as values that can be stored.


ON = ("chain", "run", "file", "measurement")
PER = ("type", "model", "dataset", "run", "name")
POLICIES = ("keep_all", "keep_top_k", "keep_recent", "keep_champions")
AUTOMATIC = ("never", "on_close", "after_run", *EVERY)
# Types that no rule takes unless it names them: what models were trained on, and their states.
_KEPT_TYPES = ("training_set", "feature_matrix", "labels", "model_checkpoint")


def _one_of(value: Any, allowed: Sequence[str], name: str) -> str:
    if value not in allowed:
        hint = did_you_mean(value, allowed)
        raise InvalidInput(
            f"{name}: expected one of {', '.join(allowed)}, found {value!r}.{hint} Nothing was changed."
        )
    return str(value)


def _count(value: Any, name: str, least: int = 1) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInput(
            f"{name}: expected a whole number of at least {least}, found {value!r}. Nothing was changed."
        )
    return value


def _days(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise InvalidInput(f"{name}: expected days of at least 0, found {value!r}. Nothing was changed.")
    return float(value)


def _many(kind: str) -> str:
    return "days of measurements" if kind == "measurement" else f"{kind}s"


def _check_mode(mode: Any, on: str) -> None:
    if mode is not None:
        _one_of(mode, MODES, "mode")
        if on != "file":
            raise InvalidInput(f"mode: only files have one, and this is about {on}s. Nothing was changed.")


@dataclass(frozen=True)
class Rule:
    """One reason to keep things; made by `keep_all`, `keep_top_k`, `keep_recent` and `keep_champions`."""

    policy: str
    on: str = "chain"
    count: int | None = None
    metric: str | None = None
    per: tuple[str, ...] = ()
    days: float | None = None
    higher_is_better: bool | None = None
    type: str | None = None
    mode: str | None = None

    def __post_init__(self) -> None:
        _check_mode(self.mode, self.on)
        _one_of(self.policy, POLICIES, "policy")
        _one_of(self.on, ON, "on")
        for name in self.per:
            _one_of(name, PER, "per")
        _count(self.count, "count")
        _days(self.days, "days")
        if self.on == "measurement" and self.policy in ("keep_top_k", "keep_champions"):
            raise InvalidInput(
                f"{self.policy}: measurements have no score. Keep those of the last days. Nothing was changed."
            )
        if self.policy == "keep_top_k":
            if self.count is None:
                raise InvalidInput("keep_top_k: expected how many to keep. Nothing was changed.")
            if self.on != "chain" and self.metric is None:
                raise InvalidInput(f"keep_top_k of {self.on}s: name the metric. Nothing was changed.")
            if self.metric is not None and (self.on == "chain" or self.higher_is_better is None):
                higher_is_better(self.metric)  # refuses an unknown name and suggests the nearest
        if self.policy == "keep_recent" and self.count is None and self.days is None:
            raise InvalidInput("keep_recent: expected a count or days. Nothing was changed.")

    @property
    def words(self) -> str:
        """The rule for people."""
        each = f" of each {' and '.join(self.per)}" if self.per else ""
        what = (f"{self.mode} " if self.mode else "") + _many(self.on)
        what += f" of type {self.type}" if self.type else ""
        if self.policy == "keep_top_k":
            return f"the {self.count} best {what}{each} by {self.metric or 'their metric'}"
        if self.policy == "keep_recent":
            parts = [] if self.count is None else [f"the {self.count} newest {what}{each}"]
            parts += [] if self.days is None else [f"{what} of the last {self.days:g} days"]
            return " and ".join(parts)
        return f"all {what}" if self.policy == "keep_all" else f"{what} that are or were champions"

    def __or__(self, other: Rule | Limit | RetentionPolicy) -> RetentionPolicy:
        return RetentionPolicy((self,)) | other


@dataclass(frozen=True)
class Limit:
    """A bound on what the rules keep; made by `limit`."""

    on: str = "chain"
    type: str | None = None
    max_count: int | None = None
    max_bytes: int | None = None
    max_age_days: float | None = None
    mode: str | None = None

    def __post_init__(self) -> None:
        _check_mode(self.mode, self.on)
        _one_of(self.on, ON, "on")
        _count(self.max_count, "max_count", 0)
        _count(self.max_bytes, "max_bytes", 0)
        _days(self.max_age_days, "max_age_days")
        if self.max_count is None and self.max_bytes is None and self.max_age_days is None:
            raise InvalidInput("limit: expected max_count, max_bytes or max_age_days. Nothing was changed.")

    @property
    def words(self) -> str:
        """The limit for people."""
        bounds = [
            words
            for value, words in (
                (self.max_count, f"{self.max_count} of them"),
                (self.max_bytes, f"{self.max_bytes or 0:,} bytes"),
                (self.max_age_days, f"{self.max_age_days or 0:g} days of age"),
            )
            if value is not None
        ]
        what = (f"{self.mode} " if self.mode else "") + _many(self.on)
        return f"{what}{f' of type {self.type}' if self.type else ''}: at most {', '.join(bounds)}"

    def __or__(self, other: Rule | Limit | RetentionPolicy) -> RetentionPolicy:
        return RetentionPolicy((), (self,)) | other


@dataclass(frozen=True)
class RetentionPolicy:
    """Rules and limits together.

    Attributes
    ----------
    rules : tuple of Rule
    limits : tuple of Limit
    automatic : {"never", "on_close", "after_run", "hourly", "daily", "weekly"}
        When it is carried out without being asked: never, when a store is closed, when a run is completed, or as
        often by every store that is open for writing, and on closing where it is due.

    Examples
    --------
    >>> policy = keep_top_k(3, "rmse", per="model") | keep_recent(days=30) | limit(max_age_days=365)
    >>> print(policy)
    keep the 3 best chains of each model by rmse
    keep chains of the last 30 days
    limit chains: at most 365 days of age
    >>> RetentionPolicy.from_dict(policy.to_dict()) == policy
    True
    """

    rules: tuple[Rule, ...] = ()
    limits: tuple[Limit, ...] = ()
    automatic: str = "never"

    def __post_init__(self) -> None:
        _one_of(self.automatic, AUTOMATIC, "automatic")

    def by_date(self, kind: str) -> bool:
        """Tell whether dates decide what goes of a kind."""
        return any(bound.on == kind for bound in self.limits) or any(
            rule.on == kind and rule.policy == "keep_recent" for rule in self.rules
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of things that it is about."""
        abouts = {rule.on for rule in self.rules} | {bound.on for bound in self.limits}
        return tuple(kind for kind in ON if kind in abouts)

    def __or__(self, other: Rule | Limit | RetentionPolicy) -> RetentionPolicy:
        if isinstance(other, Rule):
            return RetentionPolicy((*self.rules, other), self.limits, self.automatic)
        if isinstance(other, Limit):
            return RetentionPolicy(self.rules, (*self.limits, other), self.automatic)
        automatic = self.automatic if other.automatic == "never" else other.automatic
        return RetentionPolicy((*self.rules, *other.rules), (*self.limits, *other.limits), automatic)

    def __str__(self) -> str:
        lines = [f"keep {rule.words}" for rule in self.rules]
        lines += [f"limit {bound.words}" for bound in self.limits]
        if self.automatic != "never":
            lines.append(f"carried out {self.automatic.replace('_', ' ')}")  # "on close", "daily"
        return "\n".join(lines) or "keep everything"

    def to_dict(self) -> dict[str, Any]:
        """Return the policy as plain data, without what is not set."""
        return {
            "rules": [_filled(rule) for rule in self.rules],
            "limits": [_filled(bound) for bound in self.limits],
            "automatic": self.automatic,
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> RetentionPolicy:
        """Make a policy from plain data.

        Raises
        ------
        InvalidInput
            Something is unknown (the nearest is named) or does not fit.
        """
        if not isinstance(given, Mapping):
            raise InvalidInput(
                f"policy: expected an object, found {type(given).__name__}. Nothing was changed."
            )
        for name in given:
            _one_of(name, ("rules", "limits", "automatic"), "policy")
        return cls(
            tuple(_made(Rule, rule) for rule in given.get("rules") or ()),
            tuple(_made(Limit, bound) for bound in given.get("limits") or ()),
            given.get("automatic") or "never",
        )


def _filled(part: Rule | Limit) -> dict[str, Any]:
    values = {name: value for name, value in asdict(part).items() if value not in (None, ())}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _made(kind: Any, given: Any) -> Any:
    if not isinstance(given, Mapping):
        raise InvalidInput(
            f"{kind.__name__.lower()}: expected an object, found {given!r}. Nothing was changed."
        )
    known = [field.name for field in fields(kind)]
    for name in given:
        _one_of(name, known, kind.__name__.lower())
    values = dict(given)
    if "per" in values:
        values["per"] = _names(values["per"])
    if kind is Rule and "policy" not in values:
        raise InvalidInput(f"rule: expected a policy, one of {', '.join(POLICIES)}. Nothing was changed.")
    return kind(**values)


def _names(per: Any) -> tuple[str, ...]:
    return () if per is None else (per,) if isinstance(per, str) else tuple(per)


def keep_all(*, on: str = "chain", type: str | None = None, mode: str | None = None) -> Rule:
    """Keep everything of a kind (chains, runs or files), or of one type (of files: or mode) of it."""
    return Rule("keep_all", on, type=type, mode=mode)


def keep_top_k(
    k: int,
    metric: str | None = None,
    *,
    on: str = "chain",
    per: str | Sequence[str] | None = None,
    higher_is_better: bool | None = None,
    type: str | None = None,
    mode: str | None = None,
) -> Rule:
    """Keep the best k by a metric.

    Parameters
    ----------
    k : int
    metric : str, optional
        As on the leaderboard; without one each chain counts by the usual metric of its task. Of files: a number in
        their metadata (also below ``metrics`` or ``scores``), or a score of the evaluation that they belong to.
    on : {"chain", "run", "file", "measurement"}
        A run counts by its best pipeline.
    per : {"type", "model", "dataset", "run", "name"} or several, optional
        k of each. Scores of different data sets, targets or units are never compared, whatever is given: k of each
        of them stay.
    higher_is_better : bool, optional
        For a metric that this library does not know.
    type : str, optional
        Only things of this type. Training sets and model checkpoints go only by rules that name their type.
    mode : {"production", "test"}, optional
        Only files of this mode. Production content goes only by rules that name the mode.

    Raises
    ------
    InvalidInput
    """
    return Rule("keep_top_k", on, k, metric, _names(per), None, higher_is_better, type, mode)


def keep_recent(
    count: int | None = None,
    *,
    days: float | None = None,
    on: str = "chain",
    per: str | Sequence[str] | None = None,
    type: str | None = None,
    mode: str | None = None,
) -> Rule:
    """Keep the newest (of each type, model, ...), or what was made in the last days, or both."""
    return Rule("keep_recent", on, count, None, _names(per), days, None, type, mode)


def keep_champions(*, on: str = "chain") -> Rule:
    """Keep what is or ever was a champion. Present champions are never taken in any case."""
    return Rule("keep_champions", on)


def limit(
    *,
    on: str = "chain",
    type: str | None = None,
    max_count: int | None = None,
    max_bytes: int | None = None,
    max_age_days: float | None = None,
    mode: str | None = None,
) -> Limit:
    """Bound what the rules keep: the newest stay."""
    return Limit(on, type, max_count, max_bytes, max_age_days, mode)


# -- Planning retention: what the rules keep, what the limits cut, what has to stay all the same.


_SHOWN = 20
Row = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """Something that would go, and why.

    `bytes` are those of artifacts that it alone holds.
    """

    kind: str
    id: str
    name: str
    type: str
    made_at: datetime
    bytes: int
    why: str


@dataclass(frozen=True)
class Held:
    """Something that no rule keeps, and that stays because something needs it."""

    kind: str
    id: str
    name: str
    reason: str


@dataclass(frozen=True)
class RetentionPlan:
    """What a policy would delete now.

    Attributes
    ----------
    policy : RetentionPolicy
    take : tuple of Item
    held : tuple of Held
    kept : dict of str to int
        How many of each kind stay.
    """

    policy: RetentionPolicy
    take: tuple[Item, ...]
    held: tuple[Held, ...]
    kept: dict[str, int]

    @property
    def bytes(self) -> int:
        """Bytes that would become free, at least: things that go together can free what they share."""
        return sum(item.bytes for item in self.take)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "policy": self.policy.to_dict(),
            "take": [asdict(item) for item in self.take],
            "held": [asdict(held) for held in self.held],
            "kept": self.kept,
            "bytes": self.bytes,
        }

    def __str__(self) -> str:
        lines = str(self.policy).splitlines()
        if not self.take:
            lines.append("Nothing would go.")
        else:
            lines.append(f"{len(self.take)} would go ({byte_text(self.bytes)}):")
            lines += _shown(f"  {i.kind} {i.id[-8:]}  {short(i.name, 50)}  {i.why}" for i in self.take)
        if self.held:
            lines.append(f"{len(self.held)} stay although no rule keeps them:")
            lines += _shown(f"  {h.kind} {h.id[-8:]}  {short(h.name, 50)}  {h.reason}" for h in self.held)
        if self.kept:
            lines.append(
                "stay: " + ", ".join(f"{count:,} {_many(kind)}" for kind, count in self.kept.items())
            )
        return "\n".join(_printable(line) for line in lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


@dataclass(frozen=True)
class RetentionResult:
    """What was deleted.

    Attributes
    ----------
    removed : dict of str to list of str
        Ids by kind.
    skipped : int
        That had been planned and were needed, or gone, when it was their turn.
    files, bytes : int
        Blobs removed.
    """

    removed: dict[str, list[str]]
    skipped: int
    files: int
    bytes: int

    @property
    def taken(self) -> int:
        """How many things went."""
        return sum(map(len, self.removed.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return {**asdict(self), "taken": self.taken}

    def __str__(self) -> str:
        what = (
            ", ".join(f"{len(ids):,} {_many(kind)}" for kind, ids in self.removed.items() if ids) or "nothing"
        )
        later = f"; {self.skipped} stayed after all" if self.skipped else ""
        return f"deleted {what}, {self.files} files ({byte_text(self.bytes)}){later}"


def make_plan(engine: Engine, policy: RetentionPolicy, now: datetime | None = None) -> RetentionPlan:
    """Look what a policy would delete at a moment (default: now); changes nothing."""
    ranks = {rule: _chain_ranks(engine, rule) for rule in policy.rules if _ranks_chains(rule)}
    moment = utcnow() if now is None else now

    def ask(con: Connection) -> RetentionPlan:
        rows = {kind: list(candidates(con, kind).iter_rows(named=True)) for kind in policy.kinds}
        going: dict[str, dict[str, str]] = {}
        held: dict[tuple[str, str], str] = {}
        for kind, found in rows.items():
            safe = {row["id"]: why for row in found for why in [_safe(policy, kind, row)] if why}
            free = [row for row in found if row["id"] not in safe]
            going[kind] = _going(con, policy, kind, free, ranks, moment)
            # Told only of what would go otherwise.
            beyond = _going(con, policy, kind, found, ranks, moment) if safe else {}
            held |= {(kind, identifier): safe[identifier] for identifier in beyond if identifier in safe}
        taken = {kind: list(why) for kind, why in going.items()}
        held |= settle(con, taken, engine.living_sessions())
        by_id = {(kind, row["id"]): row for kind, found in rows.items() for row in found}
        take = [
            Item(kind, identifier, row["name"], row["type"], row["made_at"], int(row["bytes"]), why)
            for kind, ids in taken.items()
            for identifier in ids
            for row, why in ((by_id[kind, identifier], going[kind][identifier]),)
        ]
        stay = [
            Held(kind, identifier, by_id[kind, identifier]["name"], reason)
            for (kind, identifier), reason in held.items()
        ]
        kept = {kind: len(found) - len(taken[kind]) for kind, found in rows.items()}
        return RetentionPlan(policy, tuple(take), tuple(stay), kept)

    return engine.query(ask)


def settle(con: Connection, taken: dict[str, list[str]], alive: list[str]) -> dict[tuple[str, str], str]:
    """Give back what has to stay, until nothing that stays needs anything that goes; returns why."""
    held: dict[tuple[str, str], str] = {}
    while True:
        back = {
            (kind, identifier): reason
            for kind, ids in taken.items()
            if ids
            for identifier, reason in reasons(con, kind, taken, alive).items()
        }
        if not back:
            return held
        held |= back
        for kind, ids in taken.items():
            taken[kind] = [identifier for identifier in ids if (kind, identifier) not in back]


def _safe(policy: RetentionPolicy, kind: str, row: Row) -> str | None:
    """Say why the rules and limits of a policy cannot take a row at all; None where they can."""
    if policy.by_date(kind) and row["made_at"] > utcnow() + AHEAD:
        return f"its date, {row['made_at']:%Y-%m-%d}, lies in the future: a clock was or is wrong"
    if kind != "file":
        return None
    parts: tuple[Rule | Limit, ...] = (*policy.rules, *policy.limits)
    about = [part for part in parts if part.on == kind]
    if (
        row["mode"] == PRODUCTION
        and row["status"] == "completed"
        and all(p.mode != PRODUCTION for p in about)
    ):
        return "it is production content, and no rule names mode='production'"
    if row["type"] in _KEPT_TYPES and all(part.type != row["type"] for part in about):
        return f"it is of the type {row['type']}, which no rule names"
    return None


def _is_about(part: Rule | Limit, row: Row) -> bool:
    """Tell whether a rule or limit says anything about a row."""
    return part.type in (None, row["type"]) and part.mode in (None, row.get("mode"))


def _going(
    con: Connection,
    policy: RetentionPolicy,
    kind: str,
    rows: list[Row],
    ranks: dict[Rule, dict[str, int]],
    now: datetime,
) -> dict[str, str]:
    """Ids that go by the rules and limits of one kind, and why."""
    rules = [rule for rule in policy.rules if rule.on == kind]
    going: dict[str, str] = {}
    if rules:
        kept: set[str] = set()
        for rule in rules:
            kept |= _keeps(con, rule, [row for row in rows if _is_about(rule, row)], ranks, now)
        # A rule about one type or mode says nothing about the others.
        words = " or ".join(f"not {rule.words}" for rule in rules) if len(rules) == 1 else "no rule keeps it"
        going = {
            row["id"]: words
            for row in rows
            if row["id"] not in kept and any(_is_about(rule, row) for rule in rules)
        }
    for bound in (bound for bound in policy.limits if bound.on == kind):
        left = [row for row in rows if row["id"] not in going and _is_about(bound, row)]
        going |= dict.fromkeys(_beyond(bound, left, now), f"beyond the limit ({bound.words})")
    return going


def _keeps(
    con: Connection, rule: Rule, rows: list[Row], ranks: dict[Rule, dict[str, int]], now: datetime
) -> set[str]:
    if rule.policy == "keep_all":
        return {row["id"] for row in rows}
    if rule.policy == "keep_champions":
        return champions(con, rule.on, ever=True)
    if rule.policy == "keep_recent":
        kept = set()
        if rule.count is not None:
            kept |= {row["id"] for group in _groups(rule, rows) for row in group[: rule.count]}
        if rule.days is not None:
            since = earlier(now, days=rule.days)
            kept |= {row["id"] for row in rows if row["made_at"] >= since}
        return kept
    if rule.on == "run":
        return _best_runs(con, rule, rows)
    order = ranks.get(rule) or _ranks(con, rule)
    last = len(order)
    return {
        row["id"]
        for group in _groups(rule, rows)
        # What has no value ranks last, the newest of it first.
        for row in sorted(group, key=lambda row: order.get(row["id"], last))[: rule.count]
    }


def _groups(rule: Rule, rows: list[Row]) -> Iterable[list[Row]]:
    """Rows a group of `per`, newest first."""
    names = {"name": "of_name"}
    columns = [names.get(name, name) for name in rule.per]
    if rule.policy == "keep_top_k":
        # Scores are compared where they mean the same: one data set, one target in one unit, one suite; and of one
        # task where each chain counts by the usual metric of its own.
        columns += {"chain": ["dataset", "target", "unit"], "file": ["suite", "target"]}.get(rule.on, [])
        columns += ["type"] if rule.on == "chain" and rule.metric is None else []
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in columns), []).append(row)
    return groups.values()


def _beyond(bound: Limit, rows: list[Row], now: datetime) -> list[str]:
    """Ids of what exceeds a limit: the newest stay."""
    going = []
    size = 0
    oldest = None if bound.max_age_days is None else earlier(now, days=bound.max_age_days)
    for place, row in enumerate(rows):
        size += int(row["bytes"])
        if (
            (bound.max_count is not None and place >= bound.max_count)
            or (bound.max_bytes is not None and size > bound.max_bytes)
            or (oldest is not None and row["made_at"] < oldest)
        ):
            going.append(row["id"])
    return going


def _ranks_chains(rule: Rule) -> bool:
    return rule.policy == "keep_top_k" and rule.on == "chain"


def _chain_ranks(engine: Engine, rule: Rule) -> dict[str, int]:
    """Places on the leaderboard, best first; without a metric, one leaderboard a task."""
    from nirs_store.records.ranking import top_chains

    ranks: dict[str, int] = {}
    tasks = ("regression", "classification") if rule.metric is None else (None,)
    for task in tasks:
        best = None if rule.higher_is_better is None else not rule.higher_is_better
        for row in top_chains(engine, None, rule.metric, best, task, mixed=True).iter_rows(named=True):
            score = row["score"]
            if score is not None and score == score:
                ranks.setdefault(row["chain_id"], len(ranks))
    return ranks


def _highest(rule: Rule) -> bool:
    if rule.higher_is_better is not None:
        return rule.higher_is_better
    return rule.metric is not None and higher_is_better(rule.metric)


def _best_runs(con: Connection, rule: Rule, rows: list[Row]) -> set[str]:
    """Return runs among the best k of each data set and target; what has no score ranks last."""
    highest = _highest(rule)
    values = run_values(con, rule.metric, highest)
    scored = {run_id for found in values.values() for run_id in found}
    kept: set[str] = set()
    for group in _groups(rule, rows):
        for found in values.values():
            of_both = [row["id"] for row in group if row["id"] in found]
            kept |= set(sorted(of_both, key=found.__getitem__, reverse=highest)[: rule.count])
        # Places that no score takes go to the newest without one.
        left = int(rule.count or 0) - len({row["id"] for row in group} & kept)
        kept |= set([row["id"] for row in group if row["id"] not in scored][: max(left, 0)])
    return kept


def _ranks(con: Connection, rule: Rule) -> dict[str, int]:
    highest = _highest(rule)
    values = file_values(con, str(rule.metric))
    ordered = sorted(values, key=lambda identifier: values[identifier], reverse=highest)
    return {identifier: place for place, identifier in enumerate(ordered)}


def _shown(lines: Iterable[str]) -> list[str]:
    found = list(lines)
    more = len(found) - _SHOWN
    return found[:_SHOWN] + ([f"  … and {more} more"] if more > 0 else [])


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text)


_LOG = logging.getLogger("nirs_store.retention")
_BY_HAND = "`nirs-store retention run` goes by the clock at once."
_LISTED = 100


class Retention:
    """What a store keeps, as ``store.retention``.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store import WorkspaceStore
    >>> from nirs_store.registry import keep_recent
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     for name in ("first", "second", "third"):
    ...         with store.run(name):
    ...             pass
    ...     store.retention.pin(("run", store.list_runs()["run_id"][2]), "the reference")
    ...     policy = store.retention.set(keep_recent(1, on="run"))
    ...     plan = store.retention.plan()
    ...     print([(item.name, item.why) for item in plan.take], [held.reason for held in plan.held])
    ...     store.retention.execute(plan).taken
    [('second', 'not the 1 newest runs')] ['it is pinned']
    1
    >>> folder.cleanup()
    """

    def __init__(
        self,
        engine: Engine,
        forget: Callable[[], None] = lambda: None,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._forget = forget
        self._watch = watch

    # -- the policy ----------------------------------------------------------------------------------

    @property
    def policy(self) -> RetentionPolicy:
        """The policy that the workspace keeps; it keeps everything until one is set."""
        return _policy_of(self._engine.query(read_settings).get(RETENTION))

    def set(
        self, policy: RetentionPolicy | Rule | Limit | Mapping[str, Any], *, automatic: str | None = None
    ) -> RetentionPolicy:
        """Keep a policy in the workspace; nothing is removed by that.

        Parameters
        ----------
        policy : RetentionPolicy, Rule, Limit or mapping
            Rules and limits are combined with ``|``; a mapping is what ``to_dict`` gives.
        automatic : {"never", "on_close", "after_run", "hourly", "daily", "weekly"}, optional
            Carry it out by itself when a store is closed, when a run is completed, or as often in every store that
            is open for writing (so also in a service that never closes). What went is logged (logger
            ``nirs_store.retention``) and audited. Ages are then counted up to what earlier sessions bear out, not
            up to a clock that has just jumped; where the clocks of sessions contradict each other, nothing goes by
            date.

        Raises
        ------
        InvalidInput
            Nothing was changed.
        """
        with attempting(self._engine, "set_retention", "workspace"):
            made = _as_policy(policy)
            if automatic is not None:
                made = RetentionPolicy(made.rules, made.limits, automatic)
            kept = made.to_dict()
            store_setting(self._engine, RETENTION, lambda _: kept, "set_retention", kept)
            if made.automatic in EVERY:
                self._remember_done()  # the first time is one interval from now
        self._watch()
        return made

    def clear(self) -> None:
        """Keep everything again."""
        store_setting(self._engine, RETENTION, lambda _: None, "set_retention", {"policy": None})

    # -- pins ----------------------------------------------------------------------------------------

    def pin(self, thing: Any, reason: str | None = None) -> None:
        """Keep something whatever the policy says; pinning it again replaces the reason.

        A pinned run or pipeline keeps its chains; a pinned artifact the chains that use it.

        Raises
        ------
        UnknownId, InvalidInput, ForbiddenContent
        """
        engine = self._engine
        words = None if reason is None else as_text(reason, "reason")
        guarded(engine, "pin", {"reason": words})

        def work(con: Connection) -> None:
            ref = find_ref(con, thing)
            add_pin(con, ref.kind, ref.id, words)
            note(engine, "pin", ref.kind, ref.id, message=words, con=con)

        with attempting(engine, "pin"):
            engine.change(work)

    def unpin(self, thing: Any) -> bool:
        """Take a pin away; False where there was none."""
        engine = self._engine

        def work(con: Connection) -> bool:
            ref = find_ref(con, thing)
            there = remove_pin(con, ref.kind, ref.id)
            if there:
                note(engine, "unpin", ref.kind, ref.id, con=con)
            return there

        with attempting(engine, "unpin"):
            return engine.change(work)

    def pins(self) -> pl.DataFrame:
        """Return what is pinned: ``object_kind``, ``object_id``, ``reason``, ``made_at``."""
        return self._engine.query(pins)

    # -- plan, then execute ---------------------------------------------------------------------------

    def plan(self, policy: RetentionPolicy | Rule | Limit | Mapping[str, Any] | None = None) -> RetentionPlan:
        """Look what a policy (default: the workspace's) would delete; changes nothing."""
        chosen = self.policy if policy is None else _as_policy(policy)
        return make_plan(self._engine, chosen)

    def execute(self, plan: RetentionPlan, *, now: bool = False) -> RetentionResult:
        """Delete what a plan names, in one transaction.

        Runs and chains go to the trash, which keeps their space until it is emptied; of files, versions and blobs
        are removed at once. With `now`, everything is. What a search says of chains stays known.
        What has come to be needed since the plan was made stays, and so does what is gone already.

        Raises
        ------
        StoreBusy, ReadOnlyStore, WriteFailed
        """
        engine = self._engine

        def work(con: Connection) -> tuple[dict[str, list[str]], list[str], set[str]]:
            taken = _still(con, plan, engine.living_sessions())
            artifacts = artifacts_of(con, taken)
            unnamed = let_go(con, taken, now=now)
            counts = {kind: len(ids) for kind, ids in taken.items() if ids}
            if counts:
                facts: dict[str, Any] = {"taken": counts, "policy": plan.policy.to_dict()}
                facts |= {f"{kind}s": ids[:_LISTED] for kind, ids in taken.items() if ids}
                note(engine, "retention", "workspace", details=facts, con=con)
            return taken, unheld(con, artifacts), unnamed

        if not isinstance(plan, RetentionPlan):
            raise InvalidInput(f"plan: expected what plan() gives, found {type(plan).__name__}.")
        with attempting(engine, "retention", "workspace"):
            if not plan.take:
                return RetentionResult({}, 0, 0, 0)
            taken, free, unnamed = engine.change(work)
        self._forget()
        remove_copies(engine, unnamed)
        files, size = 0, 0
        if free:
            from nirs_store.maintenance.gc import collect

            done = collect(engine, only=free)
            files, size = done.files, done.bytes
        count = sum(map(len, taken.values()))
        return RetentionResult(taken, len(plan.take) - count, files, size)

    def carry_out(self, moment: str) -> RetentionResult | None:
        """Execute the workspace's policy if it asks for it at this moment ("on_close", "after_run", "by_time").

        Returns
        -------
        RetentionResult or None
            None where the policy does not ask for it, or the catalog could not be had (which is logged).
        """
        if not retention_is_due(self._engine, moment):
            return None
        said = moment.replace("_", " ")
        try:
            policy = self.policy
            plan = self._plan_by_borne_out_time(policy, said)
            result = None if plan is None else self.execute(plan)
            if policy.automatic in EVERY:
                self._remember_done()
        except StoreBusy as error:
            _LOG.warning("retention was put off (%s): %s", said, error)
            return None
        if result is not None and result.taken:
            _LOG.warning("retention (%s): %s", said, result)
        return result

    def _remember_done(self) -> None:
        """Let all stores of the workspace count from now; not an act that the audit trail has to tell of."""
        engine = self._engine

        def work(access: CatalogAccess) -> None:
            access.transact(lambda con: put_setting(con, DONE, time.time()))
            access.settle(engine.workspace_settings.reconcile)

        engine.exclusive(work)

    def _plan_by_borne_out_time(self, policy: RetentionPolicy, moment: str) -> RetentionPlan | None:
        """Plan what goes without being asked; None, with a warning, where clocks contradict each other."""
        engine = self._engine
        if not any(policy.by_date(kind) for kind in policy.kinds):
            return self.plan(policy)
        clock = engine.query(lambda con: read_clock(con, engine.session_id))
        whole = self.plan(policy)
        if clock.contradiction is not None and whole.take:
            _LOG.warning(
                "retention was put off (%s), %d would have gone: a clock is wrong, since %s. Set the clocks; %s",
                moment, len(whole.take), clock.contradiction, _BY_HAND,
            )  # fmt: skip
            return None
        plan = make_plan(engine, policy, clock.believed.replace(tzinfo=UTC))
        alone = len(whole.take) - len(plan.take)
        if alone > 0:
            _LOG.warning(
                "retention (%s) left %d alone that are too old by this machine's clock: it says %s, and earlier "
                "sessions bear out %s only (UTC). If the clock is right, they go when work has gone on for a week; %s",
                moment, alone, f"{clock.says:%Y-%m-%d %H:%M}", f"{clock.believed:%Y-%m-%d %H:%M}", _BY_HAND,
            )  # fmt: skip
        return plan

    def __repr__(self) -> str:
        return f"<retention of {self._engine.layout.root}>"


def _still(con: Connection, plan: RetentionPlan, alive: list[str]) -> dict[str, list[str]]:
    """Return what of a plan is there and free to go now."""
    taken: dict[str, list[str]] = {}
    for kind in plan.policy.kinds:
        there = set(candidates(con, kind)["id"].to_list())
        taken[kind] = [item.id for item in plan.take if item.kind == kind and item.id in there]
    settle(con, taken, alive)
    return taken


def _policy_of(setting: Any) -> RetentionPolicy:
    return RetentionPolicy() if not setting else RetentionPolicy.from_dict(setting)


def _as_policy(given: Any) -> RetentionPolicy:
    if isinstance(given, RetentionPolicy):
        return given
    if isinstance(given, Rule):
        return RetentionPolicy((given,))
    if isinstance(given, Limit):
        return RetentionPolicy((), (given,))
    return RetentionPolicy.from_dict(given)
