"""Choose samples of a version, compare two versions, and find the chains that have seen a sample."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains.grids import same_grid
from nirs_store.datasets import rows as table
from nirs_store.datasets.given import rows_of
from nirs_store.datasets.samples import GROUP, HASH, ID, Samples, identity, label, labels_of
from nirs_store.datasets.version import DatasetDiff, DatasetVersion
from nirs_store.display import counted
from nirs_store.errors import InvalidInput, RecordingWarning, quoted
from nirs_store.ids import spectrum_hashes
from nirs_store.lazy import polars as pl
from nirs_store.reading import Spectra
from nirs_store.values import as_array, as_text


def askable(samples: Samples) -> pl.DataFrame:
    """Return what a condition can be about; a column of the user goes before ours of the same name."""
    frame = samples.references
    own = [
        (name, column) for name, column in (("id", ID), ("group", GROUP)) if column in samples.frame.columns
    ]
    first = [samples.frame[column].alias(name) for name, column in own if name not in frame.columns]
    return pl.DataFrame([*first, *frame.get_columns()])


def chosen(samples: Samples, ids: Any, rows: Any, where: str | None) -> NDArray[np.int64]:
    """Return the rows that are asked for: of all that are given, what fits each."""
    n = samples.frame.height
    found = np.arange(n)
    if rows is not None:
        found = _row_numbers(rows, n)
    if where is not None:
        frame = askable(samples)
        try:
            mask = (
                frame.with_row_index("@row").filter(pl.sql_expr(as_text(where, "where")))["@row"].to_numpy()
            )
        except pl.exceptions.PolarsError as error:
            raise InvalidInput(
                f"where: {quoted(where)} is not a condition over {', '.join(frame.columns) or 'any column'}: {error}"
            ) from error
        found = found[np.isin(found, mask)]
    if ids is not None:
        if ID not in samples.frame.columns:
            raise InvalidInput("ids: the samples of this data set have no names. Choose by rows or where.")
        named = rows_of(samples.frame, ids, ID)
        found = named[np.isin(named, found)] if rows is not None or where is not None else named
    return found


def _row_numbers(rows: Any, n: int) -> NDArray[np.int64]:
    if isinstance(rows, slice):
        return np.arange(n)[rows]
    array = np.atleast_1d(as_array(list(rows) if isinstance(rows, range) else rows, "rows"))
    if array.dtype == bool and array.shape == (n,):
        return np.flatnonzero(array)
    if array.size and (array.ndim != 1 or array.dtype.kind not in "iu"):
        raise InvalidInput(
            f"rows: expected row numbers or a mask of {n}; found {array.dtype} of shape {array.shape}."
        )
    found = array.astype(np.int64)
    if found.size and (found.min() < -n or found.max() >= n):
        raise InvalidInput(f"rows: expected numbers below {n}; found {int(np.abs(found).max())}.")
    return np.where(found < 0, found + n, found)


def channel_columns(spectra: Spectra, taken: Sequence[str]) -> list[str]:
    """Name the columns of an exported table: wavelengths, or counted channels."""
    if spectra.wavelengths is None:
        names = list(spectra.channel_names)
        return [f"channel {name}" if name in taken else name for name in names]
    return [repr(float(value)) if value % 1 else str(int(value)) for value in spectra.wavelengths]


def listing(rows: Sequence[table.Row]) -> pl.DataFrame:
    """Make the table of some versions."""
    schema: dict[str, Any] = {
        "name": pl.String, "version": pl.Int64, "kind": pl.String, "n_samples": pl.Int64, "n_channels": pl.Int64,
        "dtype": pl.String, "unit": pl.String, "labels": pl.List(pl.String), "size_bytes": pl.Int64,
        "note": pl.String, "created_at": pl.Datetime("us"), "dataset_version_id": pl.String,
    }  # fmt: skip
    cells = [{name: row[name] for name in schema} | {"labels": row["labels"] or []} for row in rows]
    found = pl.DataFrame(cells, schema=schema)
    shown = {"n_samples": "samples", "n_channels": "channels", "size_bytes": "bytes"}
    return found.with_columns(pl.col("created_at").dt.replace_time_zone("UTC")).rename(shown)


def _pairs(left: pl.DataFrame, right: pl.DataFrame, named: bool) -> pl.DataFrame:
    """Return the places of the samples that are in both tables, as ``@place`` and ``@other``."""
    # Equal spectra of one name belong together wherever they are among its replicates; what is left of the name is
    # taken in order.
    found = pl.DataFrame(schema={"@place": pl.UInt32, "@other": pl.UInt32})
    for keys in ([ID, HASH], [ID]) if named else ([HASH],):
        here = identity(left.join(found, on="@place", how="anti", maintain_order="left"), keys)
        there = right.join(found, left_on="@place", right_on="@other", how="anti", maintain_order="left")
        other = identity(there, keys).select(*keys, "@replicate", pl.col("@place").alias("@other"))
        same = here.join(other, on=[*keys, "@replicate"]).select("@place", "@other")
        found = pl.concat([found, same])
    return found


def difference(old: table.Row, before: Samples, new: table.Row, after: Samples) -> DatasetDiff:
    """Compare two versions sample by sample."""
    names = [f"{row['name']}@v{row['version']}" for row in (old, new)]
    named = ID in before.frame.columns and ID in after.frame.columns
    left, right = before.frame.with_row_index("@place"), after.frame.with_row_index("@place")
    if named:
        left, right = (each.with_columns(pl.col(ID).cast(pl.String)) for each in (left, right))
    pairs = _pairs(left, right, named)
    first = right.join(pairs, left_on="@place", right_on="@other", how="anti", maintain_order="left")
    gone = left.join(pairs, on="@place", how="anti", maintain_order="left")
    both = left.join(pairs, on="@place", maintain_order="left").join(
        right, left_on="@other", right_on="@place", suffix="@after", maintain_order="left"
    )
    shown = ID if named else "@place"
    known, here = labels_of(before.frame), labels_of(after.frame)
    changed = both.filter(pl.col(HASH) != pl.col(f"{HASH}@after"))[ID].to_list() if named else []
    corrected = []
    for name in [name for name in known if name in here]:
        column, other = label(name), f"{label(name)}@after"
        kinds = both.schema[column], both.schema[other]
        kind = pl.Float64() if all(each.is_numeric() for each in kinds) else pl.String()
        where = both.filter(pl.col(column).cast(kind).ne_missing(pl.col(other).cast(kind)))
        corrected.append(
            where.select(
                pl.col(shown).cast(pl.String).alias("sample"),
                pl.lit(name).alias("column"),
                pl.col(column).cast(pl.String).alias("before"),
                pl.col(other).cast(pl.String).alias("after"),
            )
        )
    empty = pl.DataFrame(schema=dict.fromkeys(("sample", "column", "before", "after"), pl.String))
    a, b = before.header, after.header
    same = (a.grid is None) == (b.grid is None) and (a.n_channels, a.unit) == (b.n_channels, b.unit)
    if same and a.grid is not None and b.grid is not None:
        same = same_grid(a.grid, b.grid)
    return DatasetDiff(
        names[0],
        names[1],
        tuple(first[shown].to_list()),
        tuple(gone[shown].to_list()),
        tuple(changed),
        pl.concat([empty, *corrected]),
        tuple(name for name in here if name not in known),
        tuple(name for name in known if name not in here),
        not same,
    )


# -- Which chains have seen a sample.

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
    for chain, (role, prefix) in itertools.product(chains, ROLES.items()):
        version_id = chain[f"{prefix}_id"]
        if version_id not in versions:
            gone += version_id is not None and not only
            continue
        version, sought = versions[version_id]
        seen = int(np.isin(sought, table.rows_in(chain[f"{prefix}_rows"], version.n_samples)).sum())
        if seen:
            model = chain["model_class"].rpartition(".")[2]
            cells.append(
                (
                    chain["chain_id"], role, version.reference, chain["target"], chain["preprocessings"], model,
                    chain["pipeline_name"], chain["run_id"], chain["created_at"], seen,
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
        counts = counted(count, "chain was", "chains were")
        warnings.warn(
            f"{counts} recorded from arrays: whether they have seen the sample is not known. Record with "
            "dataset='corn@v2' to keep both together.",
            RecordingWarning,
            stacklevel=3,
        )


def common_spectra(first: Samples, second: Samples) -> pl.DataFrame:
    """List spectra that two sets of samples share: row and name in each."""

    def side(samples: Samples, suffix: str) -> pl.DataFrame:
        frame = samples.frame
        name = (pl.col(ID) if ID in frame.columns else pl.lit(None)).cast(pl.String)
        row = pl.int_range(pl.len(), dtype=pl.Int64)
        return pl.DataFrame(frame.select(row.alias(f"row{suffix}"), name.alias(f"sample{suffix}"), HASH))

    both = side(first, "").join(side(second, "_other"), on=HASH, maintain_order="left_right")
    return both.select("sample", "sample_other", "row", "row_other")
