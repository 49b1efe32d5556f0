"""`Datasets`, the view behind `store.datasets`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nirs_store.addresses import user_path
from nirs_store.audit.trail import attempting
from nirs_store.blobs.cache import ByteLRU
from nirs_store.blobs.durable import write_file
from nirs_store.datasets import rows as table
from nirs_store.datasets.compare import (
    ROLES,
    askable,
    chains_frame,
    channel_columns,
    chosen,
    common_spectra,
    difference,
    listing,
    sought_rows,
    warn_of_arrays,
)
from nirs_store.datasets.given import take
from nirs_store.datasets.reader import Reader
from nirs_store.datasets.samples import Samples
from nirs_store.datasets.version import DatasetDiff, DatasetVersion, check_name, parse_reference
from nirs_store.datasets.writer import add, claiming, discard, finish, readable, refuse_other_grid, with_grid
from nirs_store.db.session import Engine
from nirs_store.db.table import Table
from nirs_store.errors import InvalidInput, UnknownDataset, UnknownId, quoted
from nirs_store.lazy import polars as pl
from nirs_store.reading import Spectra
from nirs_store.reading.tables import frame_csv
from nirs_store.records.lookup import whole_ids
from nirs_store.records.notes import check_guard, note, note_read
from nirs_store.records.queries import get_chain
from nirs_store.values import as_text, one_of, to_json

_SHOWN = 10


class Datasets:
    """The data sets of a store, as ``store.datasets``.

    A data set holds spectra with references, sample names, groups and metadata, in versions under one name. A version
    never changes. ``"corn@v2"`` names a version everywhere, and ``"corn"`` the newest one.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store import WorkspaceStore, load_tecator
    >>> meat = load_tecator()
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     store.datasets.add(
    ...         "meat", meat.X, references=meat.y, ids=meat.sample_names, wavelengths=meat.wavelengths, unit="nm"
    ...     )
    ...     lean = store.datasets.select("meat", "lean", where="fat < 10")
    ...     store.datasets.get("lean", target="fat").y.max() < 10
    <DatasetVersion meat@v1: 215 samples, 100 channels 850 to 1050 nm, float64>
    np.True_
    >>> folder.cleanup()
    """

    def __init__(
        self, engine: Engine, cache: ByteLRU[str, Samples] | None = None, *, store: object = None
    ) -> None:
        self._engine = engine
        # Held, so that a store which nothing else holds is not closed under its view.
        self._store = store
        self._reader = Reader(engine, cache)

    def __repr__(self) -> str:
        names = self.list()["name"].to_list()
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"<Datasets: {', '.join(names[:_SHOWN]) or 'none'}{more}>"

    def _repr_html_(self) -> str:
        return self.list()._repr_html_()

    # -- adding ---------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        X: Any,
        *,
        references: Any = None,
        ids: Any = None,
        groups: Any = None,
        wavelengths: Any = None,
        unit: str | None = None,
        instrument: Mapping[str, str] | None = None,
        units: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        note: str | None = None,
        other_grid: bool = False,
    ) -> DatasetVersion:
        """Store spectra with their references, names and metadata as a new version of a name.

        Spectra that the newest version already contains are not stored again, so a version with corrected references
        or additional samples takes space only for what is new.

        Parameters
        ----------
        name : str
        X : Spectra, array or data frame, shape (n_samples, n_channels)
            The result of `read_spectra` contains everything. In a data frame, columns named by wavelength are the
            spectra, and the others are the references. The dtype is kept. NaN is allowed, infinity is not.
        references : data frame, or mapping of names to values, optional
            Reference values and other columns, one row per spectrum, in addition to those of X. As in X, NaN is
            allowed, infinity is not.
        ids, groups : array-like of shape (n_samples,), or str, optional
            Sample names, which replicates may share, and groups of samples that belong together. A str names a
            column of X.
        wavelengths : array-like of shape (n_channels,), optional
        unit : {"nm", "cm-1", "um"}, optional
            Unit of the wavelengths.
        instrument : mapping of texts, optional
            For example the serial number; ``signal`` says what the values are.
        units : mapping, optional
            Units of references: ``{"moisture": "%"}``.
        metadata : mapping, optional
            Plain data about the version.
        note : str, optional
            Why this version was made.
        other_grid : bool
            Allow wavelengths other than those of the newest version.

        Returns
        -------
        DatasetVersion
            ``added`` is False if the newest version has the same content; then nothing was stored.

        Raises
        ------
        InvalidInput, ShapeMismatch
            The inputs do not match, the wavelengths differ from those of the newest version, or a guard refuses it.
        WriteFailed, ReadOnlyStore
            In every case nothing was stored.
        """
        with attempting(self._engine, "add_dataset", "dataset", name if isinstance(name, str) else None):
            self._engine.check_writable()
            check_name(name)
            given = take(X, references, ids, groups, wavelengths, unit, instrument, units)
            if metadata is not None and not isinstance(metadata, Mapping):
                raise InvalidInput(
                    f"metadata: expected a mapping, found {type(metadata).__name__}. Nothing was stored."
                )
            about = {**given.metadata, **(metadata or {})}
            to_json(about, "metadata")
            said = None if note is None else as_text(note, "note")
            check_guard(
                self._engine, {"name": name, "metadata": about, "instrument": given.instrument, "note": said}
            )
            values = {"name": name, "kind": "added", "metadata": about or None, "note": said}
            try:
                row, added = add(self._reader, values, given, share=True, other_grid=other_grid)
            except table.BlobsGone:
                row, added = add(self._reader, values, given, share=False, other_grid=other_grid)
        return self._noted("add_dataset", row, added)

    def _noted(self, operation: str, row: table.Row, added: bool) -> DatasetVersion:
        version = DatasetVersion.of(row, added=added)
        if added:
            facts = {"name": version.name, "version": version.version, "content_hash": version.content_hash}
            note(self._engine, operation, "dataset", version.dataset_version_id, details=facts)
        return version

    # -- looking -------------------------------------------------------------------------------------

    def get(
        self,
        reference: str | DatasetVersion,
        *,
        target: str | Sequence[str] | None = None,
        ids: Any = None,
        rows: Any = None,
        where: str | None = None,
    ) -> Spectra:
        """Return samples of a version as `Spectra`, for every method that takes spectra.

        Parameters
        ----------
        reference : str or DatasetVersion
            ``"corn@v2"``, ``"corn"`` for the newest version, or an id.
        target : str or sequence of str, optional
            The column or columns of reference values that become ``y``; missing values are NaN.
        ids : names, optional
            Only these samples, in this order, with all their replicates.
        rows : row numbers, mask or slice, optional
            Only these rows.
        where : str, optional
            Only samples that meet a condition: ``"moisture < 12 AND year = 2023"``, over the references, ``id``
            and ``group``.

        Returns
        -------
        Spectra
            ``X`` has the stored dtype. Every spectrum is checked against its hash.

        Raises
        ------
        UnknownDataset
        InvalidInput
            There is no such column, sample or row, or the condition is invalid.
        BlobMissing, BlobCorrupt
        """
        row = self._reader.row(reference)
        samples = self._reader.samples_of(row)
        some = chosen(samples, ids, rows, where)
        note_read(self._engine, "get_dataset", "dataset", row["dataset_version_id"], {"name": row["name"]})
        return self._reader.spectra(row, samples, some, target)

    def version(self, reference: str | DatasetVersion) -> DatasetVersion:
        """Return the facts about a version, without reading its samples.

        Raises
        ------
        UnknownDataset, InvalidInput
        """
        return DatasetVersion.of(self._reader.row(reference))

    def samples(self, reference: str | DatasetVersion) -> pl.DataFrame:
        """Return the samples of a version without their spectra: ``id``, ``group`` and the references.

        Raises
        ------
        UnknownDataset, InvalidInput, BlobMissing, BlobCorrupt
        """
        return askable(self._reader.samples_of(self._reader.row(reference)))

    def list(self) -> pl.DataFrame:
        """List the data sets by name, each with its newest version."""
        return listing(self._engine.query(lambda con: table.list_versions(con, None)))

    def versions(self, name: str) -> pl.DataFrame:
        """List the versions of a data set, oldest first.

        Raises
        ------
        UnknownDataset
        """
        plain = parse_reference(as_text(name, "name"))[0]
        self._engine.query(lambda con: table.require(con, plain, None))
        return listing(self._engine.query(lambda con: table.list_versions(con, plain)))

    # -- choosing and comparing ----------------------------------------------------------------------

    def select(
        self,
        reference: str | DatasetVersion,
        name: str,
        *,
        ids: Any = None,
        rows: Any = None,
        where: str | None = None,
        invert: bool = False,
        note: str | None = None,
    ) -> DatasetVersion:
        """Store some samples of a version as a version of another name: a calibration set, a test set.

        The selection shares the spectra of the version.

        Parameters
        ----------
        reference : str or DatasetVersion
        name : str
            Name of the selection; if it exists, this makes its next version, which must have the same wavelengths.
        ids, rows, where
            As for `get`; one of them.
        invert : bool
            Select all other samples instead.
        note : str, optional

        Returns
        -------
        DatasetVersion

        Raises
        ------
        ShapeMismatch
            The newest version of the name has other wavelengths.
        UnknownDataset, InvalidInput, WriteFailed, ReadOnlyStore
            In every case nothing was stored.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore, load_tecator
        >>> meat = load_tecator()
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     _ = store.datasets.add("meat", meat.X, references=meat.y)
        ...     test = store.datasets.select("meat", "meat-test", rows=range(0, 215, 5))
        ...     rest = store.datasets.select("meat", "meat-cal", rows=range(0, 215, 5), invert=True)
        ...     test.n_samples, rest.n_samples
        (43, 172)
        >>> folder.cleanup()
        """
        with attempting(self._engine, "select_dataset", "dataset", name if isinstance(name, str) else None):
            self._engine.check_writable()
            check_name(name)
            if sum(each is not None for each in (ids, rows, where)) != 1:
                raise InvalidInput(
                    "Expected one of ids, rows and where (on the command line: --id or --where). Nothing was stored."
                )
            said = None if note is None else as_text(note, "note")
            check_guard(self._engine, {"name": name, "note": said, "where": where})
            row = self._reader.row(reference)
            if row["name"] == name:
                raise InvalidInput(
                    f"name: a selection of {name!r} needs a name of its own, for example {name + '-test'!r}. Nothing "
                    "was stored."
                )
            samples = self._reader.samples_of(row)
            some = chosen(samples, ids, rows, where)
            if invert:
                some = np.setdiff1d(np.arange(samples.frame.height), some)
            if np.unique(some).size < some.size:
                raise InvalidInput("rows: a row is named twice. Nothing was stored.")
            if not some.size:
                raise InvalidInput("The selection holds no samples. Nothing was stored.")
            head = self._engine.query(lambda con: table.latest(con, name))
            old = None if head is None else readable(self._reader, head)
            if head is not None and old is not None:
                grids = with_grid(self._reader, head, old.header)
                refuse_other_grid(*grids, samples.header, "The selection", "Give another name.")
            how = {"of": f"{row['name']}@v{row['version']}", "invert": invert}
            how |= {"where": where} if where is not None else {"by": "ids" if ids is not None else "rows"}
            values = {"name": name, "kind": "selection", "parent_id": row["dataset_version_id"]}
            values |= {"selection": how, "note": said}
            item = table.Item(values, shared=list(row["spectra_ids"]))
            try:
                with claiming(self._engine, item.shared):
                    finish(self._engine, item, Samples(samples.header, samples.frame[some]), head, old)
                    found, added = table.record(self._engine, item)
            except table.BlobsGone:
                raise InvalidInput(
                    f"{row['name']}@v{row['version']} was deleted meanwhile. Nothing was stored."
                ) from None
            finally:
                discard(item)
        return self._noted("select_dataset", found, added)

    def diff(self, before: str | DatasetVersion, after: str | DatasetVersion) -> DatasetDiff:
        """Compare two versions: samples added, removed and changed, references corrected.

        Raises
        ------
        UnknownDataset, InvalidInput, BlobMissing, BlobCorrupt
        """
        old, new = self._reader.row(before), self._reader.row(after)
        return difference(old, self._reader.samples_of(old), new, self._reader.samples_of(new))

    # -- what chains have seen -----------------------------------------------------------------------

    def chains_of(
        self,
        sample: str | int | None = None,
        *,
        spectra: Any = None,
        dataset: str | DatasetVersion | None = None,
    ) -> pl.DataFrame:
        """List the chains that have seen a sample, of those that were recorded from stored data sets.

        A warning says how many chains were recorded from arrays: of these only the hash of all their data is kept.

        Parameters
        ----------
        sample : str or int, optional
            Its name, in any data set.
        spectra : array-like, shape (n_channels,) or (n, n_channels), optional
            Or its spectrum, under any name; the values must be equal to the bit.
        dataset : str or DatasetVersion, optional
            Or any sample of one version, ``"corn@v2"``: list the chains that were recorded from this version.

        Returns
        -------
        polars.DataFrame
            One row per chain and role, oldest first: ``chain_id, role`` ("calibration" or "test"), ``dataset, target,
            preprocessing, model, pipeline, run_id, created_at``, and the number of ``samples`` it has seen.

        Raises
        ------
        InvalidInput
            None of these arguments is given, or several are.
        UnknownDataset
        BlobMissing, BlobCorrupt
        """
        if sum(each is not None for each in (sample, spectra, dataset)) != 1:
            raise InvalidInput("Expected the name of a sample, spectra= or dataset=, and one of them.")
        chains, count = self._engine.query(table.fitted_on)
        if dataset is not None:
            whole = self.version(dataset)
            every = {whole.dataset_version_id: (whole, np.arange(whole.n_samples))}
            return chains_frame(chains, every, only=True)
        warn_of_arrays(count - sum(chain["fitted_id"] is not None for chain in chains))
        ids = {chain[f"{prefix}_id"] for chain in chains for prefix in ROLES.values()} - {None}
        rows = self._engine.query(lambda con: Table(con, "dataset_versions").where(dataset_version_id=ids))
        versions = {}
        for row in rows:
            sought = sought_rows(self._reader.samples_of(row), sample, spectra)
            versions[row["dataset_version_id"]] = (DatasetVersion.of(row), sought)
        return chains_frame(chains, versions)

    @whole_ids
    def of_chain(self, chain_id: str, role: str = "calibration") -> Spectra:
        """Return the samples that a chain was fitted on, or tested with, with its target as ``y``.

        Parameters
        ----------
        chain_id : str
        role : {"calibration", "test"}

        Raises
        ------
        UnknownId
        UnknownDataset
            The data set has been deleted.
        InvalidInput
            The chain was not recorded from a stored data set.
        BlobMissing, BlobCorrupt
        """
        chain = self._chain(chain_id)
        one_of("role", role, ROLES, "")
        prefix = "dataset" if role == "calibration" else "dataset_test"
        metadata = chain["metadata"] or {}
        version_id = metadata.get(f"{prefix}_version_id")
        if not isinstance(version_id, str):
            raise InvalidInput(
                f"The {role} samples of chain {chain_id} are not in a stored data set: only their hash was kept. "
                "Record with dataset='corn@v2' to keep both together."
            )
        try:
            row = self._reader.row(version_id)
        except UnknownDataset:
            words = f"The chain {chain_id} was recorded from {metadata.get(prefix)}, which has been deleted."
            raise UnknownDataset(version_id, words) from None
        some = table.rows_in(metadata.get(f"{prefix}_rows"), int(row["n_samples"]))
        return self._reader.spectra(row, self._reader.samples_of(row), some, _target_of(chain, row))

    @whole_ids
    def for_chain(self, reference: str | DatasetVersion, chain_id: str) -> Spectra:
        """Return a version with the target of a chain as ``y``, if it has a column of that name.

        Raises
        ------
        UnknownId, UnknownDataset, InvalidInput, BlobMissing, BlobCorrupt
        """
        return self.get(reference, target=_target_of(self._chain(chain_id), self._reader.row(reference)))

    def in_common(self, reference: str | DatasetVersion, other: str | DatasetVersion) -> pl.DataFrame:
        """List the spectra with equal values in two versions: ``sample, sample_other, row, row_other``.

        A calibration set and its test set should share none.

        Raises
        ------
        UnknownDataset, InvalidInput, BlobMissing, BlobCorrupt
        """
        return common_spectra(
            *(self._reader.samples_of(self._reader.row(each)) for each in (reference, other))
        )

    def _chain(self, chain_id: str) -> dict[str, Any]:
        chain = self._engine.query(lambda con: get_chain(con, chain_id))
        if chain is None:
            raise UnknownId("chain", chain_id)
        return chain

    # -- deleting and exporting -------------------------------------------------------------------

    def delete(self, reference: str | DatasetVersion, *, force: bool = False) -> DatasetVersion:
        """Delete a version; the next gc removes the files that no other version shares.

        Parameters
        ----------
        reference : str or DatasetVersion
            With its version: ``"corn@v2"``.
        force : bool
            Delete even if a pin, a selection or a recorded chain needs it.

        Returns
        -------
        DatasetVersion
            What it was.

        Raises
        ------
        UnknownDataset
        InvalidInput
            The version is not named.
        OverwriteRefused
            Something needs it.
        """
        said = reference if isinstance(reference, str) else None
        with attempting(self._engine, "delete_dataset", "dataset", said):
            bare = isinstance(reference, str) and "@" not in reference
            if bare and self._engine.query(lambda con: table.latest(con, str(reference))) is not None:
                raise InvalidInput(
                    f"Name the version to delete, as in '{reference}@v1'. Nothing was deleted; `versions` lists them."
                )
            row = self._reader.row(reference)
            self._engine.change(lambda con: table.delete(con, row, force=force))
        version = DatasetVersion.of(row)
        facts = {"name": version.name, "version": version.version, "force": force}
        note(self._engine, "delete_dataset", "dataset", version.dataset_version_id, details=facts)
        return version

    def export(
        self,
        reference: str | DatasetVersion,
        path: str | Path,
        *,
        overwrite: bool = False,
        ids: Any = None,
        rows: Any = None,
        where: str | None = None,
    ) -> Path:
        """Write samples of a version as a table for other programs: Parquet or CSV, by the suffix of the path.

        Columns are ``id``, ``group``, the references, then the channels, named by wavelength.

        Raises
        ------
        UnknownDataset, InvalidInput, BlobMissing, BlobCorrupt, WriteFailed, ReadOnlyStore
        """
        target = user_path(path).absolute()
        ending = target.suffix.lower()
        if ending not in (".parquet", ".csv"):
            raise InvalidInput(
                f"path: expected the ending .parquet or .csv, found {quoted(target.name)}. Nothing was written."
            )
        spectra = self.get(reference, ids=ids, rows=rows, where=where)
        samples = self._reader.samples_of(self._reader.row(reference))
        assert spectra.dataset is not None
        left = askable(samples)[spectra.dataset.rows]
        names = channel_columns(spectra, left.columns)
        channels = [
            pl.Series(name, np.ascontiguousarray(spectra.X[:, place])) for place, name in enumerate(names)
        ]
        sink = io.BytesIO()
        frame = pl.DataFrame([*left.get_columns(), *channels])
        if ending == ".parquet":
            frame.write_parquet(sink)
        else:
            sink.write(frame_csv(frame).encode())
        write_file(target, sink.getvalue(), replace=overwrite)
        version_id = spectra.dataset.dataset_version_id
        note(self._engine, "export_dataset", "dataset", version_id, details={"path": str(target)})
        return target


def _target_of(chain: Mapping[str, Any], row: table.Row) -> str | list[str] | None:
    """Return the target of a chain, where a version has a column of that name."""
    metadata = chain["metadata"] or {}
    several, target = metadata.get("target_names"), metadata.get("target")
    if isinstance(several, list) and set(several) <= set(row["labels"]):
        return [str(name) for name in several]
    return target if target in row["labels"] else None
