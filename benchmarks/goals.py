"""The goals, and whether a run reached them. Limits are not moved to fit a figure; where one moved, a word says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.clock import median

Rows = Sequence[Mapping[str, Any]]
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Goal:
    """One figure with its limit.

    `figure` gets the metrics of all peers of one round and may raise KeyError where a peer was left out.
    """

    workload: str
    text: str
    figure: Callable[[Mapping[str, Metrics]], float]
    limit: float
    at_most: bool = True
    unit: str = "x"

    def reached(self, value: float) -> bool:
        """Whether a figure is within the limit."""
        return value <= self.limit if self.at_most else value >= self.limit


def _own(name: str) -> Callable[[Mapping[str, Metrics]], float]:
    return lambda peers: peers["nirs_store"][name]


def _own_ratio(above: str, below: str) -> Callable[[Mapping[str, Metrics]], float]:
    return lambda peers: peers["nirs_store"][above] / peers["nirs_store"][below]


def _against(peer: str, name: str, *, theirs: bool = False) -> Callable[[Mapping[str, Metrics]], float]:
    if theirs:
        return lambda peers: peers[peer][name] / peers["nirs_store"][name]
    return lambda peers: peers["nirs_store"][name] / peers[peer][name]


def _large(peers: Mapping[str, Metrics]) -> str:
    """The largest W3 of a run: ``@1000000`` in the full form."""
    return "@" + str(max(int(name.partition("@")[2]) for name in peers["nirs_store"]))


def _at_large(above: str, below: str) -> Callable[[Mapping[str, Metrics]], float]:
    def figure(peers: Mapping[str, Metrics]) -> float:
        own, suffix = peers["nirs_store"], _large(peers)
        return own[above + suffix] / own[below + suffix]

    return figure


def _ahead(peer: str, name: str) -> Callable[[Mapping[str, Metrics]], float]:
    def figure(peers: Mapping[str, Metrics]) -> float:
        key = next(key for key in peers[peer] if key.startswith(name + "@"))
        return peers[peer][key] / peers["nirs_store"][key]

    return figure


def _domain_cost(peers: Mapping[str, Metrics]) -> float:
    """What the domain adds to the folds, against 5 % of a recording or 5 ms, whichever is more."""
    own = peers["nirs_store"]
    return (own["folds_ms"] - own["folds_bare_ms"]) / max(5.0, 0.05 * own["recorded_ms"])


def _more(above: str, below: str) -> Callable[[Mapping[str, Metrics]], float]:
    return lambda peers: peers["nirs_store"][above] - peers["nirs_store"][below]


GOALS = (
    Goal("W1", "time against the floor", _against("floor", "total_s"), 1.5),
    Goal("W1", "times faster than nirs4all", _against("nirs4all", "total_s", theirs=True), 8, False),
    Goal("W1", "times faster than MLflow", _against("mlflow", "total_s", theirs=True), 2.5, False),
    Goal("W1", "time against the plain script, which syncs nothing", _against("plain", "total_s"), 2.5),
    Goal("W1", "last hundred against first hundred", _own_ratio("last_ms", "first_ms"), 1.15),
    Goal("W1", "growth of peak memory", _own("memory_mb"), 100, unit="MB"),
    Goal("W1", "bytes on disk against the plain script", _against("plain", "disk_mb"), 1.0),
    Goal("W2", "a repeated save against dump to memory + SHA-256", _against("floor", "save_ms"), 3),
    Goal("W3", "top 10 against the bare DuckDB query", _at_large("top10_ms", "top10_bare_ms"), 1.5),
    Goal("W3", "group means against the bare query", _at_large("means_ms", "means_bare_ms"), 1.5),
    Goal(
        "W3", "best of each pipeline, likewise", _at_large("best_pipeline_ms", "best_pipeline_bare_ms"), 1.5
    ),
    Goal("W3", "best of each model class, likewise", _at_large("best_model_ms", "best_model_bare_ms"), 1.5),
    Goal("W3", "new process against bare imports and query", _at_large("cold_s", "cold_bare_s"), 1.5),
    Goal("W3", "top 10: times faster than nirs4all", _ahead("nirs4all", "top10_ms"), 1, False),
    Goal("W3", "top 10: times faster than MLflow", _ahead("mlflow", "top10_ms"), 1, False),
    Goal("W3", "means: times faster than nirs4all", _ahead("nirs4all", "means_ms"), 1, False),
    Goal("W3", "means: times faster than MLflow", _ahead("mlflow", "means_ms"), 1, False),
    Goal("W4", "warm replay against bare scikit-learn", _own_ratio("warm_ms", "warm_bare_ms"), 1.1),
    Goal("W4", "cold process against joblib and scikit-learn", _own_ratio("cold_s", "cold_bare_s"), 1.2),
    Goal("W5", "export against a plain dump", _own_ratio("joblib_export_ms", "dump_ms"), 2),
    Goal("W6", "share of the bytes given back (half was deleted)", _own("freed"), 0.49, False, ""),
    Goal("W6", "time against MLflow", _against("mlflow", "clean_s"), 0.25),
    Goal("W7", "failures", _own("failures"), 0, unit=""),
    Goal("W7", "reader beside a writer, p99", _own("read_p99_ms"), 300, unit="ms"),
    Goal(
        "W7",
        "writer beside a reader against alone",
        _own_ratio("writer_beside_per_s", "writer_alone_per_s"),
        0.9,
        False,
    ),
    Goal("W7", "4 writers that train against one", _own_ratio("4_busy_per_s", "one_busy_per_s"), 1.5, False),
    Goal(
        "W7", "4 writers that only write against one", _own_ratio("4_only_per_s", "one_only_per_s"), 1, False
    ),
    Goal("W8", "import nirs_store above a bare interpreter", _own("import_ms"), 60, unit="ms"),
    Goal("W8", "nirs-store --help above a bare interpreter", _own("help_ms"), 120, unit="ms"),
    Goal("W9", "last hundred against first hundred", _own_ratio("last_ms", "first_ms"), 1.15),
    # 30 ms until each query applied whole commits: the quicker second path could show part of a rejected one.
    Goal("W10", "asking after every pipeline, more a pipeline", _own("more_ms"), 40, unit="ms"),
    Goal("W10", "the same beside an asking process", _own("more_beside_ms"), 60, unit="ms"),
    Goal(
        "W11", "screening against cross_val_predict and refit of each", _own_ratio("screen_s", "bare_s"), 1.3
    ),
    Goal("W11", "suggest_components over all its chains", _own("suggest_s"), 1, unit="s"),
    Goal("W12", "diagnosis against predictions, T2 and Q in numpy", _own_ratio("diagnose_ms", "bare_ms"), 5),
    Goal(
        "W13", "a point by log_metric against a flushed line of JSON", _own_ratio("point_us", "line_us"), 25
    ),
    Goal("W14", "adding spectra against Polars' fastest write", _own_ratio("add_s", "polars_s"), 3),
    Goal(
        "W15",
        "1,000 predictions that are logged against not logged",
        _own_ratio("logged_ms", "unlogged_ms"),
        1.5,
    ),
    Goal("W15", "a monthly chart", _own("month_ms"), 300, unit="ms"),
    Goal("W14", "1,000 scattered rows", _own("rows_ms"), 100, unit="ms"),
    Goal("W12", "the domain in a recording, as a share of 5 % or 5 ms", _domain_cost, 1),
    Goal("W12", "1,000 predictions with details, more", _more("details_ms", "predict_ms"), 10, unit="ms"),
    Goal("W12", "one spectrum with details", _own("single_ms"), 2, unit="ms"),
    *(
        Goal("W16", f"{words}, the server's time", _own(f"{screen}_server_ms"), limit, unit="ms")
        for screen, words, limit in (
            ("leaderboard", "another page of the leaderboard", 50),
            ("sort", "another order", 50),
            ("filter", "a filter", 50),
        )
    ),
    Goal("W16", "memory of the server", _own("memory_mb"), 250, unit="MB"),
)


def figures(rows: Rows) -> Iterator[tuple[Goal, list[float]]]:
    """Each goal that the rows can answer, with its figure in every round; the median counts."""
    rounds: dict[tuple[str, int], dict[str, Metrics]] = {}
    for row in rows:
        rounds.setdefault((row["workload"], row["round"]), {})[row["peer"]] = row["metrics"]
    for goal in GOALS:
        values = []
        for (workload, _), peers in sorted(rounds.items()):
            if workload == goal.workload:
                try:
                    values.append(goal.figure(peers))
                except (KeyError, StopIteration):
                    continue
        if values:
            yield goal, values


def verdict(goal: Goal, values: Sequence[float]) -> bool:
    """Whether the median reaches the goal."""
    return goal.reached(median(values))
