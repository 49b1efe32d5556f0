"""Bringing a shared workspace to the schema of this library: one commit in its log for each step.

Each replica runs the step when it meets the commit, so all of them have the same rows before and after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nirs_store.db.database import Connection
from nirs_store.db.migrations import Migration, pending_migrations
from nirs_store.db.session import Settings
from nirs_store.shared import checking, snapshots
from nirs_store.shared.opening import open_engine, parts_of


@dataclass(frozen=True)
class Migrated:
    """What a migration of a shared workspace did, or would do.

    Attributes
    ----------
    workspace
        Its address.
    from_version, to_version
        Versions of the schema.
    steps
        What each step brings.
    status
        How the workspace was before: who records, and which library each computer has.
    snapshot
        The commit up to which a snapshot from before is kept; None where nothing was done.
    """

    workspace: str
    from_version: int
    to_version: int
    steps: tuple[str, ...]
    status: checking.Status
    snapshot: int | None = None


def migrate(settings: Settings, *, dry_run: bool) -> Migrated:
    """Migrate a shared workspace; one that is interrupted is whole or was not begun, and goes on when called again."""
    engine = open_engine(settings, migrating=True)
    try:
        status = checking.status_of(engine)
        steps = pending_migrations(status.schema)
        to = steps[-1].to_version if steps else status.schema
        plan = Migrated(engine.place, status.schema, to, tuple(step.name for step in steps), status)
        if dry_run or not steps:
            return plan
        log, backend = parts_of(engine)
        # New computers start from it, and then meet the commits of the steps.
        number = snapshots.publish(engine, log, backend, compacted=False)
        for step in steps:
            engine.change(_run(log.migrate, step))
        return Migrated(plan.workspace, plan.from_version, to, plan.steps, status, number)
    finally:
        engine.close()


def _run(migrate_to: Callable[[Migration], None], step: Migration) -> Callable[[Connection], None]:
    return lambda con: migrate_to(step)
