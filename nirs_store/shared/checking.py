"""The state of a shared workspace: its log, who records into it, how far its computers are, and what is wrong."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from nirs_store.db.session import Engine, Settings
from nirs_store.db.sql import execute
from nirs_store.shared.log import SharedLog
from nirs_store.shared.opening import open_engine
from nirs_store.shared.pg import Connection, one

_PIECE = 200


@dataclass(frozen=True)
class Computer:
    """One replica, as its computer last described it."""

    machine: str
    behind: int
    seen_at: datetime
    library: str
    compared: int | None = None
    """The commit at which a check last took the digest of its rows."""
    digest: str | None = None


@dataclass(frozen=True)
class Status:
    """How a shared workspace is.

    Attributes
    ----------
    commits, log_bytes
        Commits so far, and the bytes of those that are still in the log.
    floor, snapshot
        The last commit that is only in a snapshot, and the commit of the newest one; None without.
    living
        Store objects that record now: host, process and user.
    computers
        Replicas, and how many commits they lacked.
    rejected, condemned
        Commits that could not be applied; objects that a gc gave up and has not deleted yet.
    blobs, n_blobs, blob_bytes
        Where the blobs are, how many, and their bytes.
    schema
        The version of the catalog's schema.
    replica
        The folder of the replica on this computer.
    """

    workspace: str
    commits: int
    log_bytes: int
    floor: int
    snapshot: int | None
    living: tuple[str, ...]
    computers: tuple[Computer, ...]
    rejected: int
    condemned: int
    blobs: str
    schema: int
    n_blobs: int
    blob_bytes: int
    replica: str

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain data."""
        found = asdict(self)
        for computer in found["computers"]:
            computer["seen_at"] = computer["seen_at"].isoformat()
        return found


def status(settings: Settings) -> Status:
    """Ask the server of a shared workspace how it is."""
    engine = open_engine(settings)
    try:
        return status_of(engine)
    finally:
        engine.close()


def status_of(engine: Engine) -> Status:
    """Ask the server, and the replica how many blobs there are."""
    log = log_of(engine)
    alive = engine.claims.living()
    sql = (
        "SELECT count(*), coalesce(sum(size), 0) FROM "
        "(SELECT any_value(size_bytes) AS size FROM blobs GROUP BY artifact_path)"
    )
    ((count, size),) = engine.query(lambda con: execute(con, sql).fetchall())
    replica = str(engine.layout.root)
    return log.server.run(lambda con: _status(con, log, alive, int(count), int(size), replica))


def log_of(engine: Engine) -> SharedLog:
    """Return the log of a shared workspace that is open."""
    log = engine.journal
    assert isinstance(log, SharedLog)
    return log


def _status(
    con: Connection, log: SharedLog, alive: list[str], n_blobs: int, blob_bytes: int, replica: str
) -> Status:
    ws = log.workspace_id
    head, floor, snapshot, blobs, schema = one(
        con,
        "SELECT head, floor, snapshot_n, blobs_url, schema_version FROM nirs_store.workspaces WHERE ws = %s",
        [ws],
    )
    size, rejected, condemned = one(
        con,
        "SELECT (SELECT coalesce(sum(bytes), 0) FROM nirs_store.log WHERE ws = %(ws)s AND n > %(floor)s), "
        "(SELECT count(*) FROM nirs_store.rejected WHERE ws = %(ws)s), "
        "(SELECT count(*) FROM nirs_store.keys WHERE ws = %(ws)s AND state = 'condemned')",
        {"ws": ws, "floor": floor},
    )
    holders = con.execute(
        "SELECT host, pid, db_user FROM nirs_store.holders WHERE ws = %s AND holder = ANY (%s) ORDER BY began",
        [ws, alive],
    ).fetchall()
    replicas = con.execute(
        "SELECT machine, n, seen_at, library, digest_n, digest FROM nirs_store.replicas WHERE ws = %s ORDER BY machine",
        [ws],
    ).fetchall()
    return Status(
        str(log.server.address),
        int(head),
        int(size),
        int(floor),
        None if snapshot is None else int(snapshot),
        tuple(f"{host}, process {pid}, as {user}" for host, pid, user in holders),
        tuple(Computer(machine, int(head - n), *rest) for machine, n, *rest in replicas),
        int(rejected),
        int(condemned),
        str(blobs),
        int(schema),
        n_blobs,
        blob_bytes,
        replica,
    )


def check_log(engine: Engine, *, read_data: bool = False) -> list[str]:
    """Check whether the log is whole; returns what is wrong with it.

    With `read_data`, the bytes of every commit in the log are hashed.
    """
    log = log_of(engine)
    ws = log.workspace_id
    found: list[str] = []
    # One statement: others commit meanwhile.
    sql = (
        "SELECT w.head, w.floor, array_agg(l.n) FILTER (WHERE l.n IS NOT NULL) FROM nirs_store.workspaces w "
        "LEFT JOIN nirs_store.log l ON l.ws = w.ws AND l.n > w.floor WHERE w.ws = %s GROUP BY w.head, w.floor"
    )
    head, floor, numbers = log.server.run(lambda con: one(con, sql, [ws]))
    there = set(numbers or ())
    missing = sorted(set(range(floor + 1, head + 1)) - there)
    if missing:
        found.append(f"commits that the log lacks: {len(missing)}, the first of them {missing[0]}")
    beyond = sorted(n for n in there if n > head)
    if beyond:
        found.append(f"commits above the head {head} of the log: {len(beyond)}")
    if read_data:
        found += _damaged(log, sorted(there))
    return found


def who_differs(engine: Engine, number: int, digest: str) -> list[str]:
    """Tell the others what this replica holds at a commit; returns those who hold something else there."""
    log = log_of(engine)
    mine = [log.workspace_id, log.machine, number, digest]
    asked = [log.workspace_id, number, digest, log.machine]
    sql = (
        "SELECT machine FROM nirs_store.replicas WHERE ws = %s AND digest_n = %s AND digest <> %s AND machine <> %s "
        "ORDER BY machine"
    )
    log.say(number)
    log.server.run(lambda con: con.execute("SELECT nirs_store.compared(%s, %s, %s, %s)", mine))
    return [str(row[0]) for row in log.server.run(lambda con: con.execute(sql, asked).fetchall())]


def _damaged(log: SharedLog, numbers: list[int]) -> list[str]:
    sql = "SELECT n, body, key, sha256, bytes FROM nirs_store.log WHERE ws = %s AND n = ANY (%s)"
    found = []
    for start in range(0, len(numbers), _PIECE):
        params = [log.workspace_id, numbers[start : start + _PIECE]]
        for n, body, key, digest, size in log.server.run(
            lambda con, params=params: con.execute(sql, params, binary=True).fetchall()  # type: ignore[misc]
        ):
            data = log.bytes_of(body, key, size)
            if data is None or hashlib.sha256(data).hexdigest() != digest:
                found.append(f"commit {n} is {'missing' if data is None else 'not what was committed'}")
    return found
