"""Retention: delete what no rule keeps; plan, then execute.

Nothing goes that something else needs: pins, aliases, present champions, stacks and meta-models, recorded links
to what stays, and whatever is being recorded hold. The plan names them with the reason.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import Any

from nirs_store.audit.guard import store_setting
from nirs_store.audit.trail import attempting, guarded
from nirs_store.db.database import Connection, Database
from nirs_store.db.marks import put_setting, read_settings
from nirs_store.db.session import Engine
from nirs_store.db.table import Table, column
from nirs_store.errors import InvalidInput, StoreBusy
from nirs_store.files.output import remove_copies
from nirs_store.files.rows import delete_versions, versions
from nirs_store.history.candidates import DAY
from nirs_store.history.clocks import read_clock
from nirs_store.history.lineage import find_ref
from nirs_store.history.plan import RetentionPlan, RetentionResult, make_plan, still_free
from nirs_store.history.policy import Limit, RetentionPolicy, Rule, as_policy  # fmt: skip
from nirs_store.history.triggers import DONE, EVERY, RETENTION, retention_is_due
from nirs_store.ids import new_id, now_naive
from nirs_store.lazy import polars as pl
from nirs_store.maintenance.deletion import delete_rows, release_chains
from nirs_store.maintenance.gc import collect, prune_arrays
from nirs_store.maintenance.trash import deleting
from nirs_store.records.notes import note
from nirs_store.records.queries import frame
from nirs_store.values import as_text

_LOG = logging.getLogger("nirs_store.retention")
_BY_HAND = "`nirs-store retention run` uses the computer's clock at once."
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
        """Return the policy of the workspace; it keeps everything until one is set."""
        kept = self._engine.query(read_settings).get(RETENTION)
        return RetentionPolicy.from_dict(kept) if kept else RetentionPolicy()

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
            made = as_policy(policy)
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
            # Pinning again replaces the reason.
            if not Table(con, "pins").update({"reason": words}, object_kind=ref.kind, object_id=ref.id):
                row = {"object_kind": ref.kind, "object_id": ref.id, "reason": words}
                Table(con, "pins").insert([{"pin_id": new_id(), **row, "made_at": now_naive()}])
            note(engine, "pin", ref.kind, ref.id, message=words, con=con)

        with attempting(engine, "pin"):
            engine.change(work)

    def unpin(self, thing: Any) -> bool:
        """Remove a pin; return False if there was none."""
        engine = self._engine

        def work(con: Connection) -> bool:
            ref = find_ref(con, thing)
            there = bool(Table(con, "pins").delete(object_kind=ref.kind, object_id=ref.id))
            if there:
                note(engine, "unpin", ref.kind, ref.id, con=con)
            return there

        with attempting(engine, "unpin"):
            return engine.change(work)

    def pins(self) -> pl.DataFrame:
        """Return what is pinned: ``object_kind``, ``object_id``, ``reason``, ``made_at``."""
        sql = "SELECT object_kind, object_id, reason, made_at FROM pins ORDER BY made_at, pin_id"
        return self._engine.query(lambda con: frame(con, sql))

    # -- plan, then execute ---------------------------------------------------------------------------

    def plan(self, policy: RetentionPolicy | Rule | Limit | Mapping[str, Any] | None = None) -> RetentionPlan:
        """List what a policy (default: the workspace's) would delete; change nothing."""
        chosen = self.policy if policy is None else as_policy(policy)
        return make_plan(self._engine, chosen)

    def execute(self, plan: RetentionPlan, *, now: bool = False) -> RetentionResult:
        """Delete what a plan names, in one transaction.

        Runs and chains go to the trash, which keeps their space until it is emptied; of files, versions and blobs
        are removed at once, and measurements too: that cannot be undone. With `now`, everything is. Of a planned day
        of measurements, rows logged after the plan was made stay. What a search says of chains stays known.
        What has come to be needed since the plan was made stays, and so does what is gone already.

        Raises
        ------
        StoreBusy, ReadOnlyStore, WriteFailed
        """
        engine = self._engine

        def work(con: Connection) -> tuple[dict[str, list[str]], list[str], set[str]]:
            taken = still_free(con, plan, engine.living_sessions())
            artifacts = _artifacts_of(con, taken)
            unnamed = _delete(con, taken, plan, now=now)
            counts = {kind: len(ids) for kind, ids in taken.items() if ids}
            if counts:
                facts: dict[str, Any] = {"taken": counts, "policy": plan.policy.to_dict()}
                facts |= {f"{kind}s": ids[:_LISTED] for kind, ids in taken.items() if ids}
                note(engine, "retention", "workspace", details=facts, con=con)
            return taken, _unheld(con, artifacts), unnamed

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
            done = collect(engine, only=free)
            files, size = done.files, done.bytes
        count = sum(map(len, taken.values()))
        return RetentionResult(taken, len(plan.take) - count, files, size)

    def carry_out(self, moment: str) -> RetentionResult | None:
        """Execute the workspace's policy if it asks for it at this moment ("on_close", "after_run", "by_time").

        Returns
        -------
        RetentionResult or None
            None where the policy does not ask for it, or the catalog could not be opened (which is logged).
        """
        if not retention_is_due(self._engine, moment):
            return None
        occasion = moment.replace("_", " ")
        try:
            policy = self.policy
            plan = self._plan_by_borne_out_time(policy, occasion)
            result = None if plan is None else self.execute(plan)
            if policy.automatic in EVERY:
                self._remember_done()
        except StoreBusy as error:
            _LOG.warning("retention was put off (%s): %s", occasion, error)
            return None
        if result is not None and result.taken:
            _LOG.warning("retention (%s): %s", occasion, result)
        return result

    def _remember_done(self) -> None:
        """Make all stores of the workspace count from now; the audit trail does not record this."""
        engine = self._engine

        def work(access: Database) -> None:
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


def _delete(con: Connection, taken: Mapping[str, list[str]], plan: RetentionPlan, *, now: bool) -> set[str]:
    """Delete runs and versions of files, and the models of chains, inside the caller's transaction."""
    # Of a chain its scores stay: predictions lose the chain that they name. Unless `now`, the trash keeps runs, each by
    # itself, and chains, all of them together. Returns the hashes of contents that no version of a file has any more.
    unnamed: set[str] = set()
    chains = taken.get("chain", [])
    if chains:
        name = f"{len(chains)} chains"
        with deleting(con, "chains", new_id(), name, "retention", chains, now=now) as delete:
            release_chains(con, chains, delete)
    for run_id in taken.get("run", []):
        delete_rows(con, "run", run_id, now=now, operation="retention")
    gone = set(taken.get("measurement", []))
    if gone:
        # A prediction of the same day that was logged since the plan was made is not part of the plan.
        days = [
            (item.id, item.made_at) for item in plan.take if item.kind == "measurement" and item.id in gone
        ]
        con.execute(
            "DELETE FROM measurements USING (SELECT unnest($ids::VARCHAR[]) AS day, unnest($last::TIMESTAMP[]) AS last"
            f") d WHERE {DAY} = d.day AND logged_at <= d.last",
            {"ids": [day for day, _ in days], "last": [last for _, last in days]},
        )
    files = taken.get("file", [])
    if files:
        wanted = ("version_id IN (SELECT unnest($ids))", {"ids": files})
        unnamed = delete_versions(con, versions(con, wanted))
    prune_arrays(con)
    return unnamed


def _unheld(con: Connection, artifact_ids: Sequence[str]) -> list[str]:
    """Return those of some artifacts that nothing refers to."""
    return column(
        con,
        "SELECT artifact_id FROM blobs b WHERE artifact_id IN (SELECT unnest($ids)) AND NOT EXISTS "
        "(SELECT 1 FROM artifact_refs r WHERE r.artifact_id = b.artifact_id) ORDER BY artifact_id",
        {"ids": list(artifact_ids)},
    )


def _artifacts_of(con: Connection, taken: Mapping[str, list[str]]) -> list[str]:
    """Return the artifacts that some chains, runs and files hold."""
    return column(
        con,
        "SELECT DISTINCT artifact_id FROM artifact_refs r LEFT JOIN pipelines l USING (pipeline_id) "
        "WHERE owner_id IN (SELECT unnest($owners)) OR l.run_id IN (SELECT unnest($runs)) ORDER BY 1",
        {"owners": [*taken.get("chain", []), *taken.get("file", [])], "runs": taken.get("run", [])},
    )
