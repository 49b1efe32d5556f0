"""Storing files: one, many, or what the caller writes itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nirs_store.catalog.guard import check_guard
from nirs_store.errors import InvalidInput
from nirs_store.registry.files.auditing import attempting, note_versions
from nirs_store.registry.files.base import FilesBase
from nirs_store.registry.files.content import Content, content_of
from nirs_store.registry.files.intake import take_in
from nirs_store.registry.files.names import check_name
from nirs_store.registry.files.record import Item, record
from nirs_store.registry.files.request import FileVersion, check_request, told

__all__ = ["PutMethods"]

_WRITERS = 4


class PutMethods(FilesBase):
    """Storing."""

    def put(
        self,
        source: Any,
        name: str,
        *,
        type: str,
        run_id: str | None = None,
        sources: Sequence[Any] | str = (),
        tags: Iterable[str] | str = (),
        metadata: Mapping[str, Any] | None = None,
        compression: str | None = None,
        mode: str | None = None,
        coverage: str | None = None,
        test_name: str | None = None,
        model_id: str | None = None,
        evaluation_id: str | None = None,
        suite: str | None = None,
        group: str | None = None,
        episode: str | None = None,
        module: str | None = None,
        module_version: str | None = None,
        processing_id: str | None = None,
        status: str | None = None,
        message: str | None = None,
        force: bool = False,
    ) -> FileVersion:
        """Store a file under a name, as a new version unless the same content is there already.

        Parameters
        ----------
        source : path, bytes, plain data, data frame, or None
            A path (text is taken for one) names a file or a folder. A data frame is stored as Parquet, or as
            CSV or TSV where the name ends so. None stores metadata only.
        name : str
            Hierarchical, with ``/``.
        type : str
            One of `types`.
        run_id : str, optional
            A run of this workspace.
        sources : sequence, optional
            What it was made from: names, ids of versions, `FileVersion` objects, or pairs of kind and id as in
            ``("chain", chain_id)``.
        tags : sequence of str, optional
        metadata : dict, optional
            Plain data that fits the type.
        compression : {"auto", "none", "gzip", "zip", "tar.gz", "zstd"}, optional
            auto (the default) tries a sample and takes zstd or none.
        mode : {"production", "test"}, optional
            Production for full coverage, else test.
        coverage : {"full", "full_genome", "chromosome", "gene_subset", "subset", "sample"}, optional
        test_name : str, optional
            Keeps the file apart from what other tests, and production, store under the same name.
        model_id, evaluation_id, suite, group, episode, module, module_version : str, optional
            What it belongs to and what made it; `list` filters by them.
        processing_id : str, optional
            Set by a processing run.
        status : {"pending", "in_progress", "completed", "failed"}, optional
            completed by default. A version without content that is pending or in progress is announced: the
            next `put` under its name gives it its content.
        message : str, optional
            For the status.
        force : bool
            Replace production content: a new version is made, the old one stays.

        Returns
        -------
        FileVersion

        Raises
        ------
        SourceMissing, PathEscapes, InvalidInput
            The source or the description cannot be used.
        OverwriteRefused
            Other content is there in production mode.
        UnknownFile, UnknownId
            A source or the run is not there. In every case nothing was stored.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     first = store.files.put({"rmse": 0.4}, "fat/report.json", type="report", tags=["final"])
        ...     print(first.version, store.files.get("fat/report.json"))
        1 {'rmse': 0.4}
        >>> folder.cleanup()
        """
        about = {
            key: value
            for key, value in locals().items()
            if key not in ("self", "source", "name", "__class__")
        }
        return self._put_all([(source, name, about)], "put")[0]

    def put_many(self, items: Iterable[Mapping[str, Any]], **about: Any) -> list[FileVersion]:
        """Store many files in one transaction: all of them, or none.

        Parameters
        ----------
        items : iterable of dict
            Arguments of `put` a file, with ``source`` and ``name``.
        **about
            Arguments that hold for all that do not say otherwise.

        Returns
        -------
        list of FileVersion
            In the same order.

        Raises
        ------
        As `put`, for the first that cannot be stored.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     episodes = [{"source": {"reward": n}, "name": f"episodes/{n}.json"} for n in range(3)]
        ...     stored = store.files.put_many(episodes, type="episode_data")
        ...     len(stored)
        3
        >>> folder.cleanup()
        """
        wanted = []
        for item in items:
            if not isinstance(item, Mapping) or "name" not in item:
                raise InvalidInput(
                    f"items: expected dicts with a 'name', found {item!r}. Nothing was stored."
                )
            said = {**about, **{key: value for key, value in item.items() if key not in ("source", "name")}}
            wanted.append((item.get("source"), item["name"], said))
        return self._put_all(wanted, "put")

    def _put_all(
        self, wanted: Sequence[tuple[Any, Any, Mapping[str, Any]]], operation: str
    ) -> list[FileVersion]:
        one = str(wanted[0][1]) if len(wanted) == 1 else None
        items: list[Item] = []
        with attempting(self._engine, operation, one):
            try:
                self._prepare(wanted, items)
                versions = record(self._engine, items)
            finally:
                for item in items:
                    if item.stored is not None:
                        item.stored.draft.discard()
        changed = [version for version in versions if version.added]
        note_versions(self._engine, operation, changed, **_said(items))
        return versions

    def _prepare(self, wanted: Sequence[tuple[Any, Any, Mapping[str, Any]]], items: list[Item]) -> None:
        """Check all, then write all drafts."""
        contents: list[Content | None] = []
        types: Mapping[str, Any] = {}
        for source, name, about in wanted:
            said = self._said(about)
            if said.get("type") not in types:
                types = self._known_types(said.get("type"))
            whole = check_name(
                name if not isinstance(name, str) or name.startswith("/") else self._prefix + name
            )
            request = check_request(whole, said, types)
            check_guard(self._engine, told(request))
            content = content_of(source, whole)
            contents.append(content)
            items.append(Item(request, "metadata" if content is None else content.kind))
        full = [(item, content) for item, content in zip(items, contents, strict=True) if content is not None]

        def take(pair: tuple[Item, Content]) -> None:
            item, content = pair
            item.stored = take_in(self._engine.blobs, content, item.request.name, item.request.compression)

        if len(full) == 1:
            take(full[0])
        elif full:
            # A durable write waits mostly for the disk.
            with ThreadPoolExecutor(_WRITERS, thread_name_prefix="nirs-store-files") as pool:
                for _ in pool.map(take, full):
                    pass


def _said(items: Sequence[Item]) -> dict[str, Any]:
    """What the audit trail says of a put beside the versions."""
    forced = [item.request.name for item in items if item.request.force]
    return {"force": True} if forced else {}
