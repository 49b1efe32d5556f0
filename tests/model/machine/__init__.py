"""A Hypothesis state machine that drives a real store and its model side by side.

Whoever writes a store of their own, or changes this one, inherits from `StoreMachine`, says how a store
is opened and how one is dropped as by a crash, and runs it::

    class MyStoreMachine(StoreMachine):
        def open_store(self, folder):
            return MyStore(folder)

    TestMyStore = MyStoreMachine.TestCase
    TestMyStore.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)

Hypothesis is needed here, and nowhere else in the package (``pip install "nirs-store[test]"``).
"""

from __future__ import annotations

from tests.model.machine.looking import LookingRules
from tests.model.machine.recording import RecordingRules
from tests.model.machine.upkeep import UpkeepRules

__all__ = ["StoreMachine"]


class StoreMachine(RecordingRules, UpkeepRules, LookingRules):
    """Up to two store objects on one folder against a model in plain Python.

    Override `open_store`, `crash_store` and `check_folder` to test another store. A rule of a subclass finds
    the store objects with `partner`, makes recording calls with ``self.world.record`` and ends with `look` if
    it changed anything. See ``docs`` of `SideBySide` for what the model knows of calls that are not durable yet.
    """
