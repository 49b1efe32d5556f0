"""The state machine on a shared workspace: each step uses another replica, and afterwards all have the same rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from contractkit import Workspaces
from hypothesis.stateful import invariant, rule

from nirs_store.db.table import digests
from tests.model.machine import StoreMachine
from tests.model.observe import blob_files, observed_of
from tests.model.partner import Partner

__all__ = ["machine_of"]

# A blob that was given up and saved again has a key of its own.
_GENERATION = re.compile(r"~\d+(?=\.)")


class SharedMachine(StoreMachine):
    """Store objects on several replicas of one workspace, each of which is dealt every so many steps."""

    workspaces: Workspaces
    compared_every = 1

    def __init__(self) -> None:
        super().__init__()
        self.step = self.opened = 0

    def open_store(self, folder: Path) -> Any:
        self.opened += 1
        return self.workspaces.open(folder, self.opened % self.workspaces.replicas)

    def open_first(self) -> None:
        for _ in range(self.workspaces.replicas):
            self.world.join(self.open_store(self.folder))

    def partner(self, who: int) -> Partner:
        """Return the store object whose turn it is, or the one after that."""
        return super().partner(who + self.step)

    @rule()
    def come_or_go(self) -> None:
        """Open one more store object than there are replicas, or close one."""
        if len(self.world.partners) <= self.workspaces.replicas:
            self.world.join(self.open_store(self.folder))
        elif self.world.partners[1].block is None:
            self._close(self.world.partners[1])

    @invariant()
    def folder_fits(self) -> None:
        """Compare the rows of the replicas, and look for the blob of each row."""
        self.step += 1
        if not self.world.partners or self.step % self.compared_every:
            return
        found = [partner.store._engine.access.query(digests, timeout=30.0) for partner in self.world.partners]
        assert all(each == found[0] for each in found), "replicas have different rows"
        files = blob_files(self.workspaces.blobs(self.folder))
        wanted = {row["artifact_path"]: key for key, row in self.world.state.artifacts.items()}
        coming = {
            a for p in self.world.partners for call in (*p.pending, *(p.block or ())) for a in call.artifacts
        }
        coming |= self.world.stray
        for path, digest in files.items():
            assert path.startswith(f"artifacts/{digest[:2]}/{digest}"), f"{path} holds other bytes: {digest}"
            assert _GENERATION.sub("", path) in wanted or digest in coming, f"{path} should have been removed"
        lost = sorted(wanted.keys() - {_GENERATION.sub("", path) for path in files})
        assert not lost, f"blobs with a row are gone: {lost}"
        assert not self.world.partners[0].store._engine.journal.rejections()

    def _observe(self, partner: Partner) -> dict[str, Any]:
        seen = observed_of(partner.store, sorted(self.world.saved))
        for row in seen["artifacts"].values():
            path = self.workspaces.blobs(self.folder) / row["artifact_path"]
            assert path.exists(), f"{path} has a row and is gone"
            row["artifact_path"] = _GENERATION.sub("", row["artifact_path"])
        return seen


def machine_of(found: Workspaces | None, *, compared_every: int = 1) -> type[StoreMachine]:
    """Return the machine for a kind of workspace; None stands for a folder."""
    if found is None:
        return StoreMachine
    return type("Machine", (SharedMachine,), {"workspaces": found, "compared_every": compared_every})
