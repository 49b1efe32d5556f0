"""Which chains have seen a sample, and what a recorded chain has seen."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nirs_store.datasets import rows as table
from nirs_store.datasets.samples import HASH, ID, Samples
from nirs_store.datasets.version import DatasetVersion
from nirs_store.display import counted
from nirs_store.errors import InvalidInput, RecordingWarning, UnknownDataset, quoted
from nirs_store.ids import spectrum_hashes
from nirs_store.lazy import polars as pl
from nirs_store.values import as_array

ROLES = {"calibration": "fitted", "test": "test"}
"""What a chain did with a data set, and how its columns begin."""


class Part(NamedTuple):
    """Samples that a chain has seen: a version of a data set and rows of it."""

    version_id: str
    rows: NDArray[np.int64]


def part_of(chain: Mapping[str, Any], role: str, samples: Callable[[str], int]) -> Part:
    """Return what a chain was fitted on, or tested with."""
    if role not in ROLES:
        raise InvalidInput(f"role: expected 'calibration' or 'test', found {quoted(role)}.")
    prefix = "dataset" if role == "calibration" else "dataset_test"
    metadata = chain.get("metadata") or {}
    version_id = metadata.get(f"{prefix}_version_id")
    if not isinstance(version_id, str):
        raise InvalidInput(
            f"The {role} samples of chain {chain['chain_id']} are not in a stored data set: only their hash was kept. "
            "Record with dataset='corn@v2' to keep both together."
        )
    try:
        n = samples(version_id)
    except UnknownDataset:
        name = metadata.get(prefix)
        raise UnknownDataset(
            version_id, f"The chain {chain['chain_id']} was recorded from {name}, which has been deleted."
        ) from None
    return Part(version_id, table.rows_in(metadata.get(f"{prefix}_rows"), n))


def sought_rows(samples: Samples, sample: Any, spectra: Any) -> NDArray[np.int64]:
    """Return the rows of a sample, by its name or by its spectrum."""
    frame = samples.frame
    if spectra is not None:
        found = np.atleast_2d(as_array(spectra, "spectra"))
        if found.dtype.kind not in "fiu" or found.ndim != 2:
            raise InvalidInput(f"spectra: expected numbers, found {found.dtype} of shape {found.shape}.")
        if found.shape[1] != samples.header.n_channels:
            return np.arange(0)
        return np.flatnonzero(frame[HASH].is_in(spectrum_hashes(found)).to_numpy())
    if ID not in frame.columns:
        return np.arange(0)
    return np.flatnonzero((frame[ID].cast(pl.String) == str(sample)).to_numpy())


def chains_frame(
    chains: list[table.Row],
    versions: Mapping[str, tuple[DatasetVersion, NDArray[np.int64]]],
    *,
    only: bool = False,
) -> pl.DataFrame:
    """List the chains that have seen rows of the versions; warn of those whose data set is gone, unless `only`."""
    cells, gone = [], 0
    for chain in chains:
        for role, prefix in ROLES.items():
            version_id = chain[f"{prefix}_id"]
            if version_id is None:
                continue
            if version_id not in versions:
                gone += not only
                continue
            version, sought = versions[version_id]
            rows = table.rows_in(chain[f"{prefix}_rows"], version.n_samples)
            seen = int(np.isin(sought, rows).sum())
            if seen:
                cells.append(
                    (
                        chain["chain_id"], role, version.reference, chain["target"], chain["preprocessings"],
                        chain["model_class"].rpartition(".")[2], chain["pipeline_name"], chain["run_id"],
                        chain["created_at"], seen,
                    )
                )  # fmt: skip
    if gone:
        warnings.warn(
            f"Chains were recorded from data sets that have been deleted ({gone} in all): whether they have seen the "
            "sample is not known.",
            RecordingWarning,
            stacklevel=3,
        )
    names = ("chain_id", "role", "dataset", "target", "preprocessing", "model", "pipeline", "run_id")
    schema: dict[str, Any] = dict.fromkeys(names, pl.String) | {
        "created_at": pl.Datetime("us"),
        "samples": pl.Int64,
    }
    frame = pl.DataFrame(cells, schema=schema, orient="row")
    return frame.with_columns(pl.col("created_at").dt.replace_time_zone("UTC"))


def warn_of_arrays(count: int) -> None:
    """Say that nothing is known of chains that were not recorded from a stored data set."""
    if count:
        told = counted(count, "chain was", "chains were")
        warnings.warn(
            f"{told} recorded from arrays: whether they have seen the sample is not known. Record with "
            "dataset='corn@v2' to keep both together.",
            RecordingWarning,
            stacklevel=3,
        )


def in_common(
    first: Samples, rows: NDArray[np.int64], second: Samples, others: NDArray[np.int64]
) -> pl.DataFrame:
    """List spectra that two sets of samples share: row and name in each."""

    def side(samples: Samples, chosen: NDArray[np.int64], suffix: str) -> pl.DataFrame:
        frame = samples.frame[chosen]
        name = (
            frame[ID].cast(pl.String)
            if ID in frame.columns
            else pl.Series("", [None] * frame.height, pl.String)
        )
        return pl.DataFrame({f"row{suffix}": chosen, f"sample{suffix}": name, HASH: frame[HASH]})

    both = side(first, rows, "").join(side(second, others, "_other"), on=HASH, maintain_order="left_right")
    return both.select("sample", "sample_other", "row", "row_other")
