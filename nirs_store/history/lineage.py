"""Lineage: what came from what, upstream and downstream, over everything that a store holds."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from nirs_store.audit.trail import attempting, check_kind, guarded
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.table import Table
from nirs_store.display import escape, printable, short
from nirs_store.errors import InvalidInput, LineageCycle, UnknownId
from nirs_store.ids import new_id, now_naive
from nirs_store.lazy import polars as pl
from nirs_store.records.links import (
    EXPLICIT,
    KINDS,
    Link,
    Ref,
    delete_links,
    ends,
    existing,
    kinds_of,
    names_of,
    neighbours,
    reaches,
)
from nirs_store.records.named import find_version, is_name
from nirs_store.records.notes import check_guard, note
from nirs_store.records.queries import ID_COLUMNS, find_ids
from nirs_store.values import as_text, one_of, to_json

# -- Naming things of a store: what a caller may write where something of any kind is meant.


def find_ref(con: Connection, given: Any) -> Ref:
    """Parse an object reference: ``("chain", id)``, ``"chain:<id>"``, or an id alone."""
    if isinstance(given, str):
        kind, colon, identifier = given.partition(":")
        if not colon:
            return _by_id(con, given)
        ref = Ref(check_kind(kind), identifier)
    elif isinstance(given, (tuple, list)) and len(given) == 2:
        ref = Ref(check_kind(given[0]), as_text(given[1], "id"))
    else:
        raise InvalidInput(
            f"Expected ('kind', 'id'), 'kind:id' or an id, found {type(given).__name__}. Nothing was changed."
        )
    if ref.kind not in KINDS:
        raise InvalidInput(f"{ref.kind}: expected one of {', '.join(KINDS)}. Nothing was changed.")
    if ref.id and ref not in existing(con, [ref]):
        ref = Ref(ref.kind, _whole(con, ref.id, [ref.kind]))
    if not ref.id or ref not in existing(con, [ref]):
        raise UnknownId(ref.kind, ref.id, "Nothing was changed.")
    return ref


def _whole(con: Connection, part: str, kinds: Sequence[str]) -> str:
    """Return the one id that begins or ends with a part of four characters or more; else the part."""
    if is_name(part) and {"chain", "calibration"} & set(kinds):
        row = find_version(con, part)
        return str(row["chain_id"] if "chain" in kinds else row["version_id"])
    wanted = [kind for kind in kinds if kind in ID_COLUMNS]
    found = find_ids(con, part, wanted, 2)["id"].to_list() if len(part) >= 4 and wanted else []
    return str(found[0]) if len(set(found)) == 1 else part


def _by_id(con: Connection, identifier: str) -> Ref:
    kinds = kinds_of(con, as_text(identifier, "id"))
    if not kinds:
        identifier = _whole(con, identifier, list(ID_COLUMNS))
        kinds = kinds_of(con, identifier)
    if not kinds:
        raise UnknownId("object", identifier, "Nothing was changed. Write 'kind:id' for a bundle outside.")
    # An artifact's file has its hash for an id too; a user who gives an id alone means the first kind.
    return Ref(kinds[0], identifier)


# -- A part of the lineage as a value: as a data frame, a tree, Graphviz and Mermaid.


DIRECTIONS = ("upstream", "downstream", "both")
_DIGITS = 8
_NAME = 60
_CHILDREN = 30


@cache
def _schema() -> dict[str, Any]:
    return {
        "depth": pl.Int64,
        "kind": pl.String,
        "id": pl.String,
        "name": pl.String,
        "link_type": pl.String,
        "via_kind": pl.String,
        "via_id": pl.String,
    }


@dataclass(frozen=True)
class LineageGraph:
    """Things and the links between them, found from one of them.

    Attributes
    ----------
    root : Ref
    direction : {"upstream", "downstream", "both"}
    depths : dict of Ref to int
        Links between the root and each thing; the root itself is 0.
    links : tuple of Link
    names : dict of Ref to str
        Rows that are not in it are gone from the store.
    truncated : bool
        There is more.
    """

    root: Ref
    direction: str
    depths: dict[Ref, int]
    links: tuple[Link, ...]
    names: dict[Ref, str] = field(default_factory=dict)
    truncated: bool = False

    def frame(self, kinds: set[str] | None = None) -> pl.DataFrame:
        """Return all nodes but the root, nearest first, one row each."""
        first: dict[Ref, tuple[str, Ref]] = {}
        for link in self.links:
            for end, other in ((link.source, link.target), (link.target, link.source)):
                if self.depths.get(end, 0) == self.depths.get(other, 0) + 1:
                    first.setdefault(end, (link.link_type, other))
        rows = [
            (depth, ref.kind, ref.id, self.names.get(ref), first[ref][0], *first[ref][1])
            for ref, depth in self.depths.items()
            if ref in first and (kinds is None or ref.kind in kinds)
        ]
        rows.sort(key=lambda row: (row[0], row[1], row[2]))
        return pl.DataFrame(rows, schema=_schema(), orient="row")

    def to_dict(self) -> dict[str, Any]:
        """Return the graph as plain data."""
        return {
            "root": str(self.root),
            "direction": self.direction,
            "nodes": [
                {"kind": ref.kind, "id": ref.id, "name": self.names.get(ref), "depth": depth}
                for ref, depth in self.depths.items()
            ],
            "links": [
                {"source": str(a), "target": str(b), "link_type": kind, "recorded": link_id is not None}
                for a, b, kind, link_id in self.links
            ],
            "truncated": self.truncated,
        }

    # -- graphs ----------------------------------------------------------------------------------------

    def to_dot(self) -> str:
        """Return the graph in the language of Graphviz; recorded links are solid, those that follow are dashed."""
        number = {ref: f"n{place}" for place, ref in enumerate(self.depths)}
        lines = ["digraph lineage {", "  rankdir=LR;", "  node [shape=box];"]
        lines += [f'  {number[ref]} [label="{_dot(self._label(ref))}"];' for ref in self.depths]
        for link in self.links:
            style = "" if link.link_id else ", style=dashed"
            ends = f"{number[link.source]} -> {number[link.target]}"
            lines.append(f'  {ends} [label="{_dot(link.link_type)}"{style}];')
        return "\n".join([*lines, "}"]) + "\n"

    def to_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart; recorded links are solid, those that follow are dotted."""
        number = {ref: f"n{place}" for place, ref in enumerate(self.depths)}
        lines = ["flowchart LR"]
        lines += [f'  {number[ref]}["{_mermaid(self._label(ref))}"]' for ref in self.depths]
        for link in self.links:
            arrow = "-->" if link.link_id else "-.->"
            lines.append(
                f'  {number[link.source]} {arrow}|"{_mermaid(link.link_type)}"| {number[link.target]}'
            )
        return "\n".join(lines) + "\n"

    # -- trees -----------------------------------------------------------------------------------------

    def __rich__(self) -> Any:
        from rich.text import Text
        from rich.tree import Tree

        top = Tree(Text(self._label(self.root)))
        ways = ("upstream", "downstream") if self.direction == "both" else (self.direction,)
        for way in ways:
            branch = top.add(Text("came from" if way == "upstream" else "led to")) if len(ways) > 1 else top
            self._grow(branch, self.root, way, {self.root})
        if self.truncated:
            top.add(Text("… and more: set limit, or max_depth"))
        return top

    def _grow(self, branch: Any, node: Ref, way: str, drawn: set[Ref]) -> None:
        from rich.text import Text

        # A stack of its own: a lineage can be longer than Python calls may be deep.
        waiting = [(branch, node)]
        below = self._below(way)
        while waiting:
            place, ref = waiting.pop()
            children = below.get(ref, [])
            for link_type, child in children[:_CHILDREN]:
                again = child in drawn and below.get(child)
                words = f"{self._label(child)}  ({link_type})" + ("  … as above" if again else "")
                made = place.add(Text(printable(words)))
                if child not in drawn:
                    drawn.add(child)
                    waiting.append((made, child))
            if len(children) > _CHILDREN:
                place.add(Text(f"… and {len(children) - _CHILDREN} more"))

    def _below(self, way: str) -> dict[Ref, list[tuple[str, Ref]]]:
        found: dict[Ref, list[tuple[str, Ref]]] = {}
        for link in self.links:
            near, far = (link.target, link.source) if way == "upstream" else (link.source, link.target)
            found.setdefault(near, []).append((link.link_type, far))
        return found

    def lines(self) -> Iterator[str]:
        """Return the tree as text, one line per object."""
        from rich.console import Console

        text = io.StringIO()
        console = Console(file=text, width=10_000, color_system=None, legacy_windows=False, emoji=False)
        console.print(self.__rich__())
        for line in text.getvalue().splitlines():
            yield line.rstrip()

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        return f"<lineage of {self.root}: {len(self.depths)} things, {len(self.links)} links>"

    def _repr_html_(self) -> str:
        lines = "\n".join(escape(line) for line in self.lines())
        return f'<pre style="line-height:1.2">{lines}</pre>'

    def _label(self, ref: Ref) -> str:
        # UUIDs of version 7 begin with the time, so their ends tell them apart; hashes do anywhere.
        digits = ref.id[-_DIGITS:] if "-" in ref.id else ref.id[:_DIGITS]
        name = self.names.get(ref)
        words = "(not here)" if name is None and ref.kind != "bundle" else short(name or "", _NAME)
        # Names come from the users who recorded them; no control character of theirs may reach a terminal.
        return printable(f"{ref.kind} {digits} {words}".rstrip())


def walk(
    con: Connection, root: Ref, direction: str, max_depth: int | None, limit: int | None
) -> LineageGraph:
    """Follow the links from one thing, level by level."""
    depths: dict[Ref, int] = {root: 0}
    links: dict[Link, None] = {}
    truncated = False
    for way in ("upstream", "downstream") if direction == "both" else (direction,):
        front, depth, seen = [root], 0, {root}
        while front and (max_depth is None or depth < max_depth):
            depth += 1
            found = neighbours(con, front, upstream=way == "upstream")
            front = []
            for link in found:
                far = link.source if way == "upstream" else link.target
                if far not in seen:
                    if limit is not None and len(depths) > limit:
                        truncated = True
                        continue
                    seen.add(far)
                    depths.setdefault(far, depth)
                    front.append(far)
                links[link] = None
    kept = tuple(link for link in links if link.source in depths and link.target in depths)
    return LineageGraph(root, direction, depths, kept, names_of(con, depths), truncated)


def _dot(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _mermaid(text: str) -> str:
    # Mermaid has entities in the place of escapes.
    return text.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")


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

    def __init__(self, engine: Engine, *, store: object = None) -> None:
        self._engine = engine
        # Held, so that a store which nothing else holds is not closed under its view.
        self._store = store

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
        values = None if metadata is None else dict(metadata)
        to_json(values, "metadata")  # refused here if it is not plain data
        engine = self._engine
        arguments = {"metadata": metadata, "link_type": kind}
        if dry_run:
            # Nothing is attempted, so nothing is noted either.
            check_guard(engine, arguments)
            engine.query(lambda con: _linkable(con, sources, target))
            return []
        guarded(engine, "link", arguments)

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
                delete_links(con, ref, to, link_type)
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
        """Return everything that an object came from, nearest first.

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
        """Return everything that came from an object, nearest first; see `upstream`."""
        return self.graph(thing, "downstream", max_depth=max_depth).frame(_kinds(kinds))

    def links(self, thing: Any) -> list[Link]:
        """Return the links of something itself, to its sources and to what came from it."""

        def ask(con: Connection) -> list[Link]:
            ref = find_ref(con, thing)
            return neighbours(con, [ref], upstream=True) + neighbours(con, [ref], upstream=False)

        return self._engine.query(ask)

    def graph(
        self,
        thing: Any,
        direction: str = "upstream",
        *,
        max_depth: int | None = None,
        limit: int | None = None,
    ) -> LineageGraph:
        """Return everything upstream, downstream or both, with the links between.

        Parameters
        ----------
        direction : {"upstream", "downstream", "both"}
        limit : int, optional
            Not more things than about so many; ``truncated`` says that there are more. All by default.

        Raises
        ------
        InvalidInput, UnknownId
        """
        way = one_of("direction", direction, DIRECTIONS, "")
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
        if reaches(con, ref, to):
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
    links = [link for link in neighbours(con, [to], upstream=True) if link_type in (None, link.link_type)]
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


def _record(
    con: Connection, source: Ref, target: Ref, link_type: str, metadata: Mapping[str, Any] | None
) -> str:
    for link in neighbours(con, [target], upstream=True):
        if link.source == source and link.link_type == link_type and link.link_id is not None:
            return link.link_id
    link_id = new_id()
    facts = {"link_id": link_id, "link_type": link_type, "metadata": metadata, "created_at": now_naive()}
    Table(con, EXPLICIT).insert([ends(source, target) | facts])
    return link_id


def _several(sources: Any) -> list[Any]:
    """One thing or several: a pair of texts whose first is a kind is one."""
    if isinstance(sources, str) or (isinstance(sources, tuple) and len(sources) == 2 and sources[0] in KINDS):
        return [sources]
    found = list(sources)
    if not found:
        raise InvalidInput("sources: expected at least one, found none. Nothing was changed.")
    return found


def _kinds(kinds: str | Sequence[str] | None) -> set[str] | None:
    if kinds is None:
        return None
    return {check_kind(kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)}
