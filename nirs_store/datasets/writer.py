"""Add a version: spectra that are there already are shared, the others written, then the samples and the row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains.grids import differ, same_grid
from nirs_store.datasets import rows as table
from nirs_store.datasets.given import Given
from nirs_store.datasets.matrix import BLOCK, write_rows
from nirs_store.datasets.reader import Reader
from nirs_store.datasets.samples import GROUP, HASH, ID, PART, ROW, Header, Samples, label, labels_of
from nirs_store.db.session import Engine
from nirs_store.errors import BlobCorrupt, BlobMissing, ShapeMismatch
from nirs_store.ids import spectrum_hashes
from nirs_store.lazy import polars as pl

# More files a version would make reading scattered rows slow; the next version then brings its spectra again.
_MOST_PARTS = 64


def add(
    reader: Reader, values: dict[str, Any], given: Given, *, share: bool, other_grid: bool
) -> tuple[table.Row, bool]:
    """Add a version; return its row, and whether it is new."""
    engine = reader.engine
    head = engine.query(lambda con: table.latest(con, values["name"]))
    item = table.Item(dict(values))
    claimed = [] if head is None else head["spectra_ids"]
    try:
        with claiming(engine, claimed):
            old = None if head is None else readable(reader, head)
            if head is not None and old is not None and not other_grid:
                row, header = with_grid(reader, head, old.header)
                refuse_other_grid(
                    row, header, given.header, "X",
                    "Give another name, or allow it with other_grid=True (on the command line: --other-grid).",
                )  # fmt: skip
            hashes: list[bytes] | None = None
            places = np.full(len(given.X), -1)
            parts = np.zeros(len(given.X), dtype=np.int32)
            if head is not None and old is not None and share:
                hashes = _hashes_of(given.X)
                parts, places = _known_rows(reader, head, old, given.X, hashes)
                if (places >= 0).any():
                    item.shared = list(head["spectra_ids"])
            fresh = np.flatnonzero(places < 0)
            if fresh.size:
                item.spectra = engine.blobs.draft()
                brought = write_rows(item.spectra, given.X if fresh.size == len(given.X) else given.X[fresh])
                item.spectra.finish()
                hashes = brought if hashes is None else hashes
                parts[fresh], places[fresh] = len(item.shared), np.arange(fresh.size)
            assert hashes is not None
            finish(engine, item, Samples(given.header, _frame(given, hashes, parts, places)), head, old)
            return table.record(engine, item)
    finally:
        discard(item)


def with_grid(reader: Reader, head: table.Row, header: Header) -> tuple[table.Row, Header]:
    """Return the newest version that says its wavelengths: one without them says nothing about its channels."""
    if header.grid is not None:
        return head, header
    rows = reader.engine.query(lambda con: table.list_versions(con, head["name"]))
    for row in reversed(rows):
        samples = readable(reader, row) if row["first_wavelength"] is not None else None
        if samples is not None and samples.header.n_channels == header.n_channels:
            return row, samples.header
    return head, header


def readable(reader: Reader, head: table.Row) -> Samples | None:
    """Return the samples of the newest version; none where they are damaged, so that it can be stored again."""
    try:
        return reader.samples_of(head)
    except (BlobMissing, BlobCorrupt):
        return None


@contextmanager
def claiming(engine: Engine, artifact_ids: Sequence[str]) -> Iterator[None]:
    """Hold files that a new version is to share against a gc."""
    # The session's row comes before any claim of its.
    with engine.recording():
        pass
    with engine.recorder.claiming(*artifact_ids):
        yield
    engine.recorder.release_claims()


def _known_rows(
    reader: Reader, head: table.Row, old: Samples, X: NDArray[Any], hashes: Sequence[bytes]
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
    paths = reader.paths(head)
    try:
        for start in range(0, new.size, step):
            some = slice(start, start + step)
            stored, given = reader.read(head, old, known[some], paths), np.ascontiguousarray(X[new[some]])
            kept[some] = (stored.view(np.uint8) == given.view(np.uint8)).all(axis=1)
    except (BlobMissing, BlobCorrupt):
        return parts, places  # storing them again heals what is damaged
    new, known = new[kept], known[kept]
    parts[new] = old.frame[PART].to_numpy()[known]
    places[new] = old.frame[ROW].to_numpy()[known]
    return parts, places


def finish(
    engine: Engine, item: table.Item, samples: Samples, head: table.Row | None, old: Samples | None
) -> None:
    """Complete a version: name only the files that it uses, write its samples, fill its columns."""
    header, frame = samples.header, samples.frame
    parts = [part for part in frame[PART].unique().sort().to_list() if part < len(item.shared)]
    numbers = {part: number for number, part in enumerate([*parts, len(item.shared)])}
    frame = frame.with_columns(pl.col(PART).replace_strict(numbers, return_dtype=pl.Int32))
    item.shared = [item.shared[part] for part in parts]
    samples = Samples(header, frame)
    item.samples = engine.blobs.draft()
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
    # Older versions of this library hashed infinite references as missing ones.
    if head is not None and old is not None and head["content_hash"] == item.values["content_hash"]:
        item.unlike = head["dataset_version_id"] if old.content_hash() != head["content_hash"] else None


def _hashes_of(X: NDArray[Any]) -> list[bytes]:
    """Hash the spectra of a matrix block by block."""
    step = max(1, BLOCK // (X.shape[1] * X.itemsize))
    return [digest for start in range(0, len(X), step) for digest in spectrum_hashes(X[start : start + step])]


def discard(item: table.Item) -> None:
    """Remove the drafts of a version that was not recorded, or has taken them over."""
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


def refuse_other_grid(head: table.Row, old: Header, new: Header, what_is_new: str, advice: str) -> None:
    """Refuse channels, wavelengths or a unit that the newest version of the name does not have."""
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
        f"{what_is_new} has {what}. Chains of the one cannot predict the other. Nothing was stored. {advice}"
    )
