"""Rules that delete, clean, come and go."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.model.machine.base import WHICH, WHO, MachineBase
from tests.model.machine.recording import pick
from tests.model.observe import expected_of
from tests.model.partner import Partner

__all__ = ["UpkeepRules"]


class _Regret(Exception):
    """Ends a transaction."""


class UpkeepRules(MachineBase):
    """Deletion, gc, vacuum, transactions, closing and crashing."""

    # -- deletion and cleaning -------------------------------------------------------------------

    @rule(who=WHO, index=WHICH)
    def delete_prediction(self, who: int, index: int) -> None:
        """Delete a prediction with its arrays."""
        self._change(who, "delete_prediction", {"prediction_id": pick(self.predictions, index), "now": True})

    @rule(who=WHO, run=WHICH, files=st.booleans())
    def delete_run(self, who: int, run: int, files: bool) -> None:
        """Delete a run, with or without its files."""
        self._change(
            who, "delete_run", {"run_id": pick(self.runs, run), "delete_artifacts": files, "now": True}
        )

    @rule(who=WHO, grace=st.sampled_from((0.0, 0.0, 3600.0)))
    def collect(self, who: int, grace: float) -> None:
        """Collect garbage; a dry run says before what is going to be done."""
        partner = self.partner(who)
        self.world.acknowledge(partner)
        plan = partner.store.gc_artifacts(dry_run=True, grace_seconds=grace)
        removed = self._change(who, "gc_artifacts", {"grace_seconds": grace})
        claimed = any(p.claims or p.doubts for p in self.world.partners)
        assert removed == len(plan.files) or (claimed and removed < len(plan.files)), (
            f"gc planned to remove {plan.files} and removed {removed} files"
        )

    @rule(who=WHO)
    def vacuum(self, who: int) -> None:
        """Rewrite the catalog."""
        partner = self.partner(who)
        partner.store.vacuum()
        self.world.acknowledge(partner)
        self.look(partner)

    # -- coming and going ------------------------------------------------------------------------

    @rule()
    def come_or_go(self) -> None:
        """Open a second store object on the folder, or close it."""
        if len(self.world.partners) < 2:
            self.world.join(self.open_store(self.folder))
        elif self.world.partners[1].block is None:
            self._close(self.world.partners[1])

    @rule(who=WHO)
    def close_and_reopen(self, who: int) -> None:
        """Close a store object and open another; not in a transaction, which has to be ended first."""
        partner = self.partner(who)
        if partner.block is None:
            self._close(partner)
            self.world.join(self.open_store(self.folder))

    def _close(self, partner: Partner) -> None:
        partner.store.close()
        self.world.leave(partner)

    @rule(who=WHO)
    def crash(self, who: int) -> None:
        """Kill a store object; another one sees all that was acknowledged, and whole rows only."""
        partner = self.partner(who)
        self._abandoned.append(partner.transaction)
        self.crash_store(partner.store)
        fresh = self.world.join(self.open_store(self.folder))
        self.world.lose(partner, lambda: self._observe(fresh), expected_of)

    # -- transactions ----------------------------------------------------------------------------

    @rule(who=WHO, regret=st.booleans())
    def transaction(self, who: int, regret: bool) -> None:
        """Open a transaction; end one that is open, by a commit or by an exception."""
        partner = self.partner(who)
        if partner.block is None:
            self.world.begin(partner)
        elif regret:
            self.world.roll_back(partner, _Regret())
        else:
            self.world.commit(partner)

    @rule(who=WHO)
    def flush(self, who: int) -> None:
        """Commit what is buffered."""
        partner = self.partner(who)
        partner.store.flush()
        self.world.acknowledge(partner)
