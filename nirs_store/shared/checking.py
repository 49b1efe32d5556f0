"""What a shared workspace says of itself: its log, who lives in it, how far its computers are, what does not fit."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from nirs_store.blobs.backend import BLOBS
from nirs_store.db.session import Engine, Settings
from nirs_store.shared.log import SharedLog
from nirs_store.shared.opening import open_engine
from nirs_store.shared.pg import Connection

_PIECE = 200


@dataclass(frozen=True)
class Computer:
    """One replica, as it was when its computer last said so."""

    machine: str
    behind: int
    seen_at: datetime
    library: str


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
    blobs
        Where the blobs are.
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
        log = _log(engine)
        alive = engine.claims.living()
        return log.server.run(lambda con: _status(con, log, alive))
    finally:
        engine.close()


def _log(engine: Engine) -> SharedLog:
    log = engine.journal
    assert isinstance(log, SharedLog)
    return log


def _status(con: Connection, log: SharedLog, alive: list[str]) -> Status:
    ws = log.workspace_id
    head, floor, snapshot, blobs = _row(
        con, "SELECT head, floor, snapshot_n, blobs_url FROM nirs_store.workspaces WHERE ws = %s", [ws]
    )
    size, rejected, condemned = _row(
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
        "SELECT machine, n, seen_at, library FROM nirs_store.replicas WHERE ws = %s ORDER BY machine", [ws]
    ).fetchall()
    return Status(
        str(log.server.address),
        int(head),
        int(size),
        int(floor),
        None if snapshot is None else int(snapshot),
        tuple(f"{host}, process {pid}, as {user}" for host, pid, user in holders),
        tuple(Computer(machine, int(head - n), seen, library) for machine, n, seen, library in replicas),
        int(rejected),
        int(condemned),
        str(blobs),
    )


def check(engine: Engine, *, read_data: bool = False) -> list[str]:
    """Compare the log, the objects and this computer's replica with each other; returns what does not fit.

    With `read_data`, the bytes of every commit in the log are hashed.
    """
    log = _log(engine)
    ws = log.workspace_id
    found: list[str] = []
    rows = log.server.run(
        lambda con: con.execute(
            "SELECT l.n FROM nirs_store.log l JOIN nirs_store.workspaces w ON w.ws = l.ws "
            "WHERE l.ws = %s AND l.n > w.floor ORDER BY l.n",
            [ws],
        ).fetchall()
    )
    head, floor = log.server.run(
        lambda con: _row(con, "SELECT head, floor FROM nirs_store.workspaces WHERE ws = %s", [ws])
    )
    there = {int(n) for (n,) in rows}
    missing = sorted(set(range(floor + 1, head + 1)) - there)
    if missing:
        found.append(f"commits that the log lacks: {len(missing)}, the first of them {missing[0]}")
    beyond = sorted(n for n in there if n > head)
    if beyond:
        found.append(f"commits above the head {head} of the log: {len(beyond)}")
    if read_data:
        found += _damaged(log, sorted(there))
    blobs = engine.query(
        lambda con: dict(
            con.execute("SELECT artifact_path, any_value(size_bytes) FROM blobs GROUP BY 1").fetchall()
        )
    )
    listed = set(engine.layout.blobs.list(BLOBS))
    lost = sorted(set(blobs) - listed)
    if lost:
        found.append(f"blobs that rows name and that are missing: {len(lost)}, the first of them {lost[0]}")
    for key in sorted(set(blobs) & listed):
        stat = engine.layout.blobs.stat(key)
        if stat is not None and stat.size != blobs[key]:
            found.append(f"{key} has {stat.size} bytes, and its row says {blobs[key]}")
    return found


def _damaged(log: SharedLog, numbers: list[int]) -> list[str]:
    sql = "SELECT n, body, key, sha256 FROM nirs_store.log WHERE ws = %s AND n = ANY (%s)"
    found = []
    for start in range(0, len(numbers), _PIECE):
        params = [log.workspace_id, numbers[start : start + _PIECE]]
        for n, body, key, digest in log.server.run(
            lambda con, params=params: con.execute(sql, params, binary=True).fetchall()  # type: ignore[misc]
        ):
            data = log.bytes_of(body, key)
            if data is None or hashlib.sha256(data).hexdigest() != digest:
                found.append(f"commit {n} is {'missing' if data is None else 'not what was committed'}")
    return found


def _row(con: Connection, sql: str, params: Any) -> Any:
    row = con.execute(sql, params).fetchone()
    assert row is not None
    return row
