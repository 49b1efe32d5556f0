"""Opening the workspace of a command, and finding what an id, or a part of one, stands for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nirs_store.addresses import is_shared
from nirs_store.cli._options import (
    Function,
    dry_run_option,
    given,
    json_option,
    offline_option,
    workspace_option,
    yes_option,
)
from nirs_store.errors import InvalidInput, UnknownId, did_you_mean, quoted
from nirs_store.lazy import later
from nirs_store.lazy import polars as pl

if TYPE_CHECKING:
    from nirs_store.db.session import Settings
    from nirs_store.records import queries as overview
    from nirs_store.store import WorkspaceStore
else:
    # Every command imports this module, and its help should not wait for DuckDB.
    overview = later("nirs_store.records.queries")

#: In the order in which an id is looked up.
KINDS = ("run", "pipeline", "chain", "prediction", "artifact")

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Found:
    """What an id stands for, with its record."""

    kind: str
    identifier: str
    record: dict[str, Any]


def open_store(workspace: Path | str) -> WorkspaceStore:
    """Open an existing workspace, with ``--offline`` a shared one without its server; none is created."""
    from nirs_store.store import WorkspaceStore

    return WorkspaceStore(workspace, create=False, fresh=not given("offline"))


def exports_of(store: WorkspaceStore) -> Path:
    """Return where a command writes a file that has no name: a replica may be deleted, so not into one."""
    return (Path() if store.location.address is not None else store.workspace_path) / "exports"


def shared_settings(workspace: Any) -> Settings | None:
    """Return how to open the shared workspace at an address; None for a folder."""
    if not is_shared(workspace):
        return None
    from nirs_store.db.session import Settings
    from nirs_store.shared.address import parse

    return Settings(Path(), shared=parse(workspace), create=False)


def ask(store: WorkspaceStore, question: Callable[..., Answer], *arguments: Any) -> Answer:
    """Put one of the catalog's questions to a workspace."""
    return store._engine.query(lambda con: question(con, *arguments))


def find(store: WorkspaceStore, text: str, kinds: Sequence[str] = KINDS) -> Found:
    """Return what `text` names, of these kinds in this order: an id, four characters of an end of it, or a run's name.

    Raises
    ------
    UnknownId, InvalidInput
        Nothing has that id; several have it, and are listed.
    """
    for kind in kinds:
        record = getattr(store, f"get_{kind}")(text)
        if record is not None:
            return Found(kind, str(record[f"{kind}_id"]), record)
    either = kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} or {kinds[-1]}"
    raise UnknownId(either, text, "'nirs-store runs' and 'nirs-store top' list ids.")


def whole_id(store: WorkspaceStore, text: str | None, kind: str) -> str | None:
    """Return the whole id of what `text` names; None for no text."""
    return find(store, text, [kind]).identifier if text else None


def the_end_of_one(text: str, ids: Iterable[str], kind: str, hint: str) -> str:
    """Return the one id that begins or ends with at least four characters, where `find` does not look."""
    near = [each for each in ids if len(text) >= 4 and (each.startswith(text) or each.endswith(text))]
    if len(near) > 1:
        raise InvalidInput(f"{text!r} fits {len(near)} {kind}s: {', '.join(near[:3])}. Write more of the id.")
    if not near:
        raise UnknownId(kind, text, hint)
    return near[0]


def named_chain(store: WorkspaceStore, text: str) -> tuple[str, str]:
    """Return what predicts or is exported as ``fat@v3`` or the id of a chain, and that id; an alias is read once."""
    from nirs_store.service.replaying import use_of

    use = use_of(store._engine, text)
    found = find(store, use.chain_id, ["chain"]).identifier
    return (found if use.name is None else use.label), found


# -- Ranked chains of a workspace, one table per kind of task.

TASKS = ("regression", "classification")


def ranked(
    store: WorkspaceStore,
    n: int,
    *,
    metric: str | None = None,
    task_type: str | None = None,
    dataset_name: str | None = None,
    run_id: str | None = None,
    target: str | None = None,
    **options: Any,
) -> list[pl.DataFrame]:
    """Return the tables of `WorkspaceStore.top_chains`, one per task and target, for their scores do not compare.

    Each has at most `n` rows, and the columns ``task_type`` and ``unit`` too. A metric says which task is meant.
    """
    known = ask(store, overview.kinds_of_target, dataset_name, run_id)
    kinds: list[tuple[str | None, str | None]] = [each for each in known if target in (None, each[0])]
    if len(kinds) < 2:
        kinds = [(target, None)]
    frames = []
    for each in [task_type] if task_type or metric else TASKS:
        for about, unit in kinds:
            apart: dict[str, Any] = {} if len(kinds) == 1 else {"target_unit": unit or ""}
            frame = store.top_chains(
                n,
                metric,
                dataset_name,
                run_id,
                task_type=each,
                target=about if about or len(kinds) == 1 else "",
                **apart,
                **options,
            )
            if frame.height:
                kind = "regression" if "rmsecv" in frame.columns else "classification"
                frames.append(frame.with_columns(task_type=pl.lit(kind), unit=pl.col("target_unit")))
    return frames


def say_unknown(store: WorkspaceStore, what: str, name: str | None) -> None:
    """Say on standard error that nothing in the workspace has a data set, tag or target, and name those there are."""
    if name is None:
        return
    known = ask(store, overview.names_of, what)
    if name in known:
        return
    hint = did_you_mean(name, known)
    there = ", ".join(map(quoted, known[:8])) + (" and more" if len(known) > 8 else "")
    click.echo(
        f"Nothing here has the {what} {quoted(name)}.{hint} "
        + (f"Known: {there}." if known else f"No {what} is known."),
        err=True,
    )


# -- Naming things of any kind on the command line.


def thing(store: WorkspaceStore, text: str) -> tuple[str, str] | str:
    """Return what `text` names: ``kind:id``, an id, or a part of the id of what a run records."""
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


# -- Commands that are called with an open store.


def store_option(function: Function) -> Function:
    """Add ``--workspace/-w`` and ``--offline``, open that workspace, and call the command with the store first."""

    @functools.wraps(function)
    def command(*, workspace: Path, **options: Any) -> Any:
        with open_store(workspace) as store:
            return function(store, **options)

    wrapped: Any = workspace_option(offline_option(command))
    return wrapped  # type: ignore[no-any-return]


def json_store_option(function: Function) -> Function:
    """Add ``--json`` to the options of `store_option`."""
    return json_option(store_option(function))


def plan_options(function: Function) -> Function:
    """Add ``--dry-run`` and ``--yes`` too, for a command that prints what it would destroy and asks."""
    return dry_run_option(yes_option(json_store_option(function)))
