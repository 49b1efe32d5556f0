"""What the views of the artifact layer have in common: the engine of an open workspace, and a scope."""

from __future__ import annotations

import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nirs_store.addresses import is_shared
from nirs_store.db.layout import as_folder
from nirs_store.db.session import Engine, Settings
from nirs_store.errors import InvalidInput


class View:
    """A view on a workspace, limited to a data set and a pipeline where they are named.

    Parameters
    ----------
    workspace : WorkspaceStore, str or Path
        An open store, or the folder or address of one, which is then opened here and closed by `close`.
    dataset : str
        Name of a data set; empty for all.
    pipeline_id : str
        A pipeline; empty for all.
    """

    def __init__(self, workspace: Any, dataset: str = "", pipeline_id: str = "") -> None:
        found = workspace if isinstance(workspace, Engine) else getattr(workspace, "_engine", None)
        self._owned = not isinstance(found, Engine)
        if isinstance(found, Engine):
            self._engine = found
        elif isinstance(workspace, (str, Path)) or is_shared(workspace):
            self._engine = _opened(workspace)
            weakref.finalize(self, self._engine.finish)
        else:
            raise InvalidInput(
                f"workspace: expected an open store or the path of a workspace, found {type(workspace).__name__}."
            )
        self.dataset = dataset or ""
        self.pipeline_id = pipeline_id or ""

    @property
    def workspace_path(self) -> Path:
        """The folder."""
        return self._engine.layout.root

    def close(self) -> None:
        """Close the workspace if it was opened here."""
        if self._owned:
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        scope = "".join(
            f", {name}={value!r}"
            for name, value in (("dataset", self.dataset), ("pipeline_id", self.pipeline_id))
            if value
        )
        return f"{type(self).__name__}({str(self.workspace_path)!r}{scope})"


def _opened(workspace: Any) -> Engine:
    if not is_shared(workspace):
        return Engine.open(Settings(as_folder(workspace, "workspace")))
    from nirs_store.shared.address import parse
    from nirs_store.shared.opening import open_engine

    return open_engine(Settings(Path(), shared=parse(workspace)))
