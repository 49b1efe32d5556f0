"""Lineage: what came from what, upstream and downstream, over everything that a store holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nirs_store.catalog import lineage_rows
from nirs_store.catalog.access import Connection
from nirs_store.catalog.audit_queries import check_kind
from nirs_store.catalog.buffer import now_naive
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.guard import check_guard
from nirs_store.catalog.lineage_rows import Link, Ref
from nirs_store.catalog.values import as_text, to_json
from nirs_store.errors import InvalidInput, LineageCycle
from nirs_store.ids import new_id
from nirs_store.lazily import polars as pl
from nirs_store.registry.audit import attempting, guarded, note
from nirs_store.registry.lineage_graph import LineageGraph, check_direction, walk
from nirs_store.registry.refs import find_ref

__all__ = ["Lineage"]


class Lineage:
    """The lineage of a store, as ``store.lineage``.

    A link leads from a source to what was made from it. Links between runs, pipelines, chains, predictions,
    artifacts, stacks, imported bundles, evaluations and files follow from what is recorded; others are recorded with
    `link`. Wherever a thing is asked for, ``("chain", id)``, ``"chain:<id>"`` or an id alone will do.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store import WorkspaceStore
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     old = store.begin_run("trial", {}, [])
    ...     new = store.begin_run("final", {}, [])
    ...     link = store.lineage.link(("run", old), ("run", new), "continued_by")
    ...     store.lineage.upstream(new).select("kind", "name", "link_type").rows()
    [('run', 'trial', 'continued_by')]
    >>> folder.cleanup()
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- recording ---------------------------------------------------------------------------------

    def link(
        self,
        sources: Any,
        target: Any,
        link_type: str = "derived_from",
        metadata: Mapping[str, Any] | None = None,
        *,
        dry_run: bool = False,
    ) -> list[str]:
        """Record that something was made from one or several sources.

        Parameters
        ----------
        sources : thing or list of things
        target : thing
        link_type : str
            Any word: ``"derived_from"``, ``"validated_by"``.
        metadata : mapping, optional
            Plain data.
        dry_run : bool
            Only look whether the links can be recorded.

        Returns
        -------
        list of str
            Ids of the links, a source each. A link that is there already is not doubled. None of a dry run.

        Raises
        ------
        LineageCycle
            A source came from the target.
        UnknownId, InvalidInput, ForbiddenContent
            Nothing was recorded.
        """
        kind = as_text(link_type, "link_type").strip()
        if not kind:
            raise InvalidInput("link_type: expected a word, found an empty text. Nothing was recorded.")
        values = to_json(None if metadata is None else dict(metadata), "metadata")
        engine = self._engine
        told = {"metadata": metadata, "link_type": kind}
        if dry_run:
            # Nothing is attempted, so nothing is noted either.
            check_guard(engine, told)
            engine.query(lambda con: _linkable(con, sources, target))
            return []
        guarded(engine, "link", told)

        def work(con: Connection) -> list[str]:
            refs, to = _linkable(con, sources, target)
            ids = [_record(con, ref, to, kind, values) for ref in refs]
            facts = {"sources": [str(ref) for ref in refs], "link_type": kind}
            note(engine, "link", to.kind, to.id, details=facts, con=con)
            return ids

        with attempting(engine, "link"):
            return engine.change(work)

    def unlink(
        self, sources: Any, target: Any, link_type: str | None = None, *, dry_run: bool = False
    ) -> int:
        """Remove recorded links, or with `dry_run` only look for them; returns how many there were.

        Raises
        ------
        InvalidInput
            The link follows from what the store holds and cannot be removed by itself.
        UnknownId
        """
        engine = self._engine

        if dry_run:
            return engine.query(lambda con: _unlinkable(con, sources, target, link_type)[2])

        def work(con: Connection) -> int:
            refs, to, count = _unlinkable(con, sources, target, link_type)
            for ref in refs:
                lineage_rows.delete_links(con, ref, to, link_type)
            if count:
                facts = {"sources": [str(ref) for ref in refs], "link_type": link_type, "removed": count}
                note(engine, "unlink", to.kind, to.id, details=facts, con=con)
            return count

        with attempting(engine, "unlink"):
            return engine.change(work)

    # -- asking ------------------------------------------------------------------------------------

    def upstream(
        self, thing: Any, *, max_depth: int | None = None, kinds: str | Sequence[str] | None = None
    ) -> pl.DataFrame:
        """Everything that something came from, nearest first.

        Parameters
        ----------
        thing
            What it is asked of.
        max_depth : int, optional
            How many links to follow; all by default.
        kinds : str or sequence of str, optional
            Only things of these kinds; the others are passed through.

        Returns
        -------
        polars.DataFrame
            ``depth``, ``kind``, ``id``, ``name`` (null for what is gone), ``link_type``, and with
            ``via_kind``, ``via_id`` what it is linked to on the way.
        """
        return self.graph(thing, "upstream", max_depth=max_depth).frame(_kinds(kinds))

    def downstream(
        self, thing: Any, *, max_depth: int | None = None, kinds: str | Sequence[str] | None = None
    ) -> pl.DataFrame:
        """Everything that came from something, nearest first; see `upstream`."""
        return self.graph(thing, "downstream", max_depth=max_depth).frame(_kinds(kinds))

    def links(self, thing: Any) -> list[Link]:
        """The links of something itself, to its sources and to what came from it."""

        def ask(con: Connection) -> list[Link]:
            ref = find_ref(con, thing)
            return [
                *lineage_rows.neighbours(con, [ref], upstream=True),
                *lineage_rows.neighbours(con, [ref], upstream=False),
            ]

        return self._engine.query(ask)

    def graph(
        self,
        thing: Any,
        direction: str = "upstream",
        *,
        max_depth: int | None = None,
        limit: int | None = None,
    ) -> LineageGraph:
        """Everything on the way up, down or both, with the links between.

        Parameters
        ----------
        direction : {"upstream", "downstream", "both"}
        limit : int, optional
            Not more things than about so many; ``truncated`` says that there are more. All by default.

        Raises
        ------
        InvalidInput, UnknownId
        """
        way = check_direction(direction)
        if max_depth is not None and not max_depth >= 0:
            raise InvalidInput(f"max_depth: expected a number of at least 0, found {max_depth!r}.")
        return self._engine.query(lambda con: walk(con, find_ref(con, thing), way, max_depth, limit))

    def tree(
        self, thing: Any, direction: str = "upstream", *, max_depth: int | None = None, limit: int = 200
    ) -> LineageGraph:
        """Draw the lineage as a tree: ``print`` it, or let a notebook show it.

        A thing that several others came from is drawn once in full.
        """
        return self.graph(thing, direction, max_depth=max_depth, limit=limit)

    def to_dot(self, thing: Any, direction: str = "both", *, max_depth: int | None = None) -> str:
        """Write the lineage in the language of Graphviz."""
        return self.graph(thing, direction, max_depth=max_depth).to_dot()

    def to_mermaid(self, thing: Any, direction: str = "both", *, max_depth: int | None = None) -> str:
        """Write the lineage as a Mermaid flowchart."""
        return self.graph(thing, direction, max_depth=max_depth).to_mermaid()

    def __repr__(self) -> str:
        return f"<lineage of {self._engine.layout.root}>"


def _linkable(con: Connection, sources: Any, target: Any) -> tuple[list[Ref], Ref]:
    """Find both ends of new links; refuses those that would close a circle."""
    to = find_ref(con, target)
    refs = [find_ref(con, source) for source in _several(sources)]
    for ref in refs:
        if lineage_rows.reaches(con, ref, to):
            raise LineageCycle(
                f"{ref} came from {to}, so {to} cannot be made from it. Nothing was recorded; "
                "store.lineage.tree() or 'nirs-store lineage show' has the way between them."
            )
    return refs, to


def _unlinkable(
    con: Connection, sources: Any, target: Any, link_type: str | None
) -> tuple[list[Ref], Ref, int]:
    """Find both ends of recorded links and how many there are; refuses those that are not recorded but follow."""
    to, refs, count = find_ref(con, target), [], 0
    links = [
        link
        for link in lineage_rows.neighbours(con, [to], upstream=True)
        if link_type in (None, link.link_type)
    ]
    # A source that is named twice still has each of its links once.
    for ref in dict.fromkeys(find_ref(con, source) for source in _several(sources)):
        refs.append(ref)
        between = [link for link in links if link.source == ref]
        recorded = sum(link.link_id is not None for link in between)
        if between and not recorded:
            raise InvalidInput(
                f"That {to} came from {ref} follows from what the store holds, and cannot be taken back "
                "by itself. Nothing was changed."
            )
        count += recorded
    return refs, to, count


def _record(con: Connection, source: Ref, target: Ref, link_type: str, metadata: str | None) -> str:
    for link in lineage_rows.neighbours(con, [target], upstream=True):
        if link.source == source and link.link_type == link_type and link.link_id is not None:
            return link.link_id
    row = {
        "link_id": new_id(),
        "source_kind": source.kind,
        "source_id": source.id,
        "target_kind": target.kind,
        "target_id": target.id,
        "link_type": link_type,
        "metadata": metadata,
        "created_at": now_naive(),
    }
    lineage_rows.insert_links(con, [row])
    return str(row["link_id"])


def _several(sources: Any) -> list[Any]:
    """One thing or several: a pair of texts whose first is a kind is one."""
    if isinstance(sources, str) or (
        isinstance(sources, tuple) and len(sources) == 2 and sources[0] in lineage_rows.KINDS
    ):
        return [sources]
    found = list(sources)
    if not found:
        raise InvalidInput("sources: expected at least one, found none. Nothing was changed.")
    return found


def _kinds(kinds: str | Sequence[str] | None) -> set[str] | None:
    if kinds is None:
        return None
    return {check_kind(kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)}
