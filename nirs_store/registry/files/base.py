"""What all methods of `store.files` work with: the engine, a folder of names, what holds for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from nirs_store.catalog import file_rows
from nirs_store.catalog.access import Connection
from nirs_store.catalog.engine import Engine
from nirs_store.errors import InvalidInput
from nirs_store.ids import is_id
from nirs_store.registry.audit import note
from nirs_store.registry.files.active import active_run
from nirs_store.registry.files.auditing import attempting
from nirs_store.registry.files.finding import require_version
from nirs_store.registry.files.names import check_label, check_name, parse_version
from nirs_store.registry.files.request import FileVersion
from nirs_store.registry.files.types import BUILT_IN, FileType, check_schema, check_type_name
from nirs_store.registry.files.words import COVERAGES, MODES, check_word, mode_of

__all__ = ["FilesBase"]


class FilesBase:
    """The engine, and the scope of names."""

    def __init__(self, engine: Engine, prefix: str = "", defaults: Mapping[str, Any] | None = None) -> None:
        self._engine = engine
        self._prefix = prefix
        self._defaults = dict(defaults or {})
        self._types: dict[str, FileType] | None = None

    def within(
        self,
        folder: str,
        *,
        mode: str | None = None,
        coverage: str | None = None,
        test_name: str | None = None,
        **about: Any,
    ) -> Self:
        """Give a view on one folder of names, with what holds for everything that is put there.

        Parameters
        ----------
        folder : str
            Put before every name, as in ``ensembl/GRCh37/spliceai_eval``.
        mode, coverage, test_name : str, optional
            As for `put`.
        **about
            Any other argument of `put`.

        Returns
        -------
        Files
            It has all methods; names in its answers are whole.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     trial = store.files.within("ensembl/GRCh37", coverage="gene_subset", test_name="chr21")
        ...     trial.put({"genes": 2}, "sampled.json", type="sampled_genes").name
        'ensembl/GRCh37/sampled.json'
        >>> folder.cleanup()
        """
        said = {"mode": mode, "coverage": coverage, "test_name": test_name, **about}
        defaults = {**self._defaults, **{key: value for key, value in said.items() if value is not None}}
        if defaults.get("test_name") is not None:
            check_label(defaults["test_name"], "test_name")
        for key, words in (("mode", MODES), ("coverage", COVERAGES)):
            if defaults.get(key) is not None:
                defaults[key] = check_word(defaults[key], key, words)
        mode_of(defaults.get("mode"), defaults.get("coverage"), defaults.get("test_name"))
        return type(self)(
            self._engine, self._prefix + check_name(folder.rstrip("/"), "folder") + "/", defaults
        )

    @property
    def folder(self) -> str:
        """The folder of names that this is a view on; empty for all."""
        return self._prefix.rstrip("/")

    def __repr__(self) -> str:
        said = "".join(f", {key}={value!r}" for key, value in self._defaults.items())
        return f"Files({self.folder!r}{said})"

    # -- names -------------------------------------------------------------------------------------

    def _name(self, name: object) -> str:
        """Give the whole name, or the id of a version as it is."""
        if isinstance(name, FileVersion):
            return name.version_id
        if is_id(name):
            return str(name)
        return check_name(name if not isinstance(name, str) or name.startswith("/") else self._prefix + name)

    def _test(self, test_name: str | None) -> str | None:
        found = self._defaults.get("test_name") if test_name is None else test_name
        return None if found is None else check_label(found, "test_name")

    def _row(self, name: object, version: object = None, test_name: str | None = None) -> dict[str, Any]:
        """Give the row of a version.

        Raises
        ------
        UnknownFile
        """
        whole, number, test = self._name(name), parse_version(version), self._test(test_name)
        return self._engine.query(lambda con: require_version(con, whole, number, test))

    def _said(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """Give what holds for a file: what its caller says, else this view, else the processing run under way."""
        run = active_run(self._engine)
        given = {key: value for key, value in about.items() if value is not None}
        return {**(run.defaults if run else {}), **self._defaults, **given}

    # -- types -------------------------------------------------------------------------------------

    def types(self) -> dict[str, FileType]:
        """Give the types of files by their names: those that come with the library, and those declared here.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     store.files.types()["heatmap"].description
        'A figure of a matrix.'
        >>> folder.cleanup()
        """
        found = self._engine.query(file_rows.declared_types)
        declared = {
            row["type"]: FileType(row["type"], row["description"], row["metadata_schema"], built_in=False)
            for row in found
        }
        self._types = {**BUILT_IN, **declared}
        return dict(self._types)

    def declare_type(
        self, name: str, description: str = "", *, metadata_schema: Mapping[str, Any] | None = None
    ) -> FileType:
        """Add a type of files to this workspace, or change one that was added.

        Parameters
        ----------
        name : str
            Lower-case letters, digits and ``_``.
        description : str
            One line.
        metadata_schema : dict, optional
            JSON Schema (draft 2020-12) that the metadata of every file of this type must fit.

        Raises
        ------
        InvalidInput
            No such name, no such schema, or a type that comes with the library.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     schema = {"type": "object", "required": ["lamp_hours"]}
        ...     kind = store.files.declare_type("white_reference", metadata_schema=schema)
        ...     try:
        ...         store.files.put(b"1 1 1", "white.txt", type="white_reference")
        ...     except ValueError as error:
        ...         print("lamp_hours" in str(error))
        True
        >>> folder.cleanup()
        """
        with attempting(self._engine, "declare_type", str(name)):
            plain = str(name)
            if not plain.isidentifier() or plain != plain.lower() or len(plain) > 64:
                raise InvalidInput(f"name: expected lower-case letters, digits and '_', found {name!r}.")
            if plain in BUILT_IN:
                raise InvalidInput(
                    f"name: {plain!r} comes with the library and stays as it is. Give another name."
                )
            schema = None if metadata_schema is None else check_schema(metadata_schema)

            def declare(con: Connection) -> None:
                file_rows.declare_type(con, plain, description, schema)

            self._engine.change(declare)
        note(self._engine, "declare_type", None, plain, details={"metadata_schema": schema})
        self._types = None
        return FileType(plain, description, schema, built_in=False)

    def _known_types(self, wanted: object) -> Mapping[str, FileType]:
        """Give the types; the catalog is asked when the wanted one does not come with the library."""
        try:
            check_type_name(wanted, BUILT_IN)
        except InvalidInput:
            return self.types()
        return BUILT_IN
