"""What came from what: links that people recorded, and those that follow from the rows of the store.

A link leads from a source to what was made from it. Nothing that follows from other tables is stored again, so
it cannot say something else than they do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nirs_store.db.database import Connection
from nirs_store.db.sql import number
from nirs_store.db.table import Table, column


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
TABLES: dict[str, tuple[str, str, str]] = {
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
KINDS = (*TABLES, "bundle")

STACKED = (
    "(SELECT chain_id, pipeline_id, json_extract_string(unnest(json_extract(steps, '$[*].sources[*]')), '$.chain_id') "
    "AS base FROM chains WHERE steps LIKE '%\"sources\"%')"
)
"""Stacks, each with the chains (base) that it is made from."""
_IMPORTED = "config LIKE '%\"content_hash\"%'"
_CONTENT = "json_extract_string(config, '$.imported.content_hash')"
_ORIGIN = "JOIN chains c ON c.chain_id = json_extract_string(config, '$.imported.origin.chain_id')"
_NEEDED = "artifact_links l JOIN artifact_records r USING (record_id) WHERE l.artifact_id <> r.artifact_id"
# Type, kind of the source, kind of the target; where these links are told, and the ids of source and target there.
_FOLLOWING: tuple[tuple[str, str, str, str, str, str], ...] = (
    ("contains", "run", "pipeline", "pipelines", "run_id", "pipeline_id"),
    ("contains", "pipeline", "chain", "chains", "pipeline_id", "chain_id"),
    ("predicted", "chain", "prediction", "predictions", "chain_id", "prediction_id"),
    ("contains", "pipeline", "prediction", "predictions WHERE chain_id IS NULL", "pipeline_id", "prediction_id"),
    ("used_by", "artifact", "chain", "artifact_refs WHERE owner_kind = 'chain'", "artifact_id", "owner_id"),
    # Of all pipelines that hold the same object, the one that brought it.
    ("recorded", "pipeline", "artifact", "artifact_refs WHERE pipeline_id IS NOT NULL GROUP BY artifact_id",
     "arg_min(pipeline_id, ref_id)", "artifact_id"),
    ("needed_by", "artifact", "artifact", _NEEDED, "l.artifact_id", "r.artifact_id"),
    ("stacked", "chain", "chain", STACKED, "base", "chain_id"),
    ("imported", "bundle", "run", f"runs WHERE {_IMPORTED}", _CONTENT, "run_id"),
    ("exported", "chain", "bundle", f"runs {_ORIGIN} WHERE {_IMPORTED}", "c.chain_id", _CONTENT),
    ("calibrated", "dataset", "chain", "chains WHERE metadata LIKE '%\"dataset_version_id\"%'",
     "metadata ->> '$.dataset_version_id'", "chain_id"),
    ("tested", "dataset", "chain", "chains WHERE metadata LIKE '%\"dataset_test_version_id\"%'",
     "metadata ->> '$.dataset_test_version_id'", "chain_id"),
    ("preceded", "dataset", "dataset", "dataset_versions WHERE kind <> 'selection'", "parent_id", "dataset_version_id"),
    ("selected", "dataset", "dataset", "dataset_versions WHERE kind = 'selection'", "parent_id", "dataset_version_id"),
    ("content_of", "artifact", "dataset", "artifact_refs WHERE owner_kind = 'dataset'", "artifact_id", "owner_id"),
    ("produced", "run", "file", "file_versions", "run_id", "version_id"),
    ("produced", "processing", "file", "file_versions", "processing_id", "version_id"),
    ("content_of", "artifact", "file", "file_versions", "artifact_id", "version_id"),
    ("reported", "evaluation", "file", "file_versions", "evaluation_id", "version_id"),
    ("evaluated", "chain", "evaluation", "evaluations", "chain_id", "evaluation_id"),
    ("evaluated", "run", "evaluation", "evaluations WHERE chain_id IS NULL", "run_id", "evaluation_id"),
    ("registered", "chain", "calibration", "calibration_versions", "chain_id", "version_id"),
    ("content_of", "artifact", "evaluation", "artifact_refs WHERE owner_kind = 'evaluation'", "artifact_id",
     "owner_id"),
)  # fmt: skip
EXPLICIT = "lineage_links"


def delete_links(con: Connection, source: Ref, target: Ref, link_type: str | None) -> list[str]:
    """Remove recorded links between two things inside the caller's transaction; returns their ids."""
    wanted = ends(source, target) | ({} if link_type is None else {"link_type": link_type})
    return sorted(row["link_id"] for row in Table(con, EXPLICIT).delete(**wanted))


def ends(source: Ref, target: Ref) -> dict[str, str]:
    """Return both ends of a link by the columns of its row."""
    return dict(
        zip(("source_kind", "source_id", "target_kind", "target_id"), (*source, *target), strict=True)
    )


def neighbours(con: Connection, nodes: Iterable[Ref], *, upstream: bool) -> list[Link]:
    """Links of some things, to what they came from or to what came from them."""
    by_kind = _by_kind(nodes)
    near, far = ("target", "source") if upstream else ("source", "target")
    found: list[Link] = []
    for link_type, source_kind, target_kind, relation, source_id, target_id in _FOLLOWING:
        ids = by_kind.get(target_kind if upstream else source_kind)
        if ids:
            rows = con.execute(
                f"SELECT DISTINCT source_id, target_id FROM (SELECT {source_id} AS source_id, {target_id} AS target_id "
                f"FROM {relation}) WHERE {near}_id IN (SELECT unnest(?)) AND {far}_id IS NOT NULL ORDER BY ALL",
                [ids],
            ).fetchall()
            found += [Link(Ref(source_kind, str(a)), Ref(target_kind, str(b)), link_type) for a, b in rows]
    for kind, ids in by_kind.items():
        for row in Table(con, EXPLICIT).where("link_id", **{f"{near}_kind": kind, f"{near}_id": ids}):
            source, target = (Ref(row[f"{end}_kind"], row[f"{end}_id"]) for end in ("source", "target"))
            found.append(Link(source, target, row["link_type"], row["link_id"]))
    return found


def _by_kind(refs: Iterable[Ref]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for ref in refs:
        found.setdefault(ref.kind, []).append(ref.id)
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
    for kind, ids in _by_kind(refs).items():
        if kind in TABLES:
            table, key, _ = TABLES[kind]
            ids = Table(con, table).keys(**{key: ids})
        found |= {Ref(kind, identifier) for identifier in ids}
    return found


def kinds_of(con: Connection, identifier: str) -> list[str]:
    """Kinds of things that have this id."""
    parts = " UNION ALL ".join(
        f"(SELECT '{kind}', {place} FROM {table} WHERE {key} = $id LIMIT 1)"
        for place, (kind, (table, key, _)) in enumerate(TABLES.items())
    )
    kinds = column(con, f"{parts} ORDER BY 2", {"id": identifier})
    if not kinds and number(con, f"SELECT count(*) FROM runs WHERE {_CONTENT} = $id", {"id": identifier}):
        return ["bundle"]
    return kinds


def names_of(con: Connection, refs: Iterable[Ref]) -> dict[Ref, str]:
    """Return the names of some objects; those that were deleted are left out."""
    found: dict[Ref, str] = {}
    for kind, ids in _by_kind(refs).items():
        if kind == "bundle":
            table, key, words = "runs", _CONTENT, "any_value(json_extract_string(config, '$.imported.file'))"
        else:
            table, key, words = TABLES[kind]
            words = f"any_value({words})"
        sql = f"SELECT {key}, {words} FROM {table} WHERE {key} IN (SELECT unnest(?)) GROUP BY 1"
        for identifier, name in con.execute(sql, [ids]).fetchall():
            found[Ref(kind, str(identifier))] = str(name or "")
    return found
