"""Rows of data sets: finding what a reference means, adding and deleting versions.

Versions are added and deleted under the lock, in one transaction: numbers never collide, and a blob gets its name
before the row that names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.blobs.durable import Draft
from nirs_store.db.database import Connection
from nirs_store.db.schema import column_names
from nirs_store.db.session import Engine
from nirs_store.db.table import Table, fetch
from nirs_store.errors import OverwriteRefused, UnknownDataset, quoted
from nirs_store.ids import new_id, now_naive
from nirs_store.records.artifacts import adopt, hold

Row = dict[str, Any]


class BlobsGone(Exception):
    """Spectra that were to be shared have been deleted meanwhile."""


@dataclass
class Item:
    """A version to be recorded: the columns that are known, and the drafts of its blobs."""

    values: dict[str, Any]
    #: Blobs of spectra that another version has brought, and the draft of those that are new.
    shared: list[str] = field(default_factory=list)
    spectra: Draft | None = None
    samples: Draft | None = None
    #: The newest version, if its samples are known to be others though its hash is the same.
    unlike: str | None = None


def find(con: Connection, name: str, version: int | None) -> Row | None:
    """Return the row of a version by its number, or of the newest."""
    wanted = {"name": name} if version is None else {"name": name, "version": version}
    return next(iter(Table(con, "dataset_versions").where("version DESC", 1, **wanted)), None)


def latest(con: Connection, name: str) -> Row | None:
    """Return the row of the newest version."""
    return find(con, name, None)


def require(con: Connection, name: str, version: int | None) -> Row:
    """Return the row of a version by its name and number, or by its id."""
    by_id = Table(con, "dataset_versions").where(dataset_version_id=name)
    row = by_id[0] if by_id and version is None else find(con, name, version)
    if row is not None:
        return row
    numbers = [each["version"] for each in Table(con, "dataset_versions").where("version", name=name)]
    if numbers:
        has = ", ".join(f"v{number}" for number in numbers[-10:])
        raise UnknownDataset(
            f"{name}@v{version}", f"The data set {quoted(name)} has no version {version}; it has {has}."
        )
    near = con.execute(
        "SELECT DISTINCT name FROM dataset_versions WHERE jaro_winkler_similarity(name, $name) > 0.8 "
        "ORDER BY jaro_winkler_similarity(name, $name) DESC, name LIMIT 1",
        {"name": name},
    ).fetchall()
    hint = f" Did you mean {near[0][0]!r}?" if near else " `nirs-store datasets list` shows what there is."
    raise UnknownDataset(name, f"There is no data set {quoted(name)} in this workspace.{hint}")


def list_versions(con: Connection, name: str | None) -> list[Row]:
    """Return the rows of all versions of a name, oldest first; or the newest of each name, by name."""
    if name is not None:
        return Table(con, "dataset_versions").where("version", name=name)
    newest = "SELECT name, max(version) FROM dataset_versions GROUP BY name"
    return fetch(con, f"FROM dataset_versions WHERE (name, version) IN ({newest}) ORDER BY name")


def paths_of(con: Connection, artifact_ids: Iterable[str]) -> dict[str, str]:
    """Return the files of blobs by their ids."""
    rows = Table(con, "blobs").where(artifact_id=list(artifact_ids))
    return {row["artifact_id"]: row["artifact_path"] for row in rows}


def record(engine: Engine, item: Item) -> tuple[Row, bool]:
    """Record a version; return its row, and whether it is new."""
    return engine.exclusive(lambda access: access.transact(lambda con: _record(con, engine, item)))


def _record(con: Connection, engine: Engine, item: Item) -> tuple[Row, bool]:
    name = item.values["name"]
    head = latest(con, name)
    pairs = ((item.spectra, "npy"), (item.samples, "arrow"))
    drafts = [(draft, ending, "dataset") for draft, ending in pairs if draft is not None]
    same = head is not None and head["content_hash"] == item.values["content_hash"]
    if head is not None and same and head["dataset_version_id"] != item.unlike:
        # The same bytes: should those on the disk be damaged, this repairs them.
        there = (*head["spectra_ids"], head["samples_id"])
        adopt(con, engine, [each for each in drafts if each[0].digest in there])
        return head, False
    if len(paths_of(con, item.shared)) < len(set(item.shared)):
        raise BlobsGone
    numbers = [*([] if head is None else [head]), *Table(con, "dataset_retired").where(name=name)]
    number = max((int(each["version"]) for each in numbers), default=0) + 1
    spectra = [*item.shared, *([] if item.spectra is None else [item.spectra.digest])]
    assert item.samples is not None
    row: Row = {
        **dict.fromkeys(column_names("dataset_versions")),
        "dataset_version_id": new_id(),
        "version": number,
        "parent_id": None if head is None else head["dataset_version_id"],
        **item.values,
        "spectra_ids": spectra,
        "samples_id": item.samples.digest,
        "size_bytes": sum(draft.size for draft, *_ in drafts),
        "session_id": engine.session_id,
        "created_at": now_naive(),
    }
    # Nothing is refused any more: only now do blobs get their names.
    adopt(con, engine, drafts)
    Table(con, "dataset_versions").insert([row])
    blobs = dict.fromkeys([*spectra, row["samples_id"]])
    hold(con, "dataset", [(row["dataset_version_id"], artifact_id, "dataset") for artifact_id in blobs])
    return row, True


# -- which rows of one version per chain was fitted on -------------------------------------------------


def rows_in(ranges: Sequence[Sequence[int]] | None, n: int) -> NDArray[np.int64]:
    """Return the rows that `DatasetRows.ranges` wrote."""
    if ranges is None:
        return np.arange(n)
    return np.concatenate([np.arange(start, min(stop, n)) for start, stop in ranges] or [np.arange(0)])


# -- who needs a version ---------------------------------------------------------------------------

_CHAINS = (
    "SELECT chain_id, pipeline_id, target, model_class, preprocessings, created_at, "
    "metadata ->> '$.dataset_version_id' AS fitted_id, metadata -> '$.dataset_rows' AS fitted_rows, "
    "metadata ->> '$.dataset_test_version_id' AS test_id, metadata -> '$.dataset_test_rows' AS test_rows "
    "FROM chains WHERE metadata LIKE '%_version_id\"%'"
)


def fitted_on(con: Connection) -> tuple[list[Row], int]:
    """Return the chains from data sets, oldest first, with their versions and rows; and how many chains there are."""
    found = fetch(
        con,
        f"SELECT c.*, l.name AS pipeline_name, l.run_id FROM ({_CHAINS}) c LEFT JOIN pipelines l USING (pipeline_id) "
        "WHERE fitted_id IS NOT NULL OR test_id IS NOT NULL ORDER BY c.created_at, c.chain_id",
    )
    return found, int(con.execute("SELECT count(*) FROM chains").fetchall()[0][0])


def users_of(con: Connection, version_id: str) -> list[str]:
    """Say what would lack a version: pins, selections, calibrations, chains."""
    found = con.execute(
        "SELECT 'a pin' FROM pins WHERE object_kind = 'dataset' AND object_id = $id UNION ALL "
        "SELECT 'the selection ' || name || '@v' || version FROM dataset_versions WHERE parent_id = $id AND "
        "kind = 'selection' UNION ALL "
        "SELECT 'the calibration ' || name || '@v' || version FROM calibration_versions WHERE dataset_version_id = $id "
        f"UNION ALL SELECT 'the chain ' || chain_id FROM ({_CHAINS}) WHERE $id IN (fitted_id, test_id)",
        {"id": version_id},
    ).fetchall()
    return [str(row[0]) for row in found]


def delete(con: Connection, row: Row, *, force: bool) -> None:
    """Delete a version with its references; its number is not given again."""
    identifier = row["dataset_version_id"]
    users = users_of(con, identifier)
    if users and not force:
        others = f" and {len(users) - 1} more" if len(users) > 1 else ""
        raise OverwriteRefused(
            f"{row['name']}@v{row['version']} is needed by {users[0]}{others}. Nothing was deleted. With force=True "
            "(on the command line: --force) they stay, and what they say of its samples can no longer be looked up."
        )
    Table(con, "artifact_refs").delete(owner_kind="dataset", owner_id=identifier)
    Table(con, "dataset_versions").delete(dataset_version_id=identifier)
    Table(con, "dataset_retired").raise_number(row["name"], row["version"])
