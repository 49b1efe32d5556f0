"""The processing run that is under way in this thread or task, so that what is put meanwhile belongs to it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from nirs_store.catalog.engine import Engine

__all__ = ["ActiveRun", "activate", "active_run", "deactivate"]


@dataclass
class ActiveRun:
    """What a put has to know of the run, and what the run has to know at its end."""

    engine: Engine
    defaults: dict[str, Any]
    #: Versions whose status was set during the run, also of files that it did not make.
    touched: set[str] = field(default_factory=set)


_ACTIVE: ContextVar[tuple[ActiveRun, ...]] = ContextVar("nirs_store_processing", default=())


def active_run(engine: Engine) -> ActiveRun | None:
    """Give the innermost run of a store."""
    return next((run for run in reversed(_ACTIVE.get()) if run.engine is engine), None)


def activate(run: ActiveRun) -> None:
    """Let a run be the innermost one."""
    _ACTIVE.set((*_ACTIVE.get(), run))


def deactivate(run: ActiveRun) -> None:
    """End a run, in whatever order they end."""
    _ACTIVE.set(tuple(each for each in _ACTIVE.get() if each is not run))
