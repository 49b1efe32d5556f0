"""What all rules work with: the folder, the store objects, the model, and how they are compared."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant

from nirs_store.db import recorder
from nirs_store.errors import NirsStoreError
from nirs_store.store import WorkspaceStore
from tests.model.observe import blob_files, expected_of, observed_of
from tests.model.partner import Partner
from tests.model.sidebyside import SideBySide

__all__ = ["CONFIG", "SCORE", "WHICH", "WHO", "MachineBase", "attempt"]

# Which of the ids made so far, the newest first; many, so that deleted ones are asked for too.
WHICH = st.integers(0, 5)
# Mostly the first store object: changing over costs a real store the opening of its catalog.
WHO = st.sampled_from((0, 0, 0, 1))
SCORE = st.sampled_from((0.5, 1.0, 2.5, float("nan"), None))
CONFIG: st.SearchStrategy[Any] = st.sampled_from(
    ({"a": 1}, None, [], {"lr": float("nan"), "ö": [True, "x"]}, {"n": {"m": 2**40}})
)


def attempt(call: Callable[[], Any]) -> tuple[Any, NirsStoreError | None]:
    """Give what a call returned, or the error of this library that it raised."""
    try:
        return call(), None
    except NirsStoreError as error:
        return None, error


class MachineBase(RuleBasedStateMachine):
    """The folder and the two sides; the rules are in the classes that inherit from this."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="nirs-store-machine-"))
        self.world = SideBySide()
        self.runs: list[str] = []
        self.pipelines: list[str] = []
        self.chains: list[str] = []
        self.predictions: list[str] = []
        self.owners: dict[str, str] = {}
        self.objects: dict[str, Any] = {}
        self.ids: dict[int, str] = {}
        self._abandoned: list[Any] = []
        self._around = ExitStack()
        # Rows of one store object that another had deleted: the store says aloud that it drops them.
        self._around.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Committed rows were dropped")
        # No commit because of the time that a step took: the same steps have to give the same result.
        self._around.enter_context(patch.object(recorder, "FLUSH_AFTER", 3600.0))

    # -- what a subclass overrides ---------------------------------------------------------------

    def open_store(self, folder: Path) -> Any:
        """Open a store object on the folder; the first call makes the workspace."""
        return WorkspaceStore(folder)

    def crash_store(self, store: Any) -> None:
        """Drop a store object without letting it commit anything, as if its process had been killed."""
        store._engine.abort()

    def check_folder(self, folder: Path) -> None:
        """Look at the folder itself; called after every step."""
        for name in ("rejected", "aside"):
            left = sorted(path.name for path in (folder / "journal" / name).iterdir())
            assert not left, f"journal/{name} is not empty: {left}"

    # -- beginning and end -----------------------------------------------------------------------

    def open_first(self) -> None:
        """Make the workspace."""
        self.world.join(self.open_store(self.folder))

    def teardown(self) -> None:
        """Close everything and look a last time through a fresh store object."""
        try:
            if self.world.partners:
                for partner in list(self.world.partners):
                    if partner.block is not None:
                        self.world.commit(partner)
                    partner.store.close()
                    self.world.leave(partner)
                self.look(self.world.join(self.open_store(self.folder)))
                self.folder_fits()
        finally:
            self.drop()

    def drop(self) -> None:
        """Let everything go without another look."""
        for partner in self.world.partners:
            partner.store.close()
        self._abandoned.clear()
        self._around.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @invariant()
    def folder_fits(self) -> None:
        """Blobs on disk are those with a row, those on their way to one, and those a crash left."""
        if not self.world.partners:
            return
        files = blob_files(self.folder)
        wanted = {row["artifact_path"]: key for key, row in self.world.state.artifacts.items()}
        coming = {
            a for p in self.world.partners for call in (*p.pending, *(p.block or ())) for a in call.artifacts
        }
        coming |= self.world.stray
        for path, digest in files.items():
            assert path.startswith(f"artifacts/{digest[:2]}/{digest}."), f"{path} holds other bytes: {digest}"
            assert path in wanted or digest in coming, f"{path} should have been removed"
        lost = sorted(wanted.keys() - files.keys())
        assert not lost, f"blobs with a row are gone: {lost}"
        self.check_folder(self.folder)

    # -- inside ----------------------------------------------------------------------------------

    def partner(self, who: int) -> Partner:
        """Give the store object that a rule was dealt; the first when there is no second."""
        partners = self.world.partners
        return partners[who % len(partners)]

    def look(self, partner: Partner) -> None:
        """Compare all that a store object shows with the model; what it had buffered is durable then."""
        seen = self._observe(partner)
        self.world.acknowledge(partner)
        self.world.settle(seen, expected_of, partner)

    def _observe(self, partner: Partner) -> dict[str, Any]:
        return observed_of(partner.store, sorted(self.world.saved))

    def _change(self, who: int, name: str, arguments: dict[str, Any]) -> Any:
        """Make a call that changes the catalog at once, and compare what it says and leaves."""
        partner = self.partner(who)
        result = getattr(partner.store, name)(**arguments)
        self.world.change(partner, name, arguments, result)
        self.look(partner)
        return result
