"""Opening the workspace of a command, and finding what an id, or a part of one, stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.lazy import polars as pl
from nirs_store.records import queries as overview
from nirs_store.store import WorkspaceStore

__all__ = ["KINDS", "TASKS", "Found", "ask", "find", "open_store", "ranked", "thing"]

#: In the order in which an id is looked up.
KINDS = ("run", "pipeline", "chain", "prediction", "artifact")

_LEAST_CHARACTERS = 4
_SHOWN = 3

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Found:
    """What an id stands for, with its record."""

    kind: str
    identifier: str
    record: dict[str, Any]


def open_store(workspace: Path) -> WorkspaceStore:
    """Open an existing workspace.

    Raises
    ------
    NotAWorkspace
        There is none; nothing is created.
    """
    return WorkspaceStore(workspace, create=False)


def ask(store: WorkspaceStore, question: Callable[..., Answer], *arguments: Any) -> Answer:
    """Put one of the catalog's questions to a workspace."""
    return store._engine.query(lambda con: question(con, *arguments))


def find(store: WorkspaceStore, text: str, kinds: Sequence[str] = KINDS) -> Found:
    """Return what `text` names: a whole id, or the beginning or end of one that is not ambiguous.

    Parameters
    ----------
    store
        Where to look.
    text
        An id or at least four characters of its beginning or end, as the tables show it.
    kinds
        What may be meant, tried in this order.

    Raises
    ------
    UnknownId
        Nothing of these kinds has that id.
    InvalidInput
        Several have; they are listed.
    """
    getters = _getters(store)
    for kind in kinds:
        record = getters[kind](text)
        if record is not None:
            return Found(kind, text, record)
    if len(text) >= _LEAST_CHARACTERS:
        found = store.find_ids(text, kinds, limit=_SHOWN + 1)
        for kind in kinds:
            matches = found.filter(pl.col("kind") == kind)["id"].to_list()
            if len(matches) > 1:
                many = len(matches) > _SHOWN
                raise InvalidInput(
                    f"{text!r} fits {f'more than {_SHOWN}' if many else len(matches)} {kind}s: "
                    f"{', '.join(matches[:_SHOWN])}{', ...' if many else ''}. Write more of the id."
                )
            if matches:
                return Found(kind, matches[0], getters[kind](matches[0]) or {})
    raise UnknownId(_either(kinds), text, "'nirs-store runs' and 'nirs-store top' list ids.")


def _getters(store: WorkspaceStore) -> dict[str, Callable[[str], dict[str, Any] | None]]:
    return {
        "run": store.get_run,
        "pipeline": store.get_pipeline,
        "chain": store.get_chain,
        "prediction": store.get_prediction,
        "artifact": store.get_artifact,
    }


def _either(kinds: Sequence[str]) -> str:
    return kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} or {kinds[-1]}"


# -- Ranked chains of a workspace, a table a kind of task.


TASKS = ("regression", "classification")


def ranked(
    store: WorkspaceStore,
    n: int,
    *,
    metric: str | None = None,
    ascending: bool | None = None,
    task: str | None = None,
    dataset: str | None = None,
    run_id: str | None = None,
) -> list[pl.DataFrame]:
    """Rank the chains: of each task apart, for their scores do not compare.

    Parameters
    ----------
    store
        The workspace.
    n
        At most so many rows for each task.
    metric, ascending, task, dataset, run_id
        As for `WorkspaceStore.top_chains`. A metric says which task is meant.

    Returns
    -------
    list of polars.DataFrame
        Tables that have rows, with the columns of `top_chains`, ``task_type``, ``target`` and ``unit``.
    """
    frames = []
    for each in [task] if task or metric else TASKS:
        frame = store.top_chains(n, metric, dataset, run_id, task_type=each, ascending=ascending)
        if frame.height:
            kind = "regression" if "rmsecv" in frame.columns else "classification"
            about = ask(store, overview.targets_of, frame["chain_id"].to_list())
            frames.append(
                frame.with_columns(pl.lit(kind).alias("task_type")).join(
                    about, on="chain_id", how="left", maintain_order="left"
                )
            )
    return frames


# -- Naming things of any kind on the command line.


def thing(store: WorkspaceStore, text: str) -> tuple[str, str] | str:
    """Return what `text` names: ``kind:id``, an id, or a part of the id of what a run records.

    Raises
    ------
    UnknownId, InvalidInput
        Nothing has that id; several have it; there is no such kind.
    """
    kind, colon, identifier = text.partition(":")
    if colon:
        if kind in KINDS:
            found = find(store, identifier, [kind])
            return found.kind, found.identifier
        return text
    try:
        found = find(store, text)
    except UnknownId:
        return text  # a file, an evaluation, a bundle: the store knows
    return found.kind, found.identifier
