"""Rules that ask: everything, a leaderboard, a replay, an artifact."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import rule

from nirs_store.errors import UnknownId
from tests.model.machine.base import WHICH, WHO, MachineBase, attempt
from tests.model.machine.recording import pick
from tests.model.materials import materials, spectra
from tests.model.observe import plain, score_order
from tests.model.partner import Player
from tests.model.sidebyside import describe_difference

__all__ = ["LookingRules"]


class LookingRules(MachineBase):
    """Questions whose answers must be the model's."""

    # -- looking ---------------------------------------------------------------------------------

    @rule(who=WHO)
    def look_at_everything(self, who: int) -> None:
        """Compare all that a store object shows with the model."""
        self.look(self.partner(who))

    @rule(
        who=WHO,
        metric=st.sampled_from(("val_score", "train_score")),
        ascending=st.booleans(),
        n=st.integers(1, 4),
    )
    def rank(self, who: int, metric: str, ascending: bool, n: int) -> None:
        """Compare a leaderboard."""
        partner = self.partner(who)
        rows = partner.store.top_predictions(n, metric=metric, ascending=ascending).to_dicts()
        self.world.acknowledge(partner)

        def expect(state: Any) -> Any:
            top = Player(state, partner.session).top_predictions(n, metric=metric, ascending=ascending)
            return score_order(top.to_dicts(), metric)

        self.world.settle(score_order(rows, metric), expect, partner)

    @rule(who=WHO, chain=WHICH, seed=st.integers(0, 3))
    def replay(self, who: int, chain: int, seed: int) -> None:
        """Replay a chain: to the last bit what its fitted objects give."""
        partner, new, chain_id = self.partner(who), spectra(seed), pick(self.chains, chain)
        there = self.world.present(partner, "chain", chain_id, in_block=False)
        seen, error = attempt(lambda: partner.store.replay_chain(chain_id, new))
        if error is not None:
            assert there != "yes", f"chain {chain_id} cannot be replayed: {error!r}"
            assert there == "maybe" or isinstance(error, UnknownId), f"unknown chain: {error!r}"
            return
        assert there != "no", f"chain {chain_id} does not exist and was replayed"
        partner.touched.add(chain_id)
        expected = self._replayed(chain_id, new)
        assert plain(seen) == plain(expected), describe_difference(expected, seen, f"replay of {chain_id}")

    @rule(who=WHO, index=st.integers(0, 6))
    def load(self, who: int, index: int) -> None:
        """Load an artifact by its id."""
        partner, material = self.partner(who), materials()[index]
        artifact_id = self.ids.get(index, "0" * 64)
        there = self.world.present(partner, "artifact", artifact_id)
        seen, error = attempt(lambda: partner.store.load_artifact(artifact_id))
        if error is not None:
            assert there != "yes", f"artifact {artifact_id} cannot be loaded: {error!r}"
            return
        assert there != "no", f"artifact {artifact_id} does not exist and was loaded"
        assert vars(seen).keys() == vars(material.fitted).keys()

    # -- inside ----------------------------------------------------------------------------------

    def _replayed(self, chain_id: str, new: Any) -> Any:
        arguments = next(c for c in self.world.history if c.result == chain_id).arguments
        for ids in arguments["shared_artifacts"].values():
            new = self.objects[ids[0]].transform(new)
        folds = [self.objects[key].predict(new) for key in arguments["fold_artifacts"].values()]
        return folds[0] if len(folds) == 1 else np.mean(np.stack(folds), axis=0)
