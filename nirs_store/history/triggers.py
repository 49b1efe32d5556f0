"""When a workspace asks for its retention; cheap, because it is asked whenever a store is opened or closed."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from nirs_store.db.session import Engine
from nirs_store.errors import CatalogDamaged, NirsStoreError

RETENTION = "retention"
#: When a time-based policy was carried out last, in seconds since 1970.
DONE = "retention_done"
#: How often such a policy is carried out, in seconds.
EVERY = {"hourly": 3600, "daily": 86400, "weekly": 7 * 86400}
_LOOK_EVERY = 3600.0
_LOG = logging.getLogger("nirs_store.retention")


def retention_is_due(engine: Engine, moment: str) -> bool:
    """Tell whether the policy of a workspace is to be carried out now ("on_close", "after_run", "by_time")."""
    if not engine.writable or engine.closed or engine.recorder.in_transaction:
        return False
    try:
        settings = engine.rules()
    except CatalogDamaged as error:
        _LOG.warning("retention was put off (%s): %s", moment.replace("_", " "), error)
        return False
    automatic = (settings.get(RETENTION) or {}).get("automatic")
    return automatic == moment or (automatic in EVERY and _left(settings, automatic) <= 0)


def _left(settings: Any, automatic: str) -> float:
    """Seconds until it is time again."""
    done = settings.get(DONE)
    # A clock that was put back must not put it off for years.
    return 0.0 if done is None else EVERY[automatic] - abs(time.time() - float(done))


class RetentionWatch:
    """Carries out a time-based policy while a store is open: a service need not close for it."""

    # The thread is a daemon, begins when there is first such a policy, and ends with the store, which it holds weakly.

    def __init__(self, engine: Engine, carry_out: Callable[[str], None]) -> None:
        self._engine = engine
        self._carry_out = weakref.WeakMethod(carry_out)
        self._ended = threading.Event()
        # A store that nothing holds ends its thread as well.
        weakref.finalize(carry_out.__self__, self._ended.set)  # type: ignore[attr-defined]
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Begin to watch if the policy is time-based."""
        if self._pause() is None or self._ended.is_set():
            return
        with self._mutex:
            # A thread of before a fork is not alive in the child.
            if self._thread is not None and self._thread.is_alive():
                return
            thread = threading.Thread(target=self._run, name="nirs_store retention", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The interpreter is ending and starts no threads.
                return
            self._thread = thread

    def stop(self) -> None:
        """End the watch; what it is doing ends first, unless it is what calls this."""
        self._ended.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=30.0)

    def turn(self) -> bool:
        """Carry the policy out if it is time; False when there is nothing left to watch."""
        carry_out = self._carry_out()
        if carry_out is None or self._engine.closed:
            return False
        try:
            carry_out("by_time")
        except NirsStoreError as error:
            _LOG.warning("retention was put off (by time): %s", error)
        return True

    def _pause(self) -> float | None:
        """Seconds until the next look; None where the policy does not go by time."""
        if not self._engine.writable or self._engine.settings.session_id is not None:
            return None  # a copy in a worker leaves it to the store that it came from
        try:
            settings = self._engine.workspace_settings.current()
        except CatalogDamaged:
            return None  # said by whatever records
        automatic = (settings.get(RETENTION) or {}).get("automatic")
        return min(max(_left(settings, automatic), 1.0), _LOOK_EVERY) if automatic in EVERY else None

    def _run(self) -> None:
        while self.turn():
            pause = self._pause()
            if self._ended.wait(_LOOK_EVERY if pause is None else pause):
                return
