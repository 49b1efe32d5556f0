"""Looking at a store in a notebook: what it holds, one run, one chain, its predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nirs_store.catalog import overview
from nirs_store.display import block, byte_text, field_table
from nirs_store.facade.base import Facade
from nirs_store.lazily import later
from nirs_store.lazily import polars as pl

if TYPE_CHECKING:
    from nirs_store import views
else:
    views = later("nirs_store.views")

__all__ = ["ViewMethods"]


class ViewMethods(Facade):
    """Values that print themselves."""

    def show_run(self, run_id: str) -> views.RunView:
        """Look at a run: status, data, note, tags, environment and its pipelines.

        Raises
        ------
        UnknownId
        """
        return views.view_run(self._engine, run_id)

    def show_chain(self, chain_id: str) -> views.ChainView:
        """Look at a chain: steps, scores, models and artifacts.

        Raises
        ------
        UnknownId
        """
        return views.view_chain(self._engine, chain_id)

    def chain_predictions(self, chain_id: str, partition: str = "val") -> pl.DataFrame:
        """What a chain predicted for each sample, as a data frame.

        Parameters
        ----------
        chain_id : str
        partition : {"val", "test", "train"}
            The out-of-fold predictions by default.

        Returns
        -------
        polars.DataFrame
            ``sample`` (name or row number, null where not recorded), ``fold_id``, ``y_true``, ``y_pred``;
            with several targets ``y_true_0``, …; with probabilities ``y_proba_<class>``. Empty for an
            unknown chain, and where no arrays were stored.

        Raises
        ------
        InvalidInput
            An unknown partition.
        """
        return views.chain_predictions(self._engine, chain_id, partition)

    def _repr_html_(self) -> str:
        path = str(self._engine.layout.root)
        if self._engine.closed:
            return block("WorkspaceStore", field_table({"folder": path, "state": "closed"}))
        # A notebook that shows a store waits for nobody.
        answered, found = self._engine.look_up(overview.counts)
        facts: dict[str, object] = {"folder": path, "state": None if self._engine.writable else "read-only"}
        if answered and found is not None:
            facts |= {name: count for name, count in found.items() if name != "artifact_bytes"}
            facts["size of artifacts"] = byte_text(found["artifact_bytes"])
        else:
            facts["contents"] = "another process is using the catalog at this moment"
        return block("WorkspaceStore", field_table(facts))
