"""An executive summary: who leads, how sure that is, what to do."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nirs_store.addresses import refuse_address, user_path
from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.db.session import Engine
from nirs_store.display import cell_text
from nirs_store.display import table as html_table
from nirs_store.errors import InvalidInput
from nirs_store.evaluations import boards, rows
from nirs_store.evaluations.rows import sort_value
from nirs_store.evaluations.statistics import Drawing, compare
from nirs_store.lazy import polars as pl
from nirs_store.values import from_json, one_of

__all__ = ["Section", "Summary", "summarise"]


# -- A page of sentences and tables, as Markdown and as HTML; every name in it is escaped.


_MARKS = re.compile(r"([\\`*_{}\[\]()#!|<>~])")
# What would begin a list.
_BULLET = re.compile(r"^([-+]|\d+(?=[.)]))(?=\W?(?:\s|$))")


@dataclass(frozen=True)
class Section:
    """A heading, sentences (each with the names in it kept apart), and a table."""

    title: str
    sentences: tuple[tuple[str, ...], ...] = ()
    head: tuple[str, ...] = ()
    lines: tuple[tuple[Any, ...], ...] = ()
    listed: bool = False


@dataclass(frozen=True, repr=False)
class Summary:
    """What an evaluation means, in a page.

    Attributes
    ----------
    suite, metric : str
    recommendations : tuple of str
        What to do, the most important first, as plain text.
    """

    suite: str
    metric: str
    recommendations: tuple[str, ...]
    sections: tuple[Section, ...]

    def to_markdown(self) -> str:
        """Return the page as Markdown; names cannot end a cell, start markup or become HTML."""
        parts = [f"# Evaluation of {_markdown(self.suite)}"]
        for section in self.sections:
            parts.append(f"## {section.title}")
            sentences = ["".join(_alternate(each, _markdown)) for each in section.sentences]
            if sentences:
                parts.append(
                    "\n".join(f"- {each}" for each in sentences) if section.listed else " ".join(sentences)
                )
            if section.head:
                top = [section.head, *[tuple(cell_text(c) for c in line) for line in section.lines]]
                cells = [f"| {' | '.join(_markdown(str(cell)) for cell in line)} |" for line in top]
                cells.insert(1, f"| {' | '.join('---' for _ in section.head)} |")
                parts.append("\n".join(cells))
        return "\n\n".join(parts) + "\n"

    def to_html(self, *, whole: bool = True) -> str:
        """Return the page as HTML, every text escaped; with `whole` a document of its own, else a piece."""
        parts = [f"<h1>Evaluation of {html.escape(self.suite)}</h1>"]
        for section in self.sections:
            parts.append(f"<h2>{html.escape(section.title)}</h2>")
            sentences = ["".join(_alternate(each, html.escape)) for each in section.sentences]
            if section.listed and sentences:
                parts.append("<ul>" + "".join(f"<li>{each}</li>" for each in sentences) + "</ul>")
            elif sentences:
                parts.append(f"<p>{' '.join(sentences)}</p>")
            if section.head:
                parts.append(html_table(section.head, section.lines))
        body = "\n".join(parts)
        if not whole:
            return body
        title = html.escape(f"Evaluation of {self.suite}")
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>\n'
            "<style>body{font-family:sans-serif;max-width:50em;margin:2em auto;padding:0 1em}"
            "td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ddd}</style></head>\n"
            f"<body>\n{body}\n</body>\n</html>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Write the page; ``.md`` or ``.html`` says the form.

        Raises
        ------
        InvalidInput
            Another ending.
        """
        refuse_address(path, "path")
        target = user_path(path)
        one_of("suffix", target.suffix.lower(), (".md", ".html"))
        ensure_dir(target.absolute().parent)
        text = self.to_markdown() if target.suffix.lower() == ".md" else self.to_html()
        write_file(target.absolute(), text.encode())
        return target

    def _repr_html_(self) -> str:
        return self.to_html(whole=False)

    def __str__(self) -> str:
        return self.to_markdown()

    def __repr__(self) -> str:
        return f"<Summary of {self.suite!r} by {self.metric!r}: {len(self.recommendations)} recommendations>"


def _markdown(text: str) -> str:
    marked = _MARKS.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")
    return _BULLET.sub(lambda m: f"\\{m[1]}" if m[1] in "-+" else m[1] + "\\", marked)


def _alternate(parts: Sequence[str], escape: Any) -> list[str]:
    """Every second part is a name or a value that somebody else chose."""
    return [escape(part) if index % 2 else part for index, part in enumerate(parts)]


_SHOWN = 10
# Below so many rows, or with an interval wider than this share of the value, more data come first.
_FEW = 30
_WIDE = 0.2


def _words(parts: Sequence[str]) -> str:
    return "".join(parts)


def summarise(
    engine: Engine, suite: str, metric: str | None, by: str | None, alpha: float, drawing: Drawing
) -> Summary:
    """See `Evaluations.summary`."""
    board = boards.leaderboard(engine, suite, metric, None, "best", drawing)
    if not board.height:
        raise InvalidInput(f"suite: {suite!r} has no completed evaluation.")
    chosen = str(board["metric"][0])
    # The board has checked the metric, which may be one of the tables.
    trend = boards.trend(engine, suite, chosen, None, checked=False)
    held = engine.query(lambda con: rows.champion_rows(con, suite=suite, metric=chosen, rank=1)).to_dicts()
    better = engine.query(lambda con: rows.direction_of(con, suite, chosen))
    pairs = _pairs(engine, suite, chosen, board, alpha)
    first = board.row(0, named=True)
    advice = _advice(engine, board, trend, held[0] if held else None, pairs, alpha, better)
    sections = [
        Section("In short", _in_short(board, trend, held[0] if held else None)),
        Section("Recommendations", tuple(advice), listed=True),
        _board_section(board),
    ]
    if pairs is not None and pairs.height:
        sections.append(_pair_section(pairs, first["model_id"]))
    if by is not None:
        groups = boards.by_group(engine, suite, by, chosen, None, "best", False, drawing)
        there = set(groups["model_id"])
        # The best of those that have a table.
        model = next(each for each in board["model_id"] if each in there)
        own = groups.filter(pl.col("model_id") == model)
        sections.append(_group_section(own, by, model))
        advice.append(_weakest(own, by, model, better))
        sections[1] = Section("Recommendations", tuple(advice), listed=True)
    return Summary(suite, chosen, tuple(map(_words, advice)), tuple(sections))


def _pairs(engine: Engine, suite: str, metric: str, board: pl.DataFrame, alpha: float) -> pl.DataFrame | None:
    """Return the best model against every other one; None where their tables do not allow it."""
    models = board["model_id"].to_list()[:_SHOWN]
    try:
        found = compare(engine, suite, metric, models, "best", "wilcoxon", "holm", None, alpha)
    except InvalidInput:
        return None  # said among the recommendations
    return found.frame.filter((pl.col("model_a") == models[0]) | (pl.col("model_b") == models[0]))


def _number(value: Any) -> str:
    return cell_text(value) or "unknown"


def _in_short(
    board: pl.DataFrame, trend: pl.DataFrame, held: dict[str, Any] | None
) -> tuple[tuple[str, ...], ...]:
    first = board.row(0, named=True)
    told: list[tuple[str, ...]] = [
        (
            "",
            first["model_id"],
            " is best of ",
            str(board.height),
            " models with ",
            first["metric"],
            " = ",
            _number(first["value"]),
            f"{_interval(first)}.",
        )
    ]
    if held is not None:
        gained = (from_json(held["improvements"]) or {}).get(held["metric"])
        how = "set by hand" if held["chosen_by"] == "hand" else "found automatically"
        since = f"{held['made_at']:%Y-%m-%d}"
        told.append(("Champion since ", since, " is ", held["model_id"], f" ({how})."))
        if held["previous_model"] is not None and gained is not None:
            told.append(("It followed ", held["previous_model"], " and is better by ", _number(gained), "."))
    last = trend.row(-1, named=True)
    told.append(
        (
            "",
            str(trend.height),
            " evaluations were recorded, the latest on ",
            f"{last['created_at']:%Y-%m-%d}",
            ".",
        )
    )
    if last["slope_per_day"] is not None and (last["created_at"] - trend["created_at"][0]).days >= 1:
        told.append(
            ("Over time the values change by ", _number(last["slope_per_day"]), " a day (Theil-Sen).")
        )
    return tuple(told)


def _interval(row: dict[str, Any]) -> str:
    if row["ci_low"] is None:
        return ""
    return f" [{_number(row['ci_low'])}, {_number(row['ci_high'])}]"


def _advice(
    engine: Engine,
    board: pl.DataFrame,
    trend: pl.DataFrame,
    held: dict[str, Any] | None,
    pairs: pl.DataFrame | None,
    alpha: float,
    better: str | None,
) -> list[tuple[str, ...]]:
    first = board.row(0, named=True)
    told: list[tuple[str, ...]] = []
    ahead = [] if pairs is None else [row["significant"] for row in pairs.iter_rows(named=True)]
    if board.height == 1:
        told.append(
            (
                "Evaluate a second model on this suite: ",
                first["model_id"],
                " has nothing to be compared with.",
            )
        )
    elif ahead and all(ahead):
        told.append(
            (
                "Use ",
                first["model_id"],
                f": its lead over every other model is significant (corrected, {alpha:g}).",
            )
        )
    elif pairs is not None and pairs.height:
        rivals = [
            row["model_b"] if row["model_a"] == first["model_id"] else row["model_a"]
            for row in pairs.iter_rows(named=True)
            if not row["significant"]
        ]
        told.append(
            (
                "Take ",
                first["model_id"],
                " with care: its lead over ",
                ", ".join(rivals[:3]),
                " is not significant. Prefer the simpler model, or evaluate on more data.",
            )
        )
    else:
        told.append(
            (
                "Take ",
                first["model_id"],
                ", but record episodes or samples of each model: without them no test can tell whether it leads by "
                "chance.",
            )
        )
    if (
        held is not None
        and held["evaluation_id"] != first["evaluation_id"]
        and held["model_id"] != first["model_id"]
    ):
        told.append(
            (
                "The champion ",
                held["model_id"],
                " is no longer best: ",
                first["model_id"],
                " scores better. Set it, or have champions found again.",
            )
        )
    if first["ci_low"] is None:
        told.append(("No interval can be given for ", first["model_id"], ": record its episodes or samples."))
    else:
        width = first["ci_high"] - first["ci_low"]
        if first["n"] < _FEW or width > _WIDE * abs(first["value"] or 0.0):
            told.append(
                (
                    "Evaluate ",
                    first["model_id"],
                    f" on more data: the interval rests on {first['n']} rows and is {_number(width)} wide.",
                )
            )
    told += _later(trend, first, better)
    dirty = engine.query(lambda con: rows.evaluation_of(con, first["evaluation_id"]))
    if dirty is not None and (dirty["environment"] or {}).get("git-dirty"):
        told.append(
            (
                "Commit the code and evaluate ",
                first["model_id"],
                " again: tracked files differed from the commit, so it cannot be repeated.",
            )
        )
    return told


def _later(trend: pl.DataFrame, first: dict[str, Any], better: str | None) -> list[tuple[str, ...]]:
    own = trend.filter(pl.col("model_id") == first["model_id"])
    last = own.row(-1, named=True)
    if last["evaluation_id"] == first["evaluation_id"] or last["value"] is None:
        return []
    best = own.filter(pl.col("evaluation_id") == first["evaluation_id"]).row(0, named=True)
    way = better or "higher"
    if sort_value(last["value"], way) < sort_value(best["value"], way):
        return [
            (
                "Find out why ",
                first["model_id"],
                " fell from ",
                _number(best["value"]),
                " to ",
                _number(last["value"]),
                " since its best evaluation.",
            )
        ]
    return []


def _board_section(board: pl.DataFrame) -> Section:
    head = ("rank", "model", "value", "from", "to", "n", "success rate", "champion")
    names = ("rank", "model_id", "value", "ci_low", "ci_high", "n", "success_rate", "champion")
    return Section("Leaderboard", head=head, lines=tuple(board.head(_SHOWN).select(names).rows()))


def _pair_section(pairs: pl.DataFrame, best: str) -> Section:
    head = ("model", "against", "n", "mean difference", "p corrected", "significant")
    names = ("model_a", "model_b", "n", "mean_difference", "p_adjusted", "significant")
    told = (("Wilcoxon's signed-rank test on the same rows, corrected after Holm, for ", best, "."),)
    return Section("Comparison", told, head, tuple(pairs.select(names).rows()))


def _group_section(groups: pl.DataFrame, by: str, model: str) -> Section:
    names = (by, "value", "ci_low", "ci_high", "n")
    told = (("Of ", model, ", by ", by, "."),)
    return Section("By group", told, (by, "value", "from", "to", "n"), tuple(groups.select(names).rows()))


def _weakest(groups: pl.DataFrame, by: str, model: str, better: str | None) -> tuple[str, ...]:
    way = better or "higher"
    worst = min(groups.iter_rows(named=True), key=lambda row: sort_value(row["value"], way))
    return (
        "Work on ",
        by,
        " = ",
        _number(worst[by]),
        ": there ",
        model,
        " reaches only ",
        _number(worst["value"]),
        ".",
    )
