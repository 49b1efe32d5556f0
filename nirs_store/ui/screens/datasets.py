"""Data sets: the list, and one version with its spectra, references, samples, differences and chains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from nirs_store.errors import BlobCorrupt, BlobMissing, BlobUnreadable, InvalidInput, quoted
from nirs_store.lazy import polars as pl
from nirs_store.plots._figure import axis_words
from nirs_store.store import WorkspaceStore
from nirs_store.ui.chart import over_channels, short
from nirs_store.ui.figure import Figure
from nirs_store.ui.frame import Download, Request, Screen, View, address
from nirs_store.ui.table import Column, Table, decimals_of, list_of, number_text, table_of, to

#: So many lines can still be told apart; they are taken evenly over the value that colors them.
_DRAWN, _CHANNELS, _GROUPS, _SHADES, _HISTOGRAMS, _NAMED = 150, 350, 8, 6, 6, 60


def named_address(path: str, name: str, version: str = "", end: str = "", **values: Any) -> str:
    """Return the address of a thing with a name; a name that a path cannot hold goes into the query."""
    plain = "/" not in name and name not in ("_", ".", "..")
    if plain:
        return address(f"{path}/{quote(name + version, safe='@')}{end}", **values)
    return address(f"{path}/_{end}", name=name + version, **values)


def asked_for(request: Request, part: str) -> str:
    """Return the name in an address that `named_address` made."""
    return request.text("name") or request.parts[part]


def _link(row: Mapping[str, Any]) -> str:
    return named_address("/datasets", row["name"], f"@v{row['version']}")


_VERSIONS = (
    Column("name", "Data set", link=_link), Column("version", kind="whole", link=_link),
    Column("samples", kind="whole"), Column("channels", kind="whole"), Column("unit"),
    Column("labels", "References", "list"), Column("kind"), Column("dtype", "Numbers", hidden=True),
    Column("bytes", "Brought", "bytes", hint="Bytes that are new in this version"), Column("note", longest=60),
    Column("created_at", "Added", "time"), Column("dataset_version_id", "Id", "id", hidden=True),
)  # fmt: skip


def listing(request: Request) -> View:
    """List data sets, each with its newest version."""
    empty = "No data set was added yet: nirs-store datasets add NAME FILE"
    words = "The newest version of each; a version never changes."
    return list_of(
        request, "Data sets", request.store.datasets.list(), _VERSIONS, words, empty=empty, name="datasets"
    )


def one(request: Request) -> View:
    """Show one version."""
    store, sample = request.store, request.text("sample")
    version = store.datasets.version(asked_for(request, "reference"))
    damaged: list[str] = []
    samples = _read(damaged, lambda: store.datasets.samples(version), pl.DataFrame())
    versions = store.datasets.versions(version.name).reverse()
    numbers = versions["version"].to_list()
    colors = [name for name in samples.columns if name != "id" and _colors(samples[name])]
    color = request.text("color", next((name for name in version.labels if name in colors), ""))
    if color and color not in colors:
        raise InvalidInput(
            f"color: expected one of {', '.join(colors) or 'no column'}, found {quoted(color)}."
        )
    before = max((each for each in numbers if each < version.version), default="")
    against = request.text("against") or str(before)
    spectra = _read(damaged, lambda: _spectra(store, version, samples, color), None)
    histograms: list[Figure] = _read(damaged, lambda: _histograms(store, version, samples), [])
    older = f"{version.name}@v{against}"
    diff = _read(damaged, lambda: store.datasets.diff(older, version), None) if against else None
    chains, table = _chains(request, version.reference, sample), _samples(request, samples, version)
    shown = [each for each in _VERSIONS if each.name != "name"]
    values = {
        "dataset": version, "facts": _facts(version), "spectra": spectra, "histograms": histograms,
        "drawn": min(_DRAWN, version.n_samples), "colors": colors, "color": color, "against": against, "diff": diff,
        "others": [each for each in numbers if each != version.version], "named": _NAMED, "table": table,
        "sample": sample, "chains": chains, "calibrations": _calibrations(store, version),
        "versions": table_of(request, versions, shown, prefix="v_", name="versions"),
        "base": named_address("/datasets", version.name, f"@v{version.version}"), "damaged": [*dict.fromkeys(damaged)],
    }  # fmt: skip
    data = {"version": version, "versions": versions, "diff": diff, "chains": chains, "samples": table,
            "figures": [spectra, *histograms], "damaged": values["damaged"]}  # fmt: skip
    return View("dataset.html", version.reference, values, data=data, table=table)


def _read(damaged: list[str], read: Callable[[], Any], otherwise: Any) -> Any:
    """Return what is read, or what is shown where the file is damaged: the rest of the screen does without it."""
    try:
        return read()
    except (BlobMissing, BlobCorrupt, BlobUnreadable) as error:
        damaged.append(str(error))
        return otherwise


def _facts(version: Any) -> dict[str, Any]:
    made = version.selection or {}
    rule = f"where {made['where']}" if made.get("where") else f"chosen by {made.get('by', '')}"
    turned = ", all others" if made.get("invert") else ""
    return {
        "Selection": f"of {made.get('of')}, {rule}{turned}" if made else None,
        "Note": version.note,
        "Wavelengths": version.grid_text,
        "Numbers": version.dtype,
        **{f"Instrument: {name}": value for name, value in version.instrument.items()},
        **{name: value for name, value in version.metadata.items() if value not in (None, {}, [])},
        "Hash of the content": version.content_hash,
        "Id": version.dataset_version_id,
    }


def _calibrations(store: WorkspaceStore, version: Any) -> list[tuple[str, int]]:
    found = store.sql(
        "SELECT name, version FROM calibration_versions WHERE dataset_version_id = ? ORDER BY name, version",
        [version.dataset_version_id],
    )
    return list(found.iter_rows())


def _samples(request: Request, samples: pl.DataFrame, version: Any) -> Table:
    base = named_address("/datasets", version.name, f"@v{version.version}")

    def chains(row: Mapping[str, Any]) -> str:
        return f"{base}{'&' if '?' in base else '?'}sample={quote(str(row['id']), safe='')}#chains"

    number = "row" if "row" not in samples.columns else "row number"
    columns = [Column(number, "Row", "whole")]
    for name, kind in samples.schema.items():
        shown = "number" if kind.is_float() else "whole" if kind.is_integer() else "text"
        of_id: dict[str, Any] = {"kind": "text", "link": chains} if name == "id" else {"kind": shown}
        columns.append(Column(name, name, longest=40, **of_id))
    return table_of(request, samples.with_row_index(number), columns, size=25,
                    empty="The samples have no names and no references.",
                    name=version.reference.replace("@", "_"))  # fmt: skip


def _chains(request: Request, reference: str, sample: str) -> Table:
    datasets = request.store.datasets
    found = datasets.chains_of(sample) if sample else datasets.chains_of(dataset=reference)
    columns = (
        Column("pipeline", "Pipeline", link=to("/chains", "chain_id")),
        Column("role", hint="Fitted on the samples, or tested with them"),
        Column("dataset", "Data set") if sample else Column("samples", kind="whole"),
        Column("target"), Column("preprocessing", longest=40), Column("model"),
        Column("run_id", "Run", "id", link=to("/runs", "run_id")), Column("created_at", "Recorded", "time"),
        Column("chain_id", "Id", "id", link=to("/chains", "chain_id")),
    )  # fmt: skip
    empty = "No chain that was recorded from a data set has seen this sample."
    empty = empty if sample else "No chain was recorded from it."
    return table_of(request, found.reverse(), columns, prefix="c_", size=20, empty=empty, name="chains")


# -- Figures.


def _colors(column: pl.Series) -> str:
    """Say how a column can color spectra: as numbers, as groups, or not."""
    known = column.drop_nulls()
    if column.dtype.is_numeric():
        return "number" if known.len() and (known.cast(pl.Float64).is_finite()).any() else ""
    return "group" if known.len() and known.dtype in (pl.String, pl.Boolean, pl.Categorical) else ""


def _spectra(store: WorkspaceStore, version: Any, samples: pl.DataFrame, color: str) -> Figure:
    """Draw some spectra, evenly over the values of a column, in its colors."""
    n, kind = version.n_samples, _colors(samples[color]) if color else ""
    order = np.arange(n)
    if kind:
        order = samples[color].rank("ordinal").fill_null(n).to_numpy().argsort(kind="stable")
    rows = np.sort(order[np.unique(np.linspace(0, n - 1, min(n, _DRAWN)).astype(int))]) if n else order[:0]
    read, signal = store.datasets.get(version, rows=rows), str(version.instrument.get("signal") or "Signal")
    channels = version.n_channels
    figure, axis = over_channels("Spectra", channels, read.wavelengths, version.unit, signal, width=720)
    if read.wavelengths is None:
        figure.x = "Channel"
    some = np.unique(np.linspace(0, channels - 1, min(channels, _CHANNELS)).astype(int))
    names = [str(each) for each in read.ids] if read.ids is not None else [f"row {row}" for row in rows]
    classes, legend = ["cv"] * len(rows), dict[str, str]()
    if kind:
        shown = samples[color].gather(rows)
        classes, legend = _classes(samples[color], shown, kind)
        names = [f"{name}\n{color} {_value(cell)}" for name, cell in zip(names, shown, strict=True)]
    for k in sorted(range(len(rows)), key=lambda k: classes[k] != "faint"):
        figure.line(axis[some], read.X[k, some], f"{classes[k]} thin", title=names[k])
    for words, name in legend.items():
        figure.entry(words, name, "line")
    return figure


def _value(value: Any) -> str:
    return "not known" if value is None else short(value) if isinstance(value, float) else str(value)


def _classes(every: pl.Series, shown: pl.Series, kind: str) -> tuple[list[str], dict[str, str]]:
    """Return the color of each spectrum, and the legend."""
    if kind == "group":
        counts = every.cast(pl.String).drop_nulls().value_counts(sort=True)
        largest = sorted(counts[every.name].head(_GROUPS).to_list())
        color = {name: f"s{place}" for place, name in enumerate(largest)}
        found = [color.get(each, "faint") for each in shown.cast(pl.String).to_list()]
        return found, color | ({"others": "faint"} if "faint" in found else {})
    values = every.cast(pl.Float64).to_numpy()
    low, high = float(np.nanmin(values[np.isfinite(values)])), float(np.nanmax(values[np.isfinite(values)]))
    wide = (high - low) or 1.0
    found = [
        f"v{min(int(_SHADES * (each - low) / wide), _SHADES - 1)}" if np.isfinite(each) else "faint"
        for each in shown.cast(pl.Float64).fill_null(float("nan")).to_list()
    ]
    edges = [low + wide * k / _SHADES for k in range(_SHADES + 1)]
    words = [number_text(each, decimals_of(edges)) for each in edges]
    legend = {f"{words[k]} to {words[k + 1]}": f"v{k}" for k in range(_SHADES) if f"v{k}" in found}
    return found, legend | ({"no value": "faint"} if "faint" in found else {})


def _histograms(store: WorkspaceStore, version: Any, samples: pl.DataFrame) -> list[Figure]:
    known = [name for name in version.labels if name in samples.columns]
    numbers = [name for name in known if samples[name].dtype.is_numeric()][:_HISTOGRAMS]
    # The units come with the targets of a single row.
    some = numbers and samples.height
    target_units = store.datasets.get(version, rows=[0], target=numbers).target_unit if some else None
    units: Sequence[str] = target_units if isinstance(target_units, tuple) else [""] * len(numbers)
    figures = []
    for name, unit in zip(numbers, units, strict=True):
        values = samples[name].cast(pl.Float64).to_numpy()
        values = values[np.isfinite(values)]
        if values.size:
            spread = f", SD {short(float(values.std(ddof=1)))}" if values.size > 1 else ""
            title = f"{name}: n {values.size}, mean {short(float(values.mean()))}{spread}"
            figures.append(
                Figure(title, axis_words("", name, unit), "Samples", width=360, height=230).histogram(
                    values, "cv"
                )
            )
    return figures


def export(request: Request) -> Download:
    """Send a version with its spectra as a table."""
    datasets = request.store.datasets
    version = datasets.version(asked_for(request, "reference"))
    kinds = {kind: (kind, lambda path: datasets.export(version, path)) for kind in ("csv", "parquet")}
    return Download.chosen(request, f"{version.name}_v{version.version}", kinds)


SCREENS = (
    Screen("/datasets", listing, "Data sets", keeps=True),
    Screen("/datasets/{reference}", one, keeps=True),
    Screen("/datasets/{reference}/export", export, method="POST"),
)
