"""`Datasets`: what `store.datasets` is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.addresses import user_path
from nirs_store.audit.trail import attempting, note
from nirs_store.blobs.cache import ByteLRU
from nirs_store.blobs.durable import write_file
from nirs_store.chains.grids import differ, same_grid
from nirs_store.datasets import rows as table
from nirs_store.datasets.compare import askable, channel_columns, chosen, difference, listing
from nirs_store.datasets.given import Given, take
from nirs_store.datasets.matrix import BLOCK, take_rows, write_rows
from nirs_store.datasets.samples import (
    GROUP,
    HASH,
    ID,
    PART,
    ROW,
    Header,
    Samples,
    label,
    labels_of,
)
from nirs_store.datasets.version import DatasetDiff, DatasetVersion, check_name, parse_reference
from nirs_store.db.session import Engine
from nirs_store.errors import BlobCorrupt, BlobMissing, InvalidInput, ShapeMismatch, quoted
from nirs_store.ids import spectrum_hashes
from nirs_store.lazy import polars as pl
from nirs_store.reading import Spectra
from nirs_store.reading.spectra import DatasetRows, Source
from nirs_store.records.notes import check_guard, note_read
from nirs_store.values import as_text, to_json

__all__ = ["CACHE", "Datasets", "ranges_of", "rows_in"]

CACHE = 64 << 20
# More files a version would make reading scattered rows slow; the next version then brings its spectra anew.
_MOST_PARTS = 64


class Datasets:
    """The data sets of a store, as ``store.datasets``.

    A data set is spectra with references, names of samples, groups and what holds for all of them, under a name with
    versions. A version never changes. Everywhere a version is named by ``"corn@v2"``, the newest by ``"corn"``.

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
        self._samples: ByteLRU[str, Samples] = ByteLRU(CACHE) if cache is None else cache

    # -- bringing in ---------------------------------------------------------------------------------

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
        """Store spectra with what belongs to them as a new version of a name.

        Spectra that the newest version holds already are not stored twice: a version with corrected references, or
        with some samples more, costs no more than what is new in it.

        Parameters
        ----------
        name : str
        X : Spectra, array or data frame, shape (n_samples, n_channels)
            What `read_spectra` returned brings everything along. Columns of a frame that are named by wavelength are
            the spectra, the others the references. The dtype is kept. NaN may be there, infinity may not.
        references : data frame, or mapping of names to values, optional
            Reference values and other columns, one row per spectrum; added to those that X has.
        ids, groups : array-like of shape (n_samples,), or str, optional
            Names of the samples, which replicates may share, and which samples belong together. A str is a column of
            X.
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
            Why there is this version.
        other_grid : bool
            Allow other wavelengths than the newest version of the name has.

        Returns
        -------
        DatasetVersion
            With ``added=False`` where the newest version has the same content: then nothing was stored.

        Raises
        ------
        InvalidInput, ShapeMismatch
            Something does not fit, the wavelengths differ from those of the newest version, or a guard refuses it.
        WriteFailed, ReadOnlyStore
            In every case nothing was stored.
        """
        with attempting(self._engine, "add_dataset", "dataset", name if isinstance(name, str) else None):
            self._engine.check_writable()
            check_name(name)
            given = take(
                X,
                references=references,
                ids=ids,
                groups=groups,
                wavelengths=wavelengths,
                unit=unit,
                instrument=instrument,
                units=units,
            )
            about = {**given.metadata, **dict(metadata or {})}
            to_json(about, "metadata")
            said = None if note is None else as_text(note, "note")
            check_guard(
                self._engine, {"name": name, "metadata": about, "instrument": given.instrument, "note": said}
            )
            values = {"name": name, "kind": "added", "metadata": about or None, "note": said}
            for share in (True, False):
                try:
                    row, added = self._add(values, given, share=share, other_grid=other_grid)
                    break
                except table.BlobsGone:
                    continue
        return self._noted("add_dataset", row, added)

    def _add(
        self, values: dict[str, Any], given: Given, *, share: bool, other_grid: bool
    ) -> tuple[table.Row, bool]:
        head = self._engine.query(lambda con: table.latest(con, values["name"]))
        item = table.Item(dict(values))
        claimed = [] if head is None else head["spectra_ids"]
        try:
            with self._claiming(claimed):
                old = None if head is None else self._samples_of(head)
                if head is not None and old is not None and not other_grid:
                    _refuse_other_grid(head, old.header, given.header)
                hashes: list[bytes] | None = None
                places = np.full(len(given.X), -1)
                parts = np.zeros(len(given.X), dtype=np.int32)
                if head is not None and old is not None and share:
                    hashes = spectrum_hashes_of(given.X)
                    parts, places = self._known_rows(head, old, given.X, hashes)
                    if (places >= 0).any():
                        item.shared = list(head["spectra_ids"])
                fresh = np.flatnonzero(places < 0)
                if fresh.size:
                    item.spectra = self._engine.blobs.draft()
                    brought = write_rows(
                        item.spectra, given.X if fresh.size == len(given.X) else given.X[fresh]
                    )
                    item.spectra.finish()
                    hashes = brought if hashes is None else hashes
                    parts[fresh], places[fresh] = len(item.shared), np.arange(fresh.size)
                assert hashes is not None
                self._finish(item, given.header, _frame(given, hashes, parts, places))
                return table.record(self._engine, item)
        finally:
            _discard(item)

    @contextmanager
    def _claiming(self, artifact_ids: Sequence[str]) -> Iterator[None]:
        """Hold files that a new version is to share against a gc."""
        # The session's row comes before any claim of its.
        with self._engine.recording():
            pass
        with self._engine.recorder.claiming(*artifact_ids):
            yield
        self._engine.recorder.release_claims()

    def _known_rows(
        self, head: table.Row, old: Samples, X: NDArray[Any], hashes: Sequence[bytes]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Find the spectra that the newest version holds: part and row of each, row -1 where it does not."""
        parts, places = np.zeros(len(X), dtype=np.int32), np.full(len(X), -1, dtype=np.int64)
        if old.header.dtype != X.dtype.str.lstrip("<|") or len(head["spectra_ids"]) >= _MOST_PARTS:
            return parts, places
        if old.header.n_channels != X.shape[1]:
            return parts, places
        there: dict[bytes, list[int]] = {}
        for row, digest in enumerate(old.hashes):
            there.setdefault(digest, []).append(row)
        # Each stored spectrum serves one sample: replicates with the same values are stored each.
        pairs = [(new, there[digest].pop()) for new, digest in enumerate(hashes) if there.get(digest)]
        if not pairs:
            return parts, places
        new, known = np.array(pairs, dtype=np.int64).T
        step = max(1, BLOCK // (X.shape[1] * X.itemsize))
        kept = np.zeros(new.size, dtype=bool)
        paths = self._paths(head)
        try:
            for start in range(0, new.size, step):
                some = slice(start, start + step)
                stored, given = self._read(head, old, known[some], paths), np.ascontiguousarray(X[new[some]])
                kept[some] = (stored.view(np.uint8) == given.view(np.uint8)).all(axis=1)
        except (BlobMissing, BlobCorrupt):
            return parts, places  # storing them again heals what is damaged
        new, known = new[kept], known[kept]
        parts[new] = old.frame[PART].to_numpy()[known]
        places[new] = old.frame[ROW].to_numpy()[known]
        return parts, places

    def _finish(self, item: table.Item, header: Header, frame: pl.DataFrame) -> None:
        """Complete a version: name only the files that it uses, write its samples, fill its columns."""
        parts = [part for part in frame[PART].unique().sort().to_list() if part < len(item.shared)]
        numbers = {part: number for number, part in enumerate([*parts, len(item.shared)])}
        frame = frame.with_columns(pl.col(PART).replace_strict(numbers, return_dtype=pl.Int32))
        item.shared = [item.shared[part] for part in parts]
        samples = Samples(header, frame)
        item.samples = self._engine.blobs.draft()
        item.samples.write(samples.to_bytes())
        item.samples.finish()
        grid = header.wavelengths
        item.values |= {
            "n_samples": frame.height,
            "n_channels": header.n_channels,
            "dtype": np.dtype(header.dtype).name,
            "unit": header.unit,
            "first_wavelength": None if grid is None else grid[0],
            "last_wavelength": None if grid is None else grid[-1],
            "labels": labels_of(frame),
            "content_hash": samples.content_hash(),
            "instrument": header.instrument or None,
        }

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
        """Return samples of a version as `read_spectra` returns them, for every method that takes spectra.

        Parameters
        ----------
        reference : str or DatasetVersion
            ``"corn@v2"``, ``"corn"`` for the newest version, or an id.
        target : str or sequence of str, optional
            The column, or columns, of reference values: they become ``y``, NaN where one is missing.
        ids : names, optional
            Only these samples, in this order; replicates all come.
        rows : row numbers, mask or slice, optional
            Only these rows.
        where : str, optional
            Only samples for which a condition holds: ``"moisture < 12 AND year = 2023"``, over the references, ``id``
            and ``group``.

        Returns
        -------
        Spectra
            ``X`` has the dtype that was stored. Every spectrum was compared with its hash.

        Raises
        ------
        UnknownDataset
        InvalidInput
            No such column, sample or row; or a condition that cannot be read.
        BlobMissing, BlobCorrupt
        """
        row = self._row(reference)
        samples = self._samples_of(row)
        some = chosen(samples, ids, rows, where)
        note_read(self._engine, "get_dataset", "dataset", row["dataset_version_id"], {"name": row["name"]})
        return self._spectra(row, samples, some, target)

    def _spectra(
        self, row: table.Row, samples: Samples, some: NDArray[np.int64], target: str | Sequence[str] | None
    ) -> Spectra:
        from nirs_store.reading.spectra import targets_of

        header, name = samples.header, f"{row['name']}@v{row['version']}"
        part = Samples(header, samples.frame[some])
        source = Source(Path(name), row["content_hash"])
        grid = header.grid
        names = header.channel_names or ([] if grid is None else [f"{value:g}" for value in grid])
        understood = DatasetVersion.of(row)._shape()
        if some.size < row["n_samples"]:
            understood = f"{some.size:,} of {understood}"
        spectra = Spectra(
            X=self._read(row, samples, some, self._paths(row)),
            wavelengths=grid,
            unit=header.unit,
            channel_names=tuple(names or map(str, range(1, header.n_channels + 1))),
            references=part.references,
            source=source,
            understood=understood,
            places=tuple(f"row {place}" for place in some.tolist()),
            ids=part.names(ID),
            groups=part.names(GROUP),
            instrument=dict(header.instrument),
            sources=(source,),
            dataset=DatasetRows(row["dataset_version_id"], name, some, row["n_samples"]),
        )
        return spectra if target is None else targets_of(spectra, target, header.units)

    def _paths(self, row: table.Row) -> dict[str, str]:
        return self._engine.query(lambda con: table.paths_of(con, row["spectra_ids"]), notes=False)

    def _read(
        self, row: table.Row, samples: Samples, some: NDArray[np.int64], paths: Mapping[str, str]
    ) -> NDArray[Any]:
        frame, ids = samples.frame, row["spectra_ids"]
        hashes = frame[HASH].gather(some).to_list()

        def path_of(part: int) -> Path:
            if ids[part] not in paths:
                raise BlobMissing(
                    f"{row['name']}@v{row['version']}: the row of its spectra is missing. Run `nirs-store check`."
                )
            return self._engine.blobs.path_of(paths[ids[part]])

        return take_rows(
            path_of,
            frame[PART].to_numpy()[some],
            frame[ROW].to_numpy()[some],
            hashes,
            np.dtype(samples.header.dtype).newbyteorder("<"),
            samples.header.n_channels,
        )

    def version(self, reference: str | DatasetVersion) -> DatasetVersion:
        """Return what is known of a version, without reading its samples.

        Raises
        ------
        UnknownDataset, InvalidInput
        """
        return DatasetVersion.of(self._row(reference))

    def samples(self, reference: str | DatasetVersion) -> pl.DataFrame:
        """Return the samples of a version without their spectra: ``id``, ``group`` and the references.

        Raises
        ------
        UnknownDataset, InvalidInput, BlobMissing, BlobCorrupt
        """
        return askable(self._samples_of(self._row(reference)))

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

        Its spectra are those of the version, which are not stored twice.

        Parameters
        ----------
        reference : str or DatasetVersion
        name : str
            Of the selection; the next version of it, where there is one.
        ids, rows, where
            As for `get`; one of them.
        invert : bool
            All other samples instead.
        note : str, optional

        Returns
        -------
        DatasetVersion

        Raises
        ------
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
                raise InvalidInput("Expected one of ids, rows and where. Nothing was stored.")
            said = None if note is None else as_text(note, "note")
            check_guard(self._engine, {"name": name, "note": said, "where": where})
            row = self._row(reference)
            if row["name"] == name:
                raise InvalidInput(
                    f"name: a selection of {name!r} needs a name of its own, for example {name + '-test'!r}. Nothing "
                    "was stored."
                )
            samples = self._samples_of(row)
            some = chosen(samples, ids, rows, where)
            if invert:
                some = np.setdiff1d(np.arange(samples.frame.height), some)
            if not some.size:
                raise InvalidInput("The selection holds no samples. Nothing was stored.")
            how = {"of": f"{row['name']}@v{row['version']}", "invert": invert}
            how |= {"where": where} if where is not None else {"by": "ids" if ids is not None else "rows"}
            item = table.Item(
                {
                    "name": name,
                    "kind": "selection",
                    "parent_id": row["dataset_version_id"],
                    "selection": how,
                    "note": said,
                },
                shared=list(row["spectra_ids"]),
            )
            try:
                with self._claiming(item.shared):
                    self._finish(item, samples.header, samples.frame[some])
                    found, added = table.record(self._engine, item)
            except table.BlobsGone:
                raise InvalidInput(
                    f"{row['name']}@v{row['version']} was deleted meanwhile. Nothing was stored."
                ) from None
            finally:
                _discard(item)
        return self._noted("select_dataset", found, added)

    def diff(self, before: str | DatasetVersion, after: str | DatasetVersion) -> DatasetDiff:
        """Tell how a version differs from another: samples added, removed and changed, references corrected.

        Raises
        ------
        UnknownDataset, InvalidInput, BlobMissing, BlobCorrupt
        """
        old, new = self._row(before), self._row(after)
        return difference(old, self._samples_of(old), new, self._samples_of(new))

    def delete(self, reference: str | DatasetVersion, *, force: bool = False) -> DatasetVersion:
        """Delete a version; the next gc removes the files that no other version shares.

        Parameters
        ----------
        reference : str or DatasetVersion
            With its version: ``"corn@v2"``.
        force : bool
            Also where a pin, a selection or a recorded chain needs it.

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
            if isinstance(reference, str) and "@" not in reference and self._is_name(reference):
                raise InvalidInput(
                    f"Name the version to delete, as in '{reference}@v1'. Nothing was deleted; `versions` lists them."
                )
            row = self._row(reference)
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
        """Write samples of a version as a table that other programs read: Parquet, or CSV by the ending of the path.

        Columns are ``id``, ``group``, the references, then the channels, named by wavelength.

        Raises
        ------
        UnknownDataset, InvalidInput, BlobMissing, BlobCorrupt, WriteFailed, ReadOnlyStore
        """
        import io

        target = user_path(path).absolute()
        ending = target.suffix.lower()
        if ending not in (".parquet", ".csv"):
            raise InvalidInput(
                f"path: expected the ending .parquet or .csv, found {quoted(target.name)}. Nothing was written."
            )
        spectra = self.get(reference, ids=ids, rows=rows, where=where)
        samples = self._samples_of(self._row(reference))
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
            frame.write_csv(sink)
        write_file(target, sink.getvalue(), replace=overwrite)
        note(
            self._engine,
            "export_dataset",
            "dataset",
            spectra.dataset.dataset_version_id,
            details={"path": str(target)},
        )
        return target

    # -- finding rows --------------------------------------------------------------------------------

    def _is_name(self, text: str) -> bool:
        return self._engine.query(lambda con: table.latest(con, text)) is not None

    def _row(self, reference: object) -> table.Row:
        """Return the row of a version.

        Raises
        ------
        UnknownDataset, InvalidInput
        """
        if isinstance(reference, DatasetVersion):
            return self._engine.query(lambda con: table.require(con, reference.dataset_version_id, None))
        name, version = parse_reference(as_text(reference, "reference"))
        return self._engine.query(lambda con: table.require(con, name, version))

    def _samples_of(self, row: table.Row) -> Samples:
        """Return the samples of a version, compared with what its row says of them."""
        known = self._samples.get(row["samples_id"])
        name = f"{row['name']}@v{row['version']}"
        if known is None:
            paths = self._engine.query(lambda con: table.paths_of(con, [row["samples_id"]]))
            if row["samples_id"] not in paths:
                raise BlobMissing(
                    f"The samples of {name} are missing: their row is gone. Run `nirs-store check`."
                )
            data = self._engine.blobs.read(paths[row["samples_id"]], row["samples_id"])
            known = Samples.read(data, name, len(row["spectra_ids"]))
            self._samples.put(row["samples_id"], known, len(data))
        if (known.frame.height, known.header.n_channels) != (row["n_samples"], row["n_channels"]):
            raise BlobCorrupt(f"{name} is not what its row says: run `nirs-store check --read-data`.")
        return known


def spectrum_hashes_of(X: NDArray[Any]) -> list[bytes]:
    """Hash the spectra of a matrix block by block."""
    step = max(1, BLOCK // (X.shape[1] * X.itemsize))
    return [digest for start in range(0, len(X), step) for digest in spectrum_hashes(X[start : start + step])]


def ranges_of(rows: NDArray[np.int64], n: int) -> list[list[int]] | None:
    """Write ascending rows as ``[start, stop]`` pairs; None where they are all."""
    if rows.size == n:
        return None
    ordered = np.unique(rows)
    breaks = np.flatnonzero(np.diff(ordered) != 1)
    starts = ordered[np.concatenate([[0], breaks + 1])] if ordered.size else ordered
    stops = ordered[np.concatenate([breaks, [ordered.size - 1]])] + 1 if ordered.size else ordered
    return [[int(start), int(stop)] for start, stop in zip(starts, stops, strict=True)]


def rows_in(ranges: Sequence[Sequence[int]] | None, n: int) -> NDArray[np.int64]:
    """Return the rows that `ranges_of` wrote."""
    if ranges is None:
        return np.arange(n)
    return np.concatenate([np.arange(start, min(stop, n)) for start, stop in ranges] or [np.arange(0)])


def _discard(item: table.Item) -> None:
    for draft in (item.spectra, item.samples):
        if draft is not None:
            draft.discard()


def _frame(
    given: Given, hashes: Sequence[bytes], parts: NDArray[np.int32], places: NDArray[np.int64]
) -> pl.DataFrame:
    columns = []
    if given.ids is not None:
        columns.append(given.ids.alias(ID))
    if given.groups is not None:
        columns.append(given.groups.alias(GROUP))
    columns += [given.references[name].alias(label(name)) for name in given.references.columns]
    columns += [
        pl.Series(HASH, hashes, dtype=pl.Binary),
        pl.Series(PART, parts.astype(np.int32)),
        pl.Series(ROW, places.astype(np.int64)),
    ]
    return pl.DataFrame(columns)


def _refuse_other_grid(head: table.Row, old: Header, new: Header) -> None:
    name = f"{head['name']}@v{head['version']}"
    if new.n_channels != old.n_channels:
        what = f"{new.n_channels} channels, {name} has {old.n_channels}"
    elif old.grid is not None and new.grid is not None and not same_grid(new.grid, old.grid):
        what = f"other wavelengths than {name}: {differ(new.grid, old.grid)}"
    elif old.unit is not None and new.unit is not None and old.unit != new.unit:
        what = f"wavelengths in {new.unit}, {name} has them in {old.unit}"
    else:
        return
    raise ShapeMismatch(
        f"X has {what}. Chains of the one cannot predict the other. Nothing was stored. Give another name, or allow it "
        "with other_grid=True (on the command line: --other-grid)."
    )
