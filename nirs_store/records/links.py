"""What came from what: links that people recorded, and those that follow from the rows of the store.

A link leads from a source to what was made from it. Nothing that follows from other tables is stored again, so
it cannot say something else than they do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nirs_store.db.database import Connection
from nirs_store.db.sql import number

__all__ = [
    "EXPLICIT",
    "KINDS",
    "Link",
    "Ref",
    "delete_links",
    "existing",
    "kinds_of",
    "names_of",
    "neighbours",
    "reaches",
]


class Ref(NamedTuple):
    """Something that can have sources: its kind and id."""

    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"


class Link(NamedTuple):
    """A source, what was made from it, and how; `link_id` is None where it follows from the store."""

    source: Ref
    target: Ref
    link_type: str
    link_id: str | None = None


# Kind: where its rows are, the key, and what to call one.
_TABLES: dict[str, tuple[str, str, str]] = {
    "run": ("runs", "run_id", "name"),
    "pipeline": ("pipelines", "pipeline_id", "name"),
    "chain": (
        "chains",
        "chain_id",
        "concat_ws(' > ', nullif(preprocessings, ''), regexp_extract(model_class, '[^.]*$'))",
    ),
    "prediction": ("predictions", "prediction_id", "concat_ws(' ', model_name, fold_id, partition)"),
    "artifact": (
        "blobs",
        "artifact_id",
        "concat_ws(' ', artifact_type, regexp_extract(operator_class, '[^.]*$'))",
    ),
    "file": ("file_versions", "version_id", "name || ' v' || version"),
    "dataset": ("dataset_versions", "dataset_version_id", "name || '@v' || version"),
    "evaluation": ("evaluations", "evaluation_id", "concat_ws(' on ', model_id, suite)"),
    "processing": ("processing_runs", "processing_id", "name"),
    "backup": ("backups", "backup_id", "path"),
    "calibration": ("calibration_versions", "version_id", "name || '@v' || version"),
}
KINDS = (*_TABLES, "bundle")

_STACKED = (
    "SELECT json_extract_string(source, '$.chain_id') AS source_id, target_id FROM (SELECT chain_id AS target_id, "
    "unnest(json_extract(steps, '$[*].sources[*]')) AS source FROM chains WHERE steps LIKE '%\"sources\"%')"
)
# Type, kind of the source, kind of the target, and their ids.
_FOLLOWING: tuple[tuple[str, str, str, str], ...] = (
    ("contains", "run", "pipeline", "SELECT run_id AS source_id, pipeline_id AS target_id FROM pipelines"),
    ("contains", "pipeline", "chain", "SELECT pipeline_id AS source_id, chain_id AS target_id FROM chains"),
    ("predicted", "chain", "prediction",
     "SELECT chain_id AS source_id, prediction_id AS target_id FROM predictions"),
    ("contains", "pipeline", "prediction",
     "SELECT pipeline_id AS source_id, prediction_id AS target_id FROM predictions WHERE chain_id IS NULL"),
    ("used_by", "artifact", "chain",
     "SELECT artifact_id AS source_id, owner_id AS target_id FROM artifact_refs WHERE owner_kind = 'chain'"),
    # Of all pipelines that hold the same object, the one that brought it.
    ("recorded", "pipeline", "artifact",
     "SELECT arg_min(pipeline_id, ref_id) AS source_id, artifact_id AS target_id FROM artifact_refs "
     "WHERE pipeline_id IS NOT NULL GROUP BY artifact_id"),
    ("needed_by", "artifact", "artifact",
     "SELECT l.artifact_id AS source_id, r.artifact_id AS target_id FROM artifact_links l "
     "JOIN artifact_records r USING (record_id) WHERE l.artifact_id <> r.artifact_id"),
    ("stacked", "chain", "chain", _STACKED),
    ("imported", "bundle", "run",
     "SELECT json_extract_string(config, '$.imported.content_hash') AS source_id, run_id AS target_id "
     "FROM runs WHERE config LIKE '%\"content_hash\"%'"),
    ("exported", "chain", "bundle",
     "SELECT c.chain_id AS source_id, json_extract_string(r.config, '$.imported.content_hash') AS target_id "
     "FROM runs r JOIN chains c ON c.chain_id = json_extract_string(r.config, '$.imported.origin.chain_id') "
     "WHERE r.config LIKE '%\"content_hash\"%'"),
    ("calibrated", "dataset", "chain",
     "SELECT metadata ->> '$.dataset_version_id' AS source_id, chain_id AS target_id FROM chains "
     "WHERE metadata LIKE '%\"dataset_version_id\"%'"),
    ("tested", "dataset", "chain",
     "SELECT metadata ->> '$.dataset_test_version_id' AS source_id, chain_id AS target_id FROM chains "
     "WHERE metadata LIKE '%\"dataset_test_version_id\"%'"),
    ("preceded", "dataset", "dataset",
     "SELECT parent_id AS source_id, dataset_version_id AS target_id FROM dataset_versions WHERE kind <> 'selection'"),
    ("selected", "dataset", "dataset",
     "SELECT parent_id AS source_id, dataset_version_id AS target_id FROM dataset_versions WHERE kind = 'selection'"),
    ("content_of", "artifact", "dataset",
     "SELECT artifact_id AS source_id, owner_id AS target_id FROM artifact_refs WHERE owner_kind = 'dataset'"),
    ("produced", "run", "file", "SELECT run_id AS source_id, version_id AS target_id FROM file_versions"),
    ("produced", "processing", "file",
     "SELECT processing_id AS source_id, version_id AS target_id FROM file_versions"),
    ("content_of", "artifact", "file",
     "SELECT artifact_id AS source_id, version_id AS target_id FROM file_versions"),
    ("reported", "evaluation", "file",
     "SELECT evaluation_id AS source_id, version_id AS target_id FROM file_versions"),
    ("evaluated", "chain", "evaluation",
     "SELECT chain_id AS source_id, evaluation_id AS target_id FROM evaluations"),
    ("evaluated", "run", "evaluation",
     "SELECT run_id AS source_id, evaluation_id AS target_id FROM evaluations WHERE chain_id IS NULL"),
    ("registered", "chain", "calibration",
     "SELECT chain_id AS source_id, version_id AS target_id FROM calibration_versions"),
    ("content_of", "artifact", "evaluation",
     "SELECT artifact_id AS source_id, owner_id AS target_id FROM artifact_refs WHERE owner_kind = 'evaluation'"),
)  # fmt: skip
EXPLICIT = "lineage_links"


def delete_links(con: Connection, source: Ref, target: Ref, link_type: str | None) -> list[str]:
    """Remove recorded links between two things inside the caller's transaction; returns their ids."""
    rows = con.execute(
        f"DELETE FROM {EXPLICIT} WHERE source_kind = ? AND source_id = ? AND target_kind = ? AND target_id = ? "
        "AND (?::VARCHAR IS NULL OR link_type = ?) RETURNING link_id",
        [*source, *target, link_type, link_type],
    ).fetchall()
    return sorted(str(row[0]) for row in rows)


def neighbours(con: Connection, nodes: Iterable[Ref], *, upstream: bool) -> list[Link]:
    """Links of some things, to what they came from or to what came from them."""
    by_kind: dict[str, list[str]] = {}
    for node in nodes:
        by_kind.setdefault(node.kind, []).append(node.id)
    near, far = ("target", "source") if upstream else ("source", "target")
    found: list[Link] = []
    for link_type, source_kind, target_kind, sql in _FOLLOWING:
        ids = by_kind.get(target_kind if upstream else source_kind)
        if ids:
            rows = con.execute(
                f"SELECT DISTINCT source_id, target_id FROM ({sql}) WHERE {near}_id IN (SELECT unnest(?)) "
                f"AND {far}_id IS NOT NULL ORDER BY ALL",
                [ids],
            ).fetchall()
            found += [Link(Ref(source_kind, str(a)), Ref(target_kind, str(b)), link_type) for a, b in rows]
    for kind, ids in by_kind.items():
        rows = con.execute(
            f"SELECT source_kind, source_id, target_kind, target_id, link_type, link_id FROM {EXPLICIT} "
            f"WHERE {near}_kind = ? AND {near}_id IN (SELECT unnest(?)) ORDER BY link_id",
            [kind, ids],
        ).fetchall()
        found += [
            Link(Ref(str(r[0]), str(r[1])), Ref(str(r[2]), str(r[3])), str(r[4]), str(r[5])) for r in rows
        ]
    return found


def reaches(con: Connection, source: Ref, target: Ref) -> bool:
    """Whether `target` is among what `source` came from, so that a link to it would close a circle."""
    seen, front = {source}, [source]
    while front:
        if target in front:
            return True
        above = {link.source for link in neighbours(con, front, upstream=True)} - seen
        seen |= above
        front = sorted(above)
    return False


def existing(con: Connection, refs: Iterable[Ref]) -> set[Ref]:
    """Those of some things that are in the workspace. Bundles live outside: each is taken to exist."""
    found: set[Ref] = set()
    by_kind: dict[str, list[str]] = {}
    for ref in refs:
        by_kind.setdefault(ref.kind, []).append(ref.id)
    for kind, ids in by_kind.items():
        if kind not in _TABLES:
            found |= {Ref(kind, identifier) for identifier in ids}
            continue
        table, key, _ = _TABLES[kind]
        rows = con.execute(f"SELECT {key} FROM {table} WHERE {key} IN (SELECT unnest(?))", [ids]).fetchall()
        found |= {Ref(kind, str(row[0])) for row in rows}
    return found


def kinds_of(con: Connection, identifier: str) -> list[str]:
    """Kinds of things that have this id."""
    parts = " UNION ALL ".join(
        f"(SELECT '{kind}', {place} FROM {table} WHERE {key} = $id LIMIT 1)"
        for place, (kind, (table, key, _)) in enumerate(_TABLES.items())
    )
    kinds = [str(row[0]) for row in con.execute(f"{parts} ORDER BY 2", {"id": identifier}).fetchall()]
    bundles = "json_extract_string(config, '$.imported.content_hash') = $id"
    if not kinds and number(con, f"SELECT count(*) FROM runs WHERE {bundles}", {"id": identifier}):
        return ["bundle"]
    return kinds


def names_of(con: Connection, refs: Iterable[Ref]) -> dict[Ref, str]:
    """Return the names of some objects; those that were deleted are left out."""
    found: dict[Ref, str] = {}
    by_kind: dict[str, list[str]] = {}
    for ref in refs:
        by_kind.setdefault(ref.kind, []).append(ref.id)
    for kind, ids in by_kind.items():
        if kind == "bundle":
            sql = (
                "SELECT json_extract_string(config, '$.imported.content_hash') AS id, "
                "any_value(json_extract_string(config, '$.imported.file')) FROM runs "
                "WHERE json_extract_string(config, '$.imported.content_hash') IN (SELECT unnest(?)) GROUP BY 1"
            )
        else:
            table, key, words = _TABLES[kind]
            sql = f"SELECT {key}, {words} FROM {table} WHERE {key} IN (SELECT unnest(?))"
        for identifier, name in con.execute(sql, [ids]).fetchall():
            found[Ref(kind, str(identifier))] = str(name or "")
    return found
