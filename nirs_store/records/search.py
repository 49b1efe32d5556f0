"""Finding chains by words: over names of runs, tags, notes, steps with their parameters, targets and data sets."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.sql import execute
from nirs_store.errors import InvalidInput
from nirs_store.lazy import polars as pl
from nirs_store.records import ranking
from nirs_store.records.queries import frame
from nirs_store.scores import higher_is_better
from nirs_store.values import as_text


def _derivative(order: int, name: str, word: str) -> tuple[str, ...]:
    return (
        f"@{word}",
        f"@{name}",
        f'"(?:deriv|derivative|derivate_order|deriv_order|derivative_order)":{order}[^0-9.]',
        f'deriv[a-z]*"[^}}]*"order":{order}[^0-9.]',
    )


_SG = ("@sg", "@savgol", "@savitzky")
_PLS = ("@pls",)
_COMPONENTS = ("@n_components", "@lv")
SYNONYMS: dict[str, tuple[str, ...]] = {
    "1st": _derivative(1, "first", "1st"),
    "2nd": _derivative(2, "second", "2nd"),
    "3rd": _derivative(3, "third", "3rd"),
    "sg": _SG,
    "savgol": _SG,
    "savitzky": _SG,
    "snv": ("@snv", "@standardnormalvariate", "@standard normal variate"),
    "msc": ("@msc", "@multiplicativescatter", "@multiplicative scatter"),
    "pls": _PLS,
    "plsr": _PLS,
    "lv": _COMPONENTS,
    "lvs": _COMPONENTS,
}
"""What a word finds besides itself. After ``@`` come letters with which a word begins, else it is a pattern."""

_PAST_TEXT = (
    "lower(concat_ws(' ', run_name, array_to_string(json_extract_string(tags, '$[*]'), ' '), pipeline_name, "
    "dataset_name, target, target_unit, preprocessings, model_class, steps))"
)
_MOST_WORDS = 32
_BOUNDARY = r"(?:^|[^\p{L}\p{N}])"
# `lv=12`, `n_components=12`, `deriv=2`: a parameter of some step.
_PARAMETER = re.compile(r"([\w.]+)=([\w.+-]+)")
_NAMES = {"lv": "n_components", "lvs": "n_components"}
# The steps come last: they are long, and what is short is looked at first.
TEXT = (
    "lower(concat_ws(' ', r.name, r.note, array_to_string(json_extract_string(r.tags, '$[*]'), ' '), l.name, "
    "l.dataset_name, c.target, c.target_unit, c.preprocessings, c.model_class, c.steps))"
)


def words_of(text: Any) -> list[str]:
    """Return the words of a search, folded."""
    folded = unicodedata.normalize("NFC", as_text(text, "text")).lower()
    words = list(dict.fromkeys(word for word in folded.split() if any(map(str.isalnum, word))))
    if not words or len(words) > _MOST_WORDS:
        raise InvalidInput(
            f"text: expected 1 to {_MOST_WORDS} words, found {len(words)}. For example: moisture sg 2nd."
        )
    return words


def _pattern(word: str) -> str:
    """Return the pattern of one word, for a text in small letters."""
    parameter = _PARAMETER.fullmatch(word)
    found = []
    if parameter is not None:
        name = _NAMES.get(parameter[1], parameter[1])
        found.append(rf'"{re.escape(name)}":"?{re.escape(parameter[2])}(?:[^0-9.\p{{L}}]|\.0[^0-9])')
    found += [_BOUNDARY + re.escape(word)]
    for other in SYNONYMS.get(word, ()):
        found.append(_BOUNDARY + re.escape(other[1:]) if other.startswith("@") else other)
    return "|".join(found)


def matching(words: list[str], text: str) -> tuple[str, dict[str, Any]]:
    """Return the condition that all words are found in a text, and its parameters."""
    where, params = [], {}
    for number, word in enumerate(words):
        params[f"word{number}"] = _pattern(word)
        found = f"regexp_matches({text}, $word{number})"
        if word not in SYNONYMS and _PARAMETER.fullmatch(word) is None:
            # Far quicker than a pattern, and most chains end here.
            params[f"plain{number}"] = word
            found = f"contains({text}, $plain{number}) AND {found}"
        where.append(f"({found})")
    return " AND ".join(where), params


def search(
    engine: Engine, text: str, n: int | None, metric: str | None, *, deleted: bool = False
) -> pl.DataFrame:
    """Find chains; see `WorkspaceStore.search`."""
    words = words_of(text)
    if deleted:
        return engine.query(lambda con: _search_past(con, words, n, metric))
    return engine.query(lambda con: _search(con, words, n, metric))


def _search_past(con: Connection, words: list[str], n: int | None, metric: str | None) -> pl.DataFrame:
    """Find chains that were deleted, the best of each target first."""
    if metric is not None:
        higher_is_better(metric)  # refuses an unknown name
    condition, params = matching(words, "hay")
    found = frame(
        con,
        f"""
        SELECT chain_id, run_id, run_name, pipeline_id, pipeline_name, dataset_name, preprocessings, model_name,
            model_class, concat_ws(' > ', nullif(preprocessings, ''), model_name) AS pipeline, metric, score,
            score_sd, n_samples, created_at, target, target_unit, components, task,
            coalesce(json_extract_string(tags, '$[*]'), []) AS tags, deleted_at, trash_id
        FROM (SELECT *, {_PAST_TEXT} AS hay FROM past_chains)
        WHERE ({condition}) AND ($metric IS NULL OR metric = $metric) ORDER BY chain_id
        """,
        {**params, "metric": metric},
    )
    signed = pl.col("score").fill_nan(None) * pl.col("metric").map_elements(
        lambda name: -1.0 if higher_is_better(name) else 1.0, return_dtype=pl.Float64
    )
    about = ["target", "target_unit", "task", "metric"]
    ranked = found.with_columns(_rank=signed).sort([*about, "_rank"], nulls_last=True, maintain_order=True)
    return (
        (ranked if n is None else ranked.group_by(about, maintain_order=True).head(n))
        .drop("_rank")
        .select(found.columns)
    )


def past_chains(engine: Engine, run_id: str | None) -> pl.DataFrame:
    """Return what is kept of deleted chains; see `WorkspaceStore.past_chains`."""
    return engine.query(
        lambda con: frame(
            con,
            """
            SELECT p.chain_id, p.run_id, p.run_name, p.pipeline_id, p.pipeline_name, p.dataset_name, p.preprocessings,
                p.model_name, p.model_class, p.steps::VARCHAR AS steps, p.components, p.target, p.target_unit, p.task,
                p.metric, p.score, p.score_sd, p.n_samples, p.operation, p.trash_id, p.created_at, p.deleted_at,
                l.dataset_hash
            FROM past_chains p LEFT JOIN pipelines l USING (pipeline_id)
            WHERE $run IS NULL OR p.run_id = $run ORDER BY p.deleted_at, p.chain_id
            """,
            {"run": run_id},
        )
    )


def _search(con: Connection, words: list[str], n: int | None, metric: str | None) -> pl.DataFrame:
    condition, params = matching(words, "hay")
    found = execute(
        con,
        f"""
        WITH texts AS (SELECT c.chain_id, c.target, c.target_unit, {TEXT} AS hay
            FROM chains c JOIN pipelines l USING (pipeline_id) LEFT JOIN runs r USING (run_id))
        SELECT coalesce(target, ''), coalesce(target_unit, ''), list(chain_id) FROM texts WHERE {condition}
        GROUP BY ALL ORDER BY ALL
        """,
        params,
    ).fetchall()
    frames = [
        ranking.rank_matches(con, [str(each) for each in ids], n, metric, target=target, target_unit=unit)
        for target, unit, ids in found
    ]
    whole = pl.concat(frames, how="diagonal") if frames else ranking.rank_matches(con, [], n, metric)
    tags = frame(
        con,
        "SELECT run_id, coalesce(json_extract_string(tags, '$[*]'), []) AS tags FROM runs "
        "WHERE run_id IN (SELECT unnest($ids::VARCHAR[]))",
        {"ids": whole["run_id"].unique().to_list()},
    ).cast({"tags": pl.List(pl.String)})
    return whole.join(tags, on="run_id", how="left", maintain_order="left")
