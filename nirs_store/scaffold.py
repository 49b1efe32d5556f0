"""The files that a new workspace starts with: a note, a .gitignore and pipeline templates."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from nirs_store.addresses import refuse_address, user_path
from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.errors import NotAWorkspace

__all__ = ["copy_workspace_template", "workspace_template"]


def workspace_template() -> Traversable:
    """Return the folder of files that a new workspace starts with."""
    shipped = files("nirs_store") / "workspace_template"
    # The wheel carries the folder; in a checkout it lies next to the package.
    return shipped if shipped.is_dir() else Path(__file__).resolve().parents[1] / "workspace_template"


def copy_workspace_template(destination: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Copy the files that a new workspace starts with into a folder.

    Parameters
    ----------
    destination : str or Path
        The workspace; made when missing.
    overwrite : bool
        Whether files that are there already are replaced. By default they are left as they are.

    Returns
    -------
    list of Path
        The files that were written, sorted.

    Raises
    ------
    NotAWorkspace
        There is a file where the folder should be.
    WriteFailed, ReadOnlyStore
        The system refused.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store.scaffold import copy_workspace_template
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = copy_workspace_template(folder)
    ...     again = copy_workspace_template(folder)
    >>> "README.md" in [path.name for path in written], again
    (True, [])
    """
    refuse_address(destination, "destination")
    root = user_path(destination)
    if root.exists() and not root.is_dir():
        raise NotAWorkspace(f"{root} is a file, but the workspace must be a folder. Give another path.")
    written: list[Path] = []
    _copy(workspace_template(), root, overwrite, written)
    return sorted(written)


def _copy(source: Traversable, target: Path, overwrite: bool, written: list[Path]) -> None:
    ensure_dir(target)
    for entry in source.iterdir():
        path = target / entry.name
        if entry.is_dir():
            _copy(entry, path, overwrite, written)
        elif overwrite or not path.exists():
            write_file(path, entry.read_bytes())
            written.append(path)
