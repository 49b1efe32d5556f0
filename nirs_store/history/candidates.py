"""What retention asks of the catalog: what there is, what it scored, and what has to stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nirs_store.db.database import Connection
from nirs_store.db.table import column, fetch
from nirs_store.history.policy import ON
from nirs_store.lazy import polars as pl
from nirs_store.records.links import STACKED, TABLES
from nirs_store.records.named import HELD
from nirs_store.records.queries import frame

DAY = "coalesce(calibration, chain_id) || ' ' || strftime(logged_at, '%Y-%m-%d')"
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
        SELECT {DAY} AS id, coalesce(calibration, chain_id) || ', ' || count(*) || ' measurements' AS name, '' AS type,
            coalesce(calibration, chain_id) AS model, '' AS dataset, '' AS run, max(logged_at) AS made_at,
            coalesce(sum(octet_length(spectrum)), 0)::BIGINT AS bytes, NULL::DOUBLE AS score, NULL::VARCHAR AS metric,
            model AS of_name
        FROM measurements GROUP BY {DAY}, coalesce(calibration, chain_id) ORDER BY made_at DESC, id DESC""",
}


def candidates(con: Connection, kind: str) -> pl.DataFrame:
    """Return everything of a kind, newest first."""
    found = frame(con, _CANDIDATES[kind])
    return found if "of_name" in found.columns else found.with_columns(pl.col("name").alias("of_name"))


def run_values(
    con: Connection, metric: str | None, highest: bool | None
) -> dict[tuple[str, str, str], dict[str, float]]:
    """Return each run's best validation score in the metric, by data set, target and unit."""
    best = "max" if highest else "min"
    rows = fetch(
        con,
        "SELECT coalesce(dataset_name, '') AS dataset, coalesce(target, '') AS target, "
        f"coalesce(target_unit, '') AS unit, run_id, {best}(best_val) AS value "
        "FROM pipelines LEFT JOIN (SELECT DISTINCT pipeline_id, target, target_unit FROM chains) USING (pipeline_id) "
        "WHERE best_val IS NOT NULL AND NOT isnan(best_val) "
        "AND ($metric::VARCHAR IS NULL OR lower(metric) = lower($metric)) GROUP BY ALL",
        {"metric": metric},
    )
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        found.setdefault((row["dataset"], row["target"], row["unit"]), {})[row["run_id"]] = row["value"]
    return found


def file_values(con: Connection, metric: str) -> dict[str, float]:
    """Return what versions of files scored: by their own metadata, else by the evaluation that they belong to."""
    paths = {"own": f'$."{metric}"', "metrics": f'$.metrics."{metric}"', "scores": f'$.scores."{metric}"'}
    rows = fetch(
        con,
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
    )
    return {row["version_id"]: row["value"] for row in rows}


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
    """Return the ids of what is a champion now, or ever was one."""
    return set(column(con, _CHAMPIONS[kind], {"ever": ever}))


# Bundles lie outside: each that a link names is taken to exist.
_EXISTS = " UNION ALL ".join(
    [
        "SELECT 'bundle' AS kind, target_id AS id FROM lineage_links WHERE target_kind = 'bundle'",
        *(f"SELECT '{kind}', {key} FROM {table}" for kind, (table, key, _) in TABLES.items()),
    ]
)
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
        f"SELECT base, 'the stack ' || chain_id || ' is made from it' FROM {STACKED} "
        "WHERE chain_id NOT IN (SELECT unnest($taken_chain))",
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
        f"SELECT l.run_id, 'the stack ' || s.chain_id || ' is made from a chain of it' FROM {STACKED} s "
        "JOIN pipelines o ON o.pipeline_id = s.pipeline_id JOIN chains c ON c.chain_id = s.base "
        "JOIN pipelines l ON l.pipeline_id = c.pipeline_id "
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
    """Return why some of what would be taken has to stay, by id."""
    params: dict[str, Any] = {f"taken_{name}": taken.get(name, []) for name in ON}
    ids = params[f"taken_{kind}"]
    found: dict[str, str] = {}
    for sql in _REASONS[kind]:
        used = {name: value for name, value in params.items() if f"${name}" in sql}
        if "$alive" in sql:
            used["alive"] = list(alive)
        held = f"SELECT * FROM ({sql}) AS r(id, reason) WHERE id IN (SELECT unnest($ids)) ORDER BY ALL"
        for row in fetch(con, held, {**used, "ids": ids}):
            found.setdefault(row["id"], row["reason"])
    for identifier in champions(con, kind, ever=False) & set(ids):
        found.setdefault(identifier, "it is a champion")
    gone = " OR ".join(
        f"(k.target_kind = '{name}' AND k.target_id IN (SELECT unnest($taken_{name})))" for name in taken
    )
    rows = fetch(
        con,
        f"""
        WITH own AS ({_LINEAGE[kind]})
        SELECT o.owner, k.target_kind || ' ' || k.target_id AS target FROM own o
            JOIN lineage_links k ON k.source_kind = o.kind AND k.source_id = o.id
            JOIN ({_EXISTS}) e ON e.kind = k.target_kind AND e.id = k.target_id
        WHERE NOT ({gone or "FALSE"})
            AND NOT EXISTS (SELECT 1 FROM own x WHERE x.kind = k.target_kind AND x.id = k.target_id
                AND x.owner = o.owner)
        ORDER BY ALL
        """,
        {"ids": ids, **{name: value for name, value in params.items() if f"${name}" in gone}},
    )
    for row in rows:
        found.setdefault(row["owner"], f"the {row['target']} came from it")
    return found
