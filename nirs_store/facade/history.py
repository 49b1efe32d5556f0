"""What became of things: audit trail, lineage, retention, statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nirs_store.facade.base import Facade
from nirs_store.lazily import later
from nirs_store.registry.audit import Audit

if TYPE_CHECKING:
    from nirs_store.registry import lineage as lineage_api
    from nirs_store.registry import retention as retention_api
    from nirs_store.registry import statistics as statistics_api
else:
    lineage_api = later("nirs_store.registry.lineage")
    retention_api = later("nirs_store.registry.retention")
    statistics_api = later("nirs_store.registry.statistics")

__all__ = ["HistoryMethods"]


class HistoryMethods(Facade):
    """Looking back, and letting go."""

    @property
    def audit(self) -> Audit:
        """Who did what and when; see `nirs_store.registry.audit.Audit`."""
        return Audit(self._engine)

    @property
    def lineage(self) -> lineage_api.Lineage:
        """What came from what; see `nirs_store.registry.lineage.Lineage`."""
        return lineage_api.Lineage(self._engine)

    @property
    def retention(self) -> retention_api.Retention:
        """What is kept, and for how long; see `nirs_store.registry.retention.Retention`."""
        return retention_api.Retention(self._engine, self._forget)

    def statistics(self, *, runs: int = 10, step: str = "month") -> statistics_api.Statistics:
        """Counts and bytes by type, status and run, what compression and deduplication saved, errors, growth.

        Parameters
        ----------
        runs : int
            How many of the largest runs to name.
        step : {"day", "week", "month", "year"}
            Periods of the growth.

        Returns
        -------
        Statistics
            Prints itself; ``to_dict`` gives plain data, ``growth`` is a data frame.
        """
        return statistics_api.statistics(self._engine, runs=runs, step=step)
