"""Which chains have seen a sample, and what a recorded chain has seen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.datasets import rows as table
from nirs_store.datasets.samples import HASH, ID, Samples
from nirs_store.datasets.version import DatasetVersion
from nirs_store.display import counted
from nirs_store.errors import InvalidInput, RecordingWarning
from nirs_store.ids import spectrum_hashes
from nirs_store.lazy import polars as pl
from nirs_store.values import as_array

ROLES = {"calibration": "fitted", "test": "test"}
"""What a chain did with a data set, and how its columns begin."""


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


def in_common(first: Samples, second: Samples) -> pl.DataFrame:
    """List spectra that two sets of samples share: row and name in each."""

    def side(samples: Samples, suffix: str) -> pl.DataFrame:
        frame = samples.frame
        name = (pl.col(ID) if ID in frame.columns else pl.lit(None)).cast(pl.String)
        row = pl.int_range(pl.len(), dtype=pl.Int64)
        return pl.DataFrame(frame.select(row.alias(f"row{suffix}"), name.alias(f"sample{suffix}"), HASH))

    both = side(first, "").join(side(second, "_other"), on=HASH, maintain_order="left_right")
    return both.select("sample", "sample_other", "row", "row_other")
