"""`Files`: what `store.files` is, and the index of what it offers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Self

from nirs_store.db.session import Engine
from nirs_store.files import change, find, groups, put
from nirs_store.files.change import FileRemoval, FileValidation
from nirs_store.files.find import FileSummary
from nirs_store.files.groups import TrainingSet
from nirs_store.files.names import FileType, FileVersion
from nirs_store.files.output import copy_of, open_stream
from nirs_store.files.rows import all_types, list_processing
from nirs_store.files.runs import ProcessingRun, remove_abandoned
from nirs_store.files.scope import Scope
from nirs_store.lazy import polars as pl

# `list` is a method below.
Paths = list[Path]
FileVersions = list[FileVersion]


class Files:
    """Files of any kind: named, typed, versioned, checked, in the same folder as everything else.

    `store.files` is one; `within` returns one for a folder of names.

    Examples
    --------
    >>> for text in (b"one", b"two"):
    ...     version = store.files.put(text, "notes/today.txt", type="log", tags="diary")
    >>> print(version)
    notes/today.txt v2: log, 3 bytes, none; stored uncompressed: too small to shrink
    >>> store.files.get("notes/today.txt", version="v1")
    b'one'
    """

    def __init__(
        self,
        engine: Engine,
        prefix: str = "",
        defaults: Mapping[str, Any] | None = None,
        *,
        store: object = None,
    ) -> None:
        self._scope = Scope(engine, prefix, dict(defaults or {}))
        # Held, so that a store which nothing else holds is not closed under its view.
        self._store = store

    def __repr__(self) -> str:
        return str(self._scope)

    # -- views ---------------------------------------------------------------------------------------

    def within(
        self,
        folder: str,
        *,
        mode: str | None = None,
        coverage: str | None = None,
        test_name: str | None = None,
        **about: Any,
    ) -> Self:
        """Return a view on one folder of names, with what holds for everything that is put there."""
        said = {"mode": mode, "coverage": coverage, "test_name": test_name, **about}
        scope = self._scope.within(folder, said)
        return type(self)(scope.engine, scope.prefix, scope.defaults, store=self._store)

    @property
    def mode(self) -> str | None:
        """The mode of what this view shows: as given, or implied by coverage or test name; None for both."""
        return self._scope.mode

    @property
    def folder(self) -> str:
        """The folder of names that this is a view on; empty for all."""
        return self._scope.prefix.rstrip("/")

    # -- storing -------------------------------------------------------------------------------------

    def put(
        self,
        source: Any,
        name: str | None = None,
        *,
        type: str,
        run_id: str | None = None,
        sources: Sequence[Any] | str = (),
        tags: Iterable[str] | str = (),
        metadata: Mapping[str, Any] | None = None,
        map_name: str | None = None,
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
        name : str, optional
            Hierarchical, with ``/``. By default the last part of the path that `source` is.
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
        map_name : str, optional
            Kept in `metadata` as ``map_name``; `list` filters by it.
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
        >>> first = store.files.put({"rmse": 0.4}, "fat/report.json", type="report", tags=["final"])
        >>> print(first.version, store.files.get("fat/report.json"))
        1 {'rmse': 0.4}
        """
        about = {k: v for k, v in locals().items() if k not in ("self", "source", "name")}
        return put.put(self._scope, [(source, name, about)])[0]

    def put_many(self, items: Iterable[Mapping[str, Any]], **about: Any) -> FileVersions:
        """Store many files in one transaction: all of them, or none.

        Parameters
        ----------
        items : iterable of dict
            The arguments of `put` for each file, with ``source`` and ``name`` (which a path has by itself).
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
        >>> episodes = [{"source": {"reward": n}, "name": f"episodes/{n}.json"} for n in range(3)]
        >>> stored = store.files.put_many(episodes, type="episode_data")
        >>> len(stored)
        3
        """
        return put.put_many(self._scope, items, about)

    def create(self, name: str, **about: Any) -> AbstractContextManager[Path]:
        """Return a path for code that writes its own file or folder, and store what is there at the end.

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
        >>> with store.files.create("weights.txt", type="model_checkpoint") as path:
        ...     _ = path.write_text("0.1 0.2")
        >>> store.files.get("weights.txt")
        b'0.1 0.2'
        """
        return put.create(self._scope, name, about)

    def get_or_compute(
        self,
        name: str,
        compute: Callable[[], Any],
        *,
        inputs: Any = None,
        type: str = "features",
        **about: Any,
    ) -> Any:
        """Return what is stored under a name; compute and store it first where it is not there.

        Parameters
        ----------
        name : str
        compute : callable
            Called without arguments; returns bytes, plain data, a data frame, or the path of a file.
        inputs : plain data, optional
            What the result depends on. Where it differs from what the stored result was made with, it is
            computed again.
        **about
            As for `put`. With ``force=True`` it is computed in any case.

        Returns
        -------
        Any
            As `get` returns it, so that the first call and the second give the same.

        Raises
        ------
        OverwriteRefused
            The inputs differ, and production content is there.

        Examples
        --------
        >>> for _ in range(2):
        ...     found = store.files.get_or_compute("squares.json", lambda: print("once") or [1, 4, 9])
        once
        >>> found
        [1, 4, 9]
        """
        return put.get_or_compute(self._scope, name, compute, inputs, {**about, "type": type})

    def should_overwrite(
        self, name: str, force: bool = False, *, mode: str | None = None, test_name: str | None = None
    ) -> bool:
        """Tell whether a `put` of other content under this name would be accepted.

        True with `force`; True where nothing is there; True for test content; False for production content.

        Parameters
        ----------
        name : str
        force : bool
        mode : {"production", "test"}, optional
            Checked only: what is there decides, so that a test never replaces production content.
        test_name : str, optional
        """
        return put.should_overwrite(self._scope, name, force, mode, test_name)

    def put_group(
        self, name: str, members: Mapping[str, Any] | str | Path, *, type: str, **about: Any
    ) -> FileVersion:
        """Store files that belong together, in one transaction, as one version of the group.

        Each member is a file ``<name>/<member>`` with versions of its own; one that has not changed is not stored
        again. The group's version holds them: nothing of it is cleaned away while the group is there.

        Parameters
        ----------
        name : str
        members : dict, or path of a folder
            What `put` takes, by the member's name; of a folder every file.
        type : str
            Of the group, as in ``model_checkpoint``.
        **about
            As for `put`; holds for the group and its members. `metadata` are the group's.

        Returns
        -------
        FileVersion
            ``kind`` is group.

        Raises
        ------
        OverwriteRefused
            A production group has other members already.

        Examples
        --------
        >>> files = {"model.pt": b"weights", "config.json": {"lr": 0.1}}
        >>> _ = store.files.put_group("models", files, type="model_checkpoint")
        >>> store.files.get("models", version="v1")["config.json"]
        {'lr': 0.1}
        """
        return groups.put_group(self._scope, name, members, type, about)

    def create_group(self, name: str, *, type: str, **about: Any) -> AbstractContextManager[Path]:
        """Return an empty folder for code that writes its own files, and store them as a group at the end.

        Raises
        ------
        InvalidInput
            The folder is empty at the end. After an exception in the block nothing is stored.

        Examples
        --------
        >>> with store.files.create_group("models", type="model_checkpoint") as path:
        ...     _ = (path / "model.pt").write_bytes(b"weights")
        >>> store.files.versions("models")["version"].to_list()
        [1]
        """
        return groups.create_group(self._scope, name, type, about)

    def put_training_set(
        self, name: str, features: Any, labels: Any, metadata: Mapping[str, Any] | None = None, **about: Any
    ) -> FileVersion:
        """Store what a model is trained on: a version of features, labels and metadata together.

        Parameters
        ----------
        features, labels : data frame
            As many rows each. Labels may also be a series (its name becomes the column's, else ``label``) or a
            one-dimensional array or list.
        metadata : dict, optional

        Raises
        ------
        InvalidInput
            No frames, or other numbers of rows.

        Examples
        --------
        >>> import polars as pl
        >>> X, y = pl.DataFrame({"gc": [0.4, 0.6]}), pl.DataFrame({"site": [1, 0]})
        >>> _ = store.files.put_training_set("training_data", X, y, {"genes": 2})
        >>> store.files.get_training_set("training_data").features.shape
        (2, 1)
        """
        return groups.put_training_set(self._scope, name, features, labels, metadata, about)

    def get_training_set(
        self, name: str, *, version: int | str | None = None, test_name: str | None = None
    ) -> TrainingSet:
        """Return a training set as it was stored.

        Raises
        ------
        UnknownFile
        InvalidInput
            It is something else.
        """
        return groups.get_training_set(self._scope, name, version, test_name)

    # -- bringing out --------------------------------------------------------------------------------

    def get(
        self,
        name: str,
        output: str | Path | None = None,
        *,
        version: int | str | None = None,
        test_name: str | None = None,
        kind: str | None = None,
    ) -> Any:
        """Return the content of a file, checked against its SHA-256.

        Parameters
        ----------
        name : str
            A name, or the id of a version.
        output : path, optional
            Where to write it: a file (one that is there is replaced), or a folder that is there, where it keeps
            its name. A stored folder becomes the folder of this path, which is new or empty. The members of a
            group go below this path, once all of them were checked.
        version : int or str, optional
            ``3``, ``"v3"``, ``"latest"`` or an alias.
        test_name : str, optional
        kind : {"bytes", "text", "json", "table"}, optional
            Return the content in this form; by default in the form in which it was put.

        Returns
        -------
        Any
            The path with `output`; else bytes of a path or bytes, the data of plain data, a polars frame of a
            data frame, the metadata where there is nothing else, a dict of its members for a group.

        Raises
        ------
        UnknownFile, BlobMissing, BlobCorrupt, InvalidInput, WriteFailed
            Nothing was left at `output`.
        """
        return find.get(self._scope, name, output, version, test_name, kind)

    def open(
        self,
        name: str,
        mode: str = "rb",
        *,
        version: int | str | None = None,
        test_name: str | None = None,
        encoding: str | None = None,
    ) -> IO[Any]:
        """Open a file for reading, whatever it is compressed with.

        Parameters
        ----------
        mode : {"rb", "r"}

        Raises
        ------
        UnknownFile, BlobMissing, BlobCorrupt
        """
        row = self._scope.read(name, version, test_name)
        return open_stream(self._scope.engine, row, mode, encoding)

    def path(self, name: str, *, version: int | str | None = None, test_name: str | None = None) -> Path:
        """Return a path at which any program can read the file or folder; it is not to be written to.

        The blob itself where it is stored as it is; a copy below ``exports/files/`` where it is compressed. Its
        files are read-only; one that was altered anyway is found by its hash and made again.

        Raises
        ------
        UnknownFile, BlobMissing, BlobCorrupt
        """
        return copy_of(self._scope.engine, self._scope.read(name, version, test_name))

    def export(self, pattern: str, output: str | Path, **filters: Any) -> Paths:
        """Write all files that `list` finds into a folder, under their names.

        Returns
        -------
        list of Path

        Raises
        ------
        PathEscapes
            A name cannot be made on this system.
        InvalidInput
            Two files would be written to one path. Nothing was written.
        BlobMissing, BlobCorrupt, WriteFailed
            What came before it stays.
        """
        return find.export(self._scope, self.list(pattern, **filters), output)

    # -- asking --------------------------------------------------------------------------------------

    def exists(self, name: str, *, version: int | str | None = None, test_name: str | None = None) -> bool:
        """Tell whether there is such a file, and such a version of it."""
        return find.find(self._scope, name, version, test_name) is not None

    def find(
        self, name: str, *, version: int | str | None = None, test_name: str | None = None
    ) -> FileVersion | None:
        """Return a version, or None where `metadata` would raise."""
        return find.find(self._scope, name, version, test_name)

    def metadata(
        self, name: str, *, version: int | str | None = None, test_name: str | None = None
    ) -> dict[str, Any]:
        """Return everything known about a version: type, dates, sizes, hashes, tags, metadata, sources, aliases.

        Raises
        ------
        UnknownFile
        """
        return find.metadata(self._scope, name, version, test_name)

    def versions(self, name: str, *, test_name: str | None = None) -> pl.DataFrame:
        """List the versions of a file, newest first, with their aliases.

        Raises
        ------
        UnknownFile
        """
        return find.versions(self._scope, name, test_name)

    def aliases(self, name: str, *, test_name: str | None = None) -> dict[str, int]:
        """Return the aliases of a file with the version that each means.

        Raises
        ------
        UnknownFile
        """
        return find.aliases(self._scope, name, test_name)

    def list(
        self,
        pattern: str | None = None,
        *,
        tags: Iterable[str] | str = (),
        all_versions: bool = False,
        since: datetime | None = None,
        before: datetime | None = None,
        limit: int | None = None,
        offset: int = 0,
        **filters: Any,
    ) -> pl.DataFrame:
        """List files by name.

        Parameters
        ----------
        pattern : str, optional
            ``*`` stands for any characters, ``/`` among them, ``?`` for one, ``[ab]`` for one of these.
        tags : str or sequence of str, optional
            Only files that have all of them.
        all_versions : bool
            Not only the newest of each name.
        since, before : datetime, optional
            When it was stored.
        limit, offset : int, optional
        **filters
            type, kind, status, mode, coverage, test_name, model_id, evaluation_id, suite, group, episode,
            map_name (of the metadata), module, module_version, run_id, processing_id, compression: one value, or
            several of which one fits.

        Returns
        -------
        polars.DataFrame
            One row per version; ``tags`` and ``metadata`` are JSON texts.

        Raises
        ------
        InvalidInput
            An unknown filter, status or type; the nearest is named.
        """
        return find.matching(
            self._scope, pattern, filters, tags=tags, all_versions=all_versions, since=since, before=before,
            limit=limit, offset=offset,
        )  # fmt: skip

    def search(
        self, words: str, *, all_versions: bool = False, limit: int | None = None, **filters: Any
    ) -> pl.DataFrame:
        """Find files that have all of some words in their names, tags or metadata.

        Parameters
        ----------
        words : str
            Parts of words are enough; capitals do not matter.
        limit : int, optional
        **filters
            As for `list`.

        Returns
        -------
        polars.DataFrame
            As `list` returns it.
        """
        return find.matching(self._scope, None, filters, words=words, all_versions=all_versions, limit=limit)

    def summary(
        self, pattern: str | None = None, *, all_versions: bool = True, **filters: Any
    ) -> FileSummary:
        """Count files and bytes.

        Examples
        --------
        >>> _ = store.files.put(b"x" * 9000, "a/x.txt", type="text_raw")
        >>> summary = store.files.summary()
        >>> summary.files, summary.size_bytes, summary.by_compression
        (1, 9000, {'zstd': 1})
        """
        return find.summary(self._scope, pattern, all_versions, filters)

    def print_summary(self, pattern: str | None = None, **filters: Any) -> None:
        """Print what `summary` counts."""
        print(self.summary(pattern, **filters))

    def validate(
        self, pattern: str | None = None, *, all_versions: bool = True, **filters: Any
    ) -> FileValidation:
        """Read every file and compare it with the SHA-256 that it was stored with; changes nothing.

        Parameters
        ----------
        pattern, all_versions, **filters
            As for `list`.

        Examples
        --------
        >>> _ = store.files.put(b"x", "x.txt", type="log")
        >>> print(store.files.validate())
        1 versions checked, 0 not intact
        """
        return change.validate(self._scope, pattern, all_versions, filters)

    # -- changing ------------------------------------------------------------------------------------

    def set_status(
        self,
        name: str,
        status: str,
        message: str | None = None,
        *,
        version: int | str | None = None,
        test_name: str | None = None,
    ) -> None:
        """Set the status of a file.

        Parameters
        ----------
        status : {"pending", "in_progress", "completed", "failed"}
        message : str, optional
            Such as what failed.

        Raises
        ------
        UnknownFile, InvalidInput
            Nothing was changed.
        """
        change.set_status(self._scope, name, status, message, version, test_name)

    def set_alias(
        self, name: str, alias: str, version: int | str | None = None, *, test_name: str | None = None
    ) -> FileVersion:
        """Point an alias to a version; move it if it exists.

        Parameters
        ----------
        alias : str
            A word that does not look like a version: ``champion``, ``release-1.0``.
        version : int or str, optional
            The newest by default.

        Raises
        ------
        InvalidInput, UnknownFile
            Nothing was changed.

        Examples
        --------
        >>> for text in (b"first", b"second"):
        ...     _ = store.files.put(text, "model.txt", type="model")
        >>> _ = store.files.set_alias("model.txt", "champion", "v1")
        >>> store.files.get("model.txt", version="champion")
        b'first'
        """
        return change.set_alias(self._scope, name, alias, version, test_name)

    def remove_alias(self, name: str, alias: str, *, test_name: str | None = None) -> None:
        """Remove an alias; the version stays.

        Raises
        ------
        UnknownFile
            No such alias.
        """
        change.remove_alias(self._scope, name, alias, test_name)

    def types(self) -> dict[str, FileType]:
        """Return the types of files by their names: those that come with the library, and those declared here."""
        return self._scope.engine.query(all_types)

    def declare_type(
        self, name: str, description: str = "", *, metadata_schema: Mapping[str, Any] | None = None
    ) -> FileType:
        """Add a type of files to this workspace, or change one that was added."""
        return change.declare_type(self._scope.engine, name, description, metadata_schema)

    # -- deleting ------------------------------------------------------------------------------------

    def delete(
        self,
        name: str,
        *,
        version: int | str | None = None,
        test_name: str | None = None,
        force: bool = False,
        dry_run: bool = False,
    ) -> FileRemoval:
        """Delete a file with all its versions, or one version of it. This cannot be undone.

        Its blob goes too where nothing else holds it. A version number is never given again.

        Parameters
        ----------
        version : int or str, optional
            One version: ``3``, ``"v3"``, ``"latest"`` or an alias. All versions by default.
        force : bool
            Also production content, and what an alias, a pin or a group holds.
        dry_run : bool
            Return the plan and change nothing.

        Raises
        ------
        UnknownFile
        OverwriteRefused
            Without `force`: what is deleted is production content, or something holds it. Nothing was changed.
        """
        return change.delete(self._scope, name, version, test_name, force, dry_run)

    def cleanup(
        self,
        days_old: float = 30,
        *,
        dry_run: bool = False,
        include_production: bool = False,
        of_evaluations: bool = False,
        **filters: Any,
    ) -> FileRemoval:
        """Remove files stored more than some days ago that nothing needs, and leftovers of programs that died.

        This cannot be undone.

        Kept are: production content; what an alias, a pin or a group holds; what something that stays was made
        from; what is under way in a program that lives.

        Parameters
        ----------
        days_old : float
        dry_run : bool
            Return the plan and change nothing.
        include_production : bool
            Production content as well.
        of_evaluations : bool
            Also what only evaluations name that are not, and never were, a champion's. The evaluations stay, with
            their scores and tables.
        **filters
            As for `list`: only these.

        Returns
        -------
        FileRemoval
            ``len()`` of it is how many.

        Examples
        --------
        >>> _ = store.files.put(b"draft", "draft.txt", type="log")
        >>> print(store.files.cleanup(days_old=30), "|", store.files.cleanup(days_old=0, dry_run=True))
        0 versions removed, 0 bytes; 0 kept | 1 versions would be removed, 5 bytes; 0 kept
        """
        return change.cleanup(self._scope, days_old, dry_run, include_production, of_evaluations, filters)

    def cleanup_old_tests(self, keep_recent: int = 5, *, dry_run: bool = False) -> FileRemoval:
        """Remove all tests but the most recent, and of test content without a test's name all but recent versions.

        A view counts and removes the tests that it shows; those of other views neither count nor go.

        Parameters
        ----------
        keep_recent : int
            How many tests stay, by when they stored something last; and how many versions of each name.
        dry_run : bool
            Return the plan and change nothing.

        Returns
        -------
        FileRemoval
            What something needs is in ``kept``, as for `cleanup`.
        """
        return change.cleanup_old_tests(self._scope, keep_recent, dry_run)

    def cleanup_temp(self) -> int:
        """Remove temporary folders of programs that have died; returns how many."""
        return remove_abandoned(self._scope.engine)

    # -- processing runs -----------------------------------------------------------------------------

    def processing(
        self,
        name: str,
        *,
        module: str | None = None,
        module_version: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> ProcessingRun:
        """Make a processing run: ``with store.files.processing("deid") as run:``, or `start` and `end` it.

        Parameters
        ----------
        name : str
        module, module_version : str, optional
            What processes; said of every file that is put meanwhile.
        parameters : dict, optional
            Plain data.

        Examples
        --------
        >>> try:
        ...     with store.files.processing("blur", module="video_deid") as run:
        ...         _ = run.announce("interview.mp4", type="video_deid")
        ...         raise OSError("no frames")
        ... except OSError:
        ...     found = store.files.metadata("interview.mp4")
        >>> found["status"], found["message"]
        ('failed', 'OSError: no frames')
        """
        return ProcessingRun(self, name, module, module_version, parameters)

    def processing_runs(self, name: str | None = None) -> pl.DataFrame:
        """List processing runs, newest first; one whose program died shows as interrupted."""
        engine = self._scope.engine
        # Asked for inside the query, once the journal is applied: a session that is missing then has ended.
        return engine.query(lambda con: list_processing(con, name, engine.living_sessions()))
