"""Tables and plots from the rows of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.clock import median
from benchmarks.goals import figures, verdict
from benchmarks.paths import IMAGES, ROOT, TABLES

Results = Mapping[str, Any]
_NAMES = {
    "nirs_store": "nirs_store",
    "plain": "plain script",
    "mlflow": "MLflow 3.17.2",
    "nirs4all": "nirs4all 1.4.10",
    "floor": "floor",
}
# The README carries the five rows of _IN_README between these two.
_MARKS = ("<!-- benchmarks: begin -->", "<!-- benchmarks: end -->")

# What the comparison shows: workload, metric, words, unit.
_SHOWN = (
    ("W1", "total_s", "record 200 pipelines, 1,000 models, 3,000 predictions", "s"),
    ("W1", "memory_mb", "– growth of peak memory", "MB"),
    ("W1", "disk_mb", "– on disk", "MB"),
    ("W2", "save_ms", "save the same 1 MB object again", "ms"),
    ("W3", "top10_ms@100000", "top 10 of 100,000 predictions", "ms"),
    ("W3", "means_ms@100000", "mean and SD by model class, of 100,000", "ms"),
    ("W3", "cold_s@100000", "– a new process: open and top 10", "s"),
    ("W4", "warm_ms", "predict 100 spectra with a stored chain", "ms"),
    ("W4", "cold_s", "– the same as a new process", "s"),
    ("W5", "joblib_export_ms", "export a chain", "ms"),
    ("W6", "clean_s", "delete one of two runs and free its space", "s"),
    ("W8", "import_ms", "import, above a bare interpreter", "ms"),
)
_IN_README = (
    ("W1", "total_s"),
    ("W3", "top10_ms@100000"),
    ("W4", "warm_ms"),
    ("W5", "joblib_export_ms"),
    ("W6", "clean_s"),
)


def write(results: Results, *, publish: bool, beside: Path) -> str:
    """Write the Markdown and the plots; a published run also updates the documentation and the README.

    Returns
    -------
    str
        The Markdown.
    """
    text = "\n".join(_pieces(results))
    # Figures of a short run are no figures for the documentation.
    publish = publish and results["size"] == "full"
    (TABLES if publish else beside.with_suffix(".md")).write_text(text)
    from benchmarks import plots

    plots.draw(results, IMAGES if publish else beside.parent / ".cache" / "plots")
    if publish:
        _put_between_marks(ROOT / "README.md", "\n".join(_comparison(results, only=_IN_README)))
    return text


def _pieces(results: Results) -> Iterator[str]:
    machine = results["machine"]
    versions = ", ".join(
        f"{name} {machine[name]}" for name in ("duckdb", "polars", "numpy", "scikit-learn", "joblib")
    )
    yield (
        f"Machine: {machine['cores']} cores, {machine['memory_gb']} GB of memory, {machine['file_system']} on a "
        f"virtual disk, {machine['system']}, Python {machine['python']}; {versions}. Form: {results['size']}, "
        "the table of all figures says in how many rounds; medians, with the range in brackets where it is more than a "
        "tenth.\n"
    )
    for failure in results.get("failures", []):
        yield f"**Failed: {failure}**\n"
    yield "## Compared with the alternatives\n"
    yield from _comparison(results)
    yield "\n## Goals\n"
    yield "| | what | figure | goal | |\n|---|---|---|---|---|"
    for goal, values in figures(results["rows"]):
        sign = "at most" if goal.at_most else "at least"
        unit = f" {goal.unit}".replace(" x", "×")
        mark = "reached" if verdict(goal, values) else "**missed**"
        yield (
            f"| {goal.workload} | {goal.text} | {_number(values)}{unit} | {sign} {goal.limit:g}{unit} | {mark} |"
        )
    yield "\n## All figures\n"
    yield "| | peer | rounds | figures (medians) |\n|---|---|--:|---|"
    for (workload, peer), rounds in sorted(_grouped(results).items(), key=_natural):
        names = [name for name in rounds[0] if not name.startswith("curve_")]
        cells = "; ".join(f"{name} {_number([r[name] for r in rounds if name in r])}" for name in names)
        yield f"| {workload} | {_NAMES[peer]} | {len(rounds)} | {cells} |"
    yield ""


def _natural(item: tuple[tuple[str, str], Any]) -> tuple[int, str]:
    (workload, peer), _ = item
    return int(re.sub(r"\D", "", workload) or 99), peer


def _comparison(results: Results, only: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
    peers = ("nirs_store", "plain", "mlflow", "nirs4all")
    grouped = _grouped(results)
    yield "| | " + " | ".join(_NAMES[peer] for peer in peers) + " |\n|---" + "|--:" * len(peers) + "|"
    for workload, metric, words, unit in _SHOWN:
        if only and (workload, metric) not in only:
            continue
        cells = []
        for peer in peers:
            values = [r[metric] for r in grouped.get((workload, peer), []) if metric in r]
            cells.append(f"{_plain(median(values))} {unit}" if values else "–")
        if any(cell != "–" for cell in cells):
            yield f"| {words} | " + " | ".join(cells) + " |"


def _grouped(results: Results) -> dict[tuple[str, str], list[Mapping[str, float]]]:
    found: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for row in results["rows"]:
        found.setdefault((row["workload"], row["peer"]), []).append(row["metrics"])
    return found


def _plain(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _number(values: Sequence[float]) -> str:
    middle, low, high = median(values), min(values), max(values)
    text = _plain(middle)
    return f"{text} ({_plain(low)}–{_plain(high)})" if high - low > 0.1 * abs(middle) else text


def _put_between_marks(path: Path, table: str) -> None:
    text = path.read_text()
    begin, end = _MARKS
    if begin not in text or end not in text:
        raise SystemExit(f"{path} has lost its marks {begin} … {end}")
    head, rest = text.split(begin, 1)
    path.write_text(f"{head}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}")
