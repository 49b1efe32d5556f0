"""Read versions of data sets: rows of the catalog, samples, spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.blobs.cache import ByteLRU
from nirs_store.datasets import rows as table
from nirs_store.datasets.matrix import take_rows
from nirs_store.datasets.samples import GROUP, HASH, ID, PART, ROW, Samples
from nirs_store.datasets.version import DatasetVersion, parse_reference
from nirs_store.db.session import Engine
from nirs_store.errors import BlobCorrupt, BlobMissing
from nirs_store.reading import Spectra
from nirs_store.reading.spectra import DatasetRows, Source
from nirs_store.values import as_text

CACHE = 64 << 20


class Reader:
    """Reads for one store; keeps the tables of samples that were read last."""

    def __init__(self, engine: Engine, cache: ByteLRU[str, Samples] | None = None) -> None:
        self.engine = engine
        self._samples: ByteLRU[str, Samples] = ByteLRU(CACHE) if cache is None else cache

    def spectra(
        self, row: table.Row, samples: Samples, some: NDArray[np.int64], target: str | Sequence[str] | None
    ) -> Spectra:
        """Return rows of a version as a caller gets them."""
        from nirs_store.reading.spectra import targets_of

        header, name = samples.header, f"{row['name']}@v{row['version']}"
        part = Samples(header, samples.frame[some])
        source = Source(Path(name), row["content_hash"])
        grid = header.grid
        names = header.channel_names or ([] if grid is None else [f"{value:g}" for value in grid])
        understood = DatasetVersion.of(row).contents
        if some.size < row["n_samples"]:
            understood = f"{some.size:,} of {understood}"
        spectra = Spectra(
            X=self.read(row, samples, some, self.paths(row)),
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

    def paths(self, row: table.Row) -> dict[str, str]:
        """Return where the files of a version's spectra are."""
        return self.engine.query(lambda con: table.paths_of(con, row["spectra_ids"]), notes=False)

    def read(
        self, row: table.Row, samples: Samples, some: NDArray[np.int64], paths: Mapping[str, str]
    ) -> NDArray[Any]:
        """Read rows of a version, each compared with its hash."""
        frame, ids = samples.frame, row["spectra_ids"]
        hashes = frame[HASH].gather(some).to_list()

        def path_of(part: int) -> Path:
            if ids[part] not in paths:
                raise BlobMissing(
                    f"{row['name']}@v{row['version']}: the row of its spectra is missing. Run `nirs-store check`."
                )
            return self.engine.blobs.path_of(paths[ids[part]])

        return take_rows(
            path_of,
            frame[PART].to_numpy()[some],
            frame[ROW].to_numpy()[some],
            hashes,
            np.dtype(samples.header.dtype).newbyteorder("<"),
            samples.header.n_channels,
        )

    def row(self, reference: object) -> table.Row:
        """Return the row of a version."""
        if isinstance(reference, DatasetVersion):
            return self.engine.query(lambda con: table.require(con, reference.dataset_version_id, None))
        name, version = parse_reference(as_text(reference, "reference"))
        return self.engine.query(lambda con: table.require(con, name, version))

    def samples_of(self, row: table.Row) -> Samples:
        """Return the samples of a version, compared with what its row says of them."""
        known = self._samples.get(row["samples_id"])
        name = f"{row['name']}@v{row['version']}"
        if known is None:
            paths = self.engine.query(lambda con: table.paths_of(con, [row["samples_id"]]))
            if row["samples_id"] not in paths:
                raise BlobMissing(
                    f"The samples of {name} are missing: their row is gone. Run `nirs-store check`."
                )
            data = self.engine.blobs.read(paths[row["samples_id"]], row["samples_id"])
            known = Samples.read(data, name, len(row["spectra_ids"]))
            self._samples.put(row["samples_id"], known, len(data))
        if (known.frame.height, known.header.n_channels) != (row["n_samples"], row["n_channels"]):
            raise BlobCorrupt(f"{name} is not what its row says: run `nirs-store check --read-data`.")
        return known
