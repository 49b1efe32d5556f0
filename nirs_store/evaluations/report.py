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
from nirs_store.evaluations import leaderboards, rows
from nirs_store.evaluations.rows import sort_value
from nirs_store.evaluations.statistics import Drawing, compare
from nirs_store.lazy import polars as pl
from nirs_store.values import from_json, one_of

# -- A page of sentences and tables, as Markdown and as HTML; every name in it is escaped.


_MARKS = re.compile(r"([\\`*_{}\[\]()#!|<>~])")
# What would begin a list.
_BULLET = re.compile(r"^([-+]|\d+(?=[.)]))(?=\W?(?:\s|$))")


# Every second part is a name or a value.
Sentence = tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A heading, sentences (each with the names in it kept apart), and a table."""

    title: str
    sentences: tuple[Sentence, ...] = ()
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
    """Return the parts of a sentence, with each name or value in it escaped."""
    return [escape(part) if index % 2 else part for index, part in enumerate(parts)]


_SHOWN = 10
# Below so many rows, or with an interval wider than this share of the value, more data come first.
_FEW = 30
_WIDE = 0.2


def _say(template: str, *names: Any) -> Sentence:
    """Return a sentence with the names and values in it kept apart, so that they can be escaped."""
    texts = template.split("{}")
    return (
        texts[0],
        *(part for name, text in zip(names, texts[1:], strict=True) for part in (str(name), text)),
    )


def summarise(
    engine: Engine, suite: str, metric: str | None, by: str | None, alpha: float, drawing: Drawing
) -> Summary:
    """See `Evaluations.summary`."""
    board = leaderboards.leaderboard(engine, suite, metric, None, "best", drawing)
    if not board.height:
        raise InvalidInput(f"suite: {suite!r} has no completed evaluation.")
    chosen = str(board["metric"][0])
    # The board has checked the metric, which may be one of the tables.
    trend = leaderboards.trend(engine, suite, chosen, None, checked=False)
    held = engine.query(lambda con: rows.champion_rows(con, suite=suite, metric=chosen, rank=1)).to_dicts()
    better = engine.query(lambda con: rows.direction_of(con, suite, chosen))
    pairs = _pairs(engine, suite, chosen, board, alpha)
    first = board.row(0, named=True)
    advice = _advice(engine, board, trend, held[0] if held else None, pairs, alpha, better)
    sections = [
        Section("In short", tuple(_in_short(board, trend, held[0] if held else None))),
        Section("Recommendations", tuple(advice), listed=True),
        _board_section(board),
    ]
    if pairs is not None and pairs.height:
        sections.append(_pair_section(pairs, first["model_id"]))
    if by is not None:
        groups = leaderboards.by_group(engine, suite, by, chosen, None, "best", False, drawing)
        there = set(groups["model_id"])
        # The best of those that have a table.
        model = next(each for each in board["model_id"] if each in there)
        own = groups.filter(pl.col("model_id") == model)
        sections.append(_group_section(own, by, model))
        advice.append(_weakest(own, by, model, better))
        sections[1] = Section("Recommendations", tuple(advice), listed=True)
    return Summary(suite, chosen, tuple("".join(each) for each in advice), tuple(sections))


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


def _in_short(board: pl.DataFrame, trend: pl.DataFrame, held: dict[str, Any] | None) -> list[Sentence]:
    first, last = board.row(0, named=True), trend.row(-1, named=True)
    best = f"{{}} is best of {{}} models with {{}} = {{}}{_interval(first)}."
    told = [_say(best, first["model_id"], board.height, first["metric"], _number(first["value"]))]
    if held is not None:
        gained = (from_json(held["improvements"]) or {}).get(held["metric"])
        how = "set by hand" if held["chosen_by"] == "hand" else "found automatically"
        told.append(
            _say(f"Champion since {{}} is {{}} ({how}).", f"{held['made_at']:%Y-%m-%d}", held["model_id"])
        )
        if held["previous_model"] is not None and gained is not None:
            told.append(_say("It followed {} and is better by {}.", held["previous_model"], _number(gained)))
    latest = f"{last['created_at']:%Y-%m-%d}"
    told.append(_say("{} evaluations were recorded, the latest on {}.", trend.height, latest))
    if last["slope_per_day"] is not None and (last["created_at"] - trend["created_at"][0]).days >= 1:
        told.append(
            _say("Over time the values change by {} a day (Theil-Sen).", _number(last["slope_per_day"]))
        )
    return told


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
) -> list[Sentence]:
    first = board.row(0, named=True)
    model = first["model_id"]
    told = [_lead(board, pairs, alpha)]
    if held is not None and held["evaluation_id"] != first["evaluation_id"] and held["model_id"] != model:
        told.append(
            _say(
                "The champion {} is no longer best: {} scores better. Set it, or have champions found again.",
                held["model_id"], model,
            )
        )  # fmt: skip
    if first["ci_low"] is None:
        told.append(_say("No interval can be given for {}: record its episodes or samples.", model))
    else:
        width = first["ci_high"] - first["ci_low"]
        if first["n"] < _FEW or width > _WIDE * abs(first["value"] or 0.0):
            rests = f"the interval rests on {first['n']} rows and is {{}} wide."
            told.append(_say(f"Evaluate {{}} on more data: {rests}", model, _number(width)))
    told += _later(trend, first, better)
    recorded = engine.query(lambda con: rows.evaluation_of(con, first["evaluation_id"]))
    if recorded is not None and (recorded["environment"] or {}).get("git-dirty"):
        told.append(
            _say(
                "Commit the code and evaluate {} again: tracked files differed from the commit, so it cannot be "
                "repeated.",
                model,
            )
        )
    return told


def _lead(board: pl.DataFrame, pairs: pl.DataFrame | None, alpha: float) -> Sentence:
    """Say whether the first model of a leaderboard leads by more than chance."""
    model = board["model_id"][0]
    if board.height == 1:
        return _say("Evaluate a second model on this suite: {} has nothing to be compared with.", model)
    if pairs is None or not pairs.height:
        return _say(
            "Take {}, but record episodes or samples of each model: without them no test can tell whether it leads by "
            "chance.",
            model,
        )
    equal = pairs.filter(~pl.col("significant").fill_null(False))
    if not equal.height:
        return _say(
            f"Use {{}}: its lead over every other model is significant (corrected, {alpha:g}).", model
        )
    rivals = [b if a == model else a for a, b in equal.select("model_a", "model_b").rows()]
    return _say(
        "Take {} with care: its lead over {} is not significant. Prefer the simpler model, or evaluate on more data.",
        model, ", ".join(rivals[:3]),
    )  # fmt: skip


def _later(trend: pl.DataFrame, first: dict[str, Any], better: str | None) -> list[Sentence]:
    own = trend.filter(pl.col("model_id") == first["model_id"])
    last = own.row(-1, named=True)
    if last["evaluation_id"] == first["evaluation_id"] or last["value"] is None:
        return []
    best = own.filter(pl.col("evaluation_id") == first["evaluation_id"]).row(0, named=True)
    way = better or "higher"
    if not sort_value(last["value"], way) < sort_value(best["value"], way):
        return []
    fell = "Find out why {} fell from {} to {} since its best evaluation."
    return [_say(fell, first["model_id"], _number(best["value"]), _number(last["value"]))]


def _board_section(board: pl.DataFrame) -> Section:
    head = ("rank", "model", "value", "from", "to", "n", "success rate", "champion")
    names = ("rank", "model_id", "value", "ci_low", "ci_high", "n", "success_rate", "champion")
    return Section("Leaderboard", head=head, lines=tuple(board.head(_SHOWN).select(names).rows()))


def _pair_section(pairs: pl.DataFrame, best: str) -> Section:
    head = ("model", "against", "n", "mean difference", "p corrected", "significant")
    names = ("model_a", "model_b", "n", "mean_difference", "p_adjusted", "significant")
    told = _say("Wilcoxon's signed-rank test on the same rows, corrected after Holm, for {}.", best)
    return Section("Comparison", (told,), head, tuple(pairs.select(names).rows()))


def _group_section(groups: pl.DataFrame, by: str, model: str) -> Section:
    names = (by, "value", "ci_low", "ci_high", "n")
    told = _say("Of {}, by {}.", model, by)
    return Section("By group", (told,), (by, "value", "from", "to", "n"), tuple(groups.select(names).rows()))


def _weakest(groups: pl.DataFrame, by: str, model: str, better: str | None) -> Sentence:
    way = better or "higher"
    worst = min(groups.iter_rows(named=True), key=lambda row: sort_value(row["value"], way))
    shown = _number(worst[by]), model, _number(worst["value"])
    return _say("Work on {} = {}: there {} reaches only {}.", by, *shown)
