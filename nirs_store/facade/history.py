"""What became of things: audit trail, lineage, retention, statistics."""

from __future__ import annotations

from nirs_store.facade.base import Facade
from nirs_store.registry.audit import Audit
from nirs_store.registry.lineage import Lineage
from nirs_store.registry.retention import Retention
from nirs_store.registry.statistics import Statistics, statistics

__all__ = ["HistoryMethods"]


class HistoryMethods(Facade):
    """Looking back, and letting go."""

    @property
    def audit(self) -> Audit:
        """Who did what and when; see `nirs_store.registry.audit.Audit`."""
        return Audit(self._engine)

    @property
    def lineage(self) -> Lineage:
        """What came from what; see `nirs_store.registry.lineage.Lineage`."""
        return Lineage(self._engine)

    @property
    def retention(self) -> Retention:
        """What is kept, and for how long; see `nirs_store.registry.retention.Retention`."""
        return Retention(self._engine, self._forget)

    def statistics(self, *, runs: int = 10, step: str = "month") -> Statistics:
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
        return statistics(self._engine, runs=runs, step=step)
