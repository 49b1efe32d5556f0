"""Bars of ratios, and cost against size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.clock import median

_COLOURS = {"floor": "#9e9e9e", "plain": "#8d6e63", "mlflow": "#1e88e5", "nirs4all": "#8e24aa"}
_LABELS = {"floor": "floor", "plain": "plain script", "mlflow": "MLflow", "nirs4all": "nirs4all"}
_BARS = (
    ("W1", "total_s", "W1 record"),
    ("W2", "save_ms", "W2 save again"),
    ("W3", "top10_ms@100000", "W3 top 10"),
    ("W3", "means_ms@100000", "W3 group means"),
    ("W4", "warm_ms", "W4 replay, warm"),
    ("W4", "cold_s", "W4 replay, cold"),
    ("W5", "joblib_export_ms", "W5 export"),
    ("W6", "clean_s", "W6 clean up"),
    ("W8", "import_ms", "W8 import"),
)
_LETTER = {"svg.hashsalt": "nirs_store", "font.size": 9, "figure.dpi": 120}


def draw(results: Mapping[str, Any], folder: Path) -> None:
    """Write ``ratios.png`` and ``growth.png``, as far as the rows go."""
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_LETTER):
        _ratios(results["rows"], folder / "ratios.png")
        _growth(results["rows"], folder / "growth.png")


def _values(rows: list[dict[str, Any]], workload: str, peer: str, metric: str) -> dict[int, float]:
    return {
        row["round"]: row["metrics"][metric]
        for row in rows
        if row["workload"] == workload and row["peer"] == peer and metric in row["metrics"]
    }


def _ratios(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib.pyplot as plt

    bars: list[tuple[str, str, float]] = []
    for workload, metric, label in _BARS:
        ours = _values(rows, workload, "nirs_store", metric)
        for peer in _COLOURS:
            theirs = _values(rows, workload, peer, metric)
            ratios = [theirs[turn] / ours[turn] for turn in theirs if turn in ours]
            if ratios:
                bars.append((label, peer, median(ratios)))
    if not bars:
        return
    labels = list(dict.fromkeys(label for label, _, _ in bars))
    peers = [peer for peer in _COLOURS if any(bar[1] == peer for bar in bars)]
    figure, axes = plt.subplots(figsize=(7.2, 0.55 * len(labels) + 1.2), layout="constrained")
    height = 0.8 / len(peers)
    for number, peer in enumerate(peers):
        own = [(labels.index(label), ratio) for label, who, ratio in bars if who == peer]
        places = [place + (number - (len(peers) - 1) / 2) * height for place, _ in own]
        axes.barh(places, [r - 1 for _, r in own], height, left=1, color=_COLOURS[peer], label=_LABELS[peer])
    axes.axvline(1, color="#00796b", linewidth=2)
    axes.set_xscale("log")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("time relative to nirs_store (right of the line: nirs_store is faster)")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _growth(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained")
    for row in rows:
        if row["workload"] == "W9":
            curve = [v for name, v in sorted(row["metrics"].items()) if name.startswith("curve_")]
            step = row["metrics"]["pipelines"] / len(curve)
            left.plot([step * (i + 1) for i in range(len(curve))], curve, color="#00796b", alpha=0.7)
    left.set_ylim(bottom=0)
    left.set_xlabel("pipelines recorded")
    left.set_ylabel("ms a pipeline (W9)")
    for name, label in (("top10_ms", "top 10"), ("means_ms", "group means")):
        for suffix, style, who in (("", "-", "nirs_store"), ("_bare", ":", "bare DuckDB")):
            points: dict[int, list[float]] = {}
            for row in rows:
                if row["workload"] == "W3" and row["peer"] == "nirs_store":
                    for key, value in row["metrics"].items():
                        stem, _, size = key.partition("@")
                        if stem == name.replace("_ms", f"{suffix}_ms"):
                            points.setdefault(int(size), []).append(value)
            sizes = sorted(points)
            colour = "#00796b" if name == "top10_ms" else "#ef6c00"
            if sizes:
                right.plot(
                    sizes,
                    [median(points[s]) for s in sizes],
                    style,
                    marker="o",
                    markersize=3,
                    color=colour,
                    label=f"{label}, {who}",
                )
    if right.lines:
        right.set_xscale("log")
        right.set_yscale("log")
        right.legend(frameon=False, fontsize=7)
    right.set_xlabel("predictions in the store")
    right.set_ylabel("ms a question (W3)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
