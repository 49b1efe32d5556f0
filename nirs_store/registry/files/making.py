"""Files that the caller writes itself, and files that are computed when they are not there yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nirs_store.catalog.file_rows import find_version
from nirs_store.catalog.values import to_json
from nirs_store.errors import InvalidInput, OverwriteRefused
from nirs_store.ids import sha256_hex
from nirs_store.registry.files.auditing import attempting
from nirs_store.registry.files.putting import PutMethods
from nirs_store.registry.files.reading import read_value
from nirs_store.registry.files.record import protected
from nirs_store.registry.files.request import check_request
from nirs_store.registry.files.words import MODES, check_word
from nirs_store.registry.files.workplace import remove_workplace, workplace

__all__ = ["MakeMethods"]

_KEY = "computed_from"


class MakeMethods(PutMethods):
    """Making files."""

    @contextmanager
    def create(self, name: str, **about: Any) -> Iterator[Path]:
        """Give a path for code that writes its own file or folder, and store what is there at the end.

        Parameters
        ----------
        name : str
            The path ends with its last part, so that writers which look at the ending see it.
        **about
            As for `put`; ``type`` is ``file`` unless it is said.

        Yields
        ------
        Path
            Nothing is there yet. Write a file, or make a folder.

        Raises
        ------
        InvalidInput
            Nothing was written. After an exception in the block nothing is stored.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     with store.files.create("weights.txt", type="model_checkpoint") as path:
        ...         _ = path.write_text("0.1 0.2")
        ...     store.files.get("weights.txt")
        b'0.1 0.2'
        >>> folder.cleanup()
        """
        whole = self._name(name)
        about = {"type": self._defaults.get("type", "file"), **about}
        with attempting(self._engine, "put", whole):
            said = self._said(about)
            check_request(whole, said, self._known_types(said.get("type")))
        place = workplace(self._engine)
        try:
            path = place / whole.rpartition("/")[2]
            yield path
            if not path.exists():
                raise InvalidInput(f"Nothing was written to {path}, so nothing was stored as {whole!r}.")
            self.put(path, name, **about)
        finally:
            remove_workplace(place)

    def get_or_compute(
        self,
        name: str,
        compute: Callable[[], Any],
        *,
        inputs: Any = None,
        type: str = "features",
        **about: Any,
    ) -> Any:
        """Give what is stored under a name; compute and store it first where it is not there.

        Parameters
        ----------
        name : str
        compute : callable
            Called without arguments; gives bytes, plain data, a data frame, or the path of a file.
        inputs : plain data, optional
            What the result depends on. Where it differs from what the stored result was made with, it is
            computed anew.
        **about
            As for `put`. With ``force=True`` it is computed in any case.

        Returns
        -------
        Any
            As `get` gives it, so that the first call and the second give the same.

        Raises
        ------
        OverwriteRefused
            The inputs differ, and production content is there.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     for _ in range(2):
        ...         found = store.files.get_or_compute("squares.json", lambda: print("once") or [1, 4, 9])
        ...     found
        once
        [1, 4, 9]
        >>> folder.cleanup()
        """
        whole, test = self._name(name), self._test(about.get("test_name"))
        key = None if inputs is None else sha256_hex((to_json(inputs, "inputs") or "").encode())

        def look(con: Any) -> dict[str, Any] | None:
            return find_version(con, whole, test, None)

        row = self._engine.query(look)
        if (
            row is not None
            and not about.get("force")
            and row["content_hash"]
            and row["status"] == "completed"
        ):
            if key is None or (row["metadata"] or {}).get(_KEY) == key:
                return read_value(self._engine, row)
            if protected(row):
                with attempting(self._engine, "put", whole):
                    raise OverwriteRefused(
                        f"{whole!r} is production content that was computed from other inputs. Nothing was computed. "
                        "Give another name, or force=True for a new version."
                    )
        metadata = {**(about.pop("metadata", None) or {}), **({} if key is None else {_KEY: key})}
        version = self.put(compute(), name, type=type, metadata=metadata, **about)
        return read_value(self._engine, self._row(version))

    def should_overwrite(
        self, name: str, force: bool = False, *, mode: str | None = None, test_name: str | None = None
    ) -> bool:
        """Tell whether a `put` of other content under this name would be taken.

        True with `force`; True where nothing is there; True for test content; False for production content.

        Parameters
        ----------
        name : str
        force : bool
        mode : {"production", "test"}, optional
            Checked only: what is there decides, so that a test never replaces production content.
        test_name : str, optional
        """
        if mode is not None:
            check_word(mode, "mode", MODES)
        if force:
            return True
        whole, test = self._name(name), self._test(test_name)

        def look(con: Any) -> dict[str, Any] | None:
            return find_version(con, whole, test, None)

        return not protected(self._engine.query(look))
