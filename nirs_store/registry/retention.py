"""Retention: letting go of what no rule keeps; plan, then execute.

Nothing goes that something else needs: pins, aliases, present champions, stacks and meta-models, recorded links
to what stays, and whatever is being recorded hold. The plan names them with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from nirs_store.catalog import retention_rows
from nirs_store.catalog.access import Connection
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.values import as_text
from nirs_store.catalog.workspace_settings import read_settings
from nirs_store.errors import InvalidInput, StoreBusy
from nirs_store.lazily import polars as pl
from nirs_store.registry.audit import attempting, guarded, note
from nirs_store.registry.files.copies import remove_copies
from nirs_store.registry.guard import store_setting
from nirs_store.registry.moments import RETENTION, retention_is_due
from nirs_store.registry.policies import Limit, RetentionPolicy, Rule
from nirs_store.registry.refs import find_ref
from nirs_store.registry.retention_plan import RetentionPlan, RetentionResult, make_plan, settle

__all__ = ["Retention"]

_LOG = logging.getLogger("nirs_store.retention")
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

    def __init__(self, engine: Engine, forget: Callable[[], None] = lambda: None) -> None:
        self._engine = engine
        self._forget = forget

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
        automatic : {"never", "on_close", "after_run"}, optional
            Carry it out by itself when a store is closed, or when a run is completed. What went is logged
            (logger ``nirs_store.retention``) and audited.

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
            retention_rows.add_pin(con, ref.kind, ref.id, words)
            note(engine, "pin", ref.kind, ref.id, message=words, con=con)

        with attempting(engine, "pin"):
            engine.change(work)

    def unpin(self, thing: Any) -> bool:
        """Take a pin away; False where there was none."""
        engine = self._engine

        def work(con: Connection) -> bool:
            ref = find_ref(con, thing)
            there = retention_rows.remove_pin(con, ref.kind, ref.id)
            if there:
                note(engine, "unpin", ref.kind, ref.id, con=con)
            return there

        with attempting(engine, "unpin"):
            return engine.change(work)

    def pins(self) -> pl.DataFrame:
        """What is pinned: ``object_kind``, ``object_id``, ``reason``, ``made_at``."""
        return self._engine.query(retention_rows.pins)

    # -- plan, then execute ---------------------------------------------------------------------------

    def plan(self, policy: RetentionPolicy | Rule | Limit | Mapping[str, Any] | None = None) -> RetentionPlan:
        """Look what a policy (default: the workspace's) would let go of; changes nothing."""
        chosen = self.policy if policy is None else _as_policy(policy)
        return make_plan(self._engine, chosen)

    def execute(self, plan: RetentionPlan) -> RetentionResult:
        """Let go of what a plan names, in one transaction, and remove the files that nothing holds then.

        What has come to be needed since the plan was made stays, and so does what is gone already.

        Raises
        ------
        StoreBusy, ReadOnlyStore, WriteFailed
        """
        engine = self._engine

        def work(con: Connection) -> tuple[dict[str, list[str]], list[str], set[str]]:
            taken = _still(con, plan, engine.living_sessions())
            artifacts = retention_rows.artifacts_of(con, taken)
            unnamed = retention_rows.let_go(con, taken)
            counts = {kind: len(ids) for kind, ids in taken.items() if ids}
            if counts:
                facts: dict[str, Any] = {"taken": counts, "policy": plan.policy.to_dict()}
                facts |= {f"{kind}s": ids[:_LISTED] for kind, ids in taken.items() if ids}
                note(engine, "retention", "workspace", details=facts, con=con)
            return taken, retention_rows.unheld(con, artifacts), unnamed

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
            from nirs_store.upkeep.gc import collect

            done = collect(engine, only=free)
            files, size = done.files, done.bytes
        count = sum(map(len, taken.values()))
        return RetentionResult(taken, len(plan.take) - count, files, size)

    def carry_out(self, moment: str) -> RetentionResult | None:
        """Execute the workspace's policy if it asks for it at this moment ("on_close", "after_run").

        Returns
        -------
        RetentionResult or None
            None where the policy does not ask for it, or the catalog could not be had (which is logged).
        """
        if not retention_is_due(self._engine, moment):
            return None
        try:
            result = self.execute(self.plan())
        except StoreBusy as error:
            _LOG.warning("retention was put off (%s): %s", moment.replace("_", " "), error)
            return None
        if result.taken:
            _LOG.warning("retention (%s): %s", moment.replace("_", " "), result)
        return result

    def __repr__(self) -> str:
        return f"<retention of {self._engine.layout.root}>"


def _still(con: Connection, plan: RetentionPlan, alive: list[str]) -> dict[str, list[str]]:
    """What of a plan is there and free to go now."""
    taken: dict[str, list[str]] = {}
    for kind in plan.policy.kinds:
        there = set(retention_rows.candidates(con, kind)["id"].to_list())
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
