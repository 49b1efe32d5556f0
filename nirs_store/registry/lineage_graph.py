"""A part of the lineage as a value: as a data frame, a tree, Graphviz and Mermaid."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from nirs_store.catalog.access import Connection
from nirs_store.catalog.lineage_rows import Link, Ref, names_of, neighbours
from nirs_store.display import escape, short
from nirs_store.errors import InvalidInput
from nirs_store.lazily import polars as pl

__all__ = ["DIRECTIONS", "LineageGraph", "check_direction", "walk"]

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


def check_direction(direction: Any) -> str:
    """One of `DIRECTIONS`.

    Raises
    ------
    InvalidInput
        With the nearest.
    """
    if direction not in DIRECTIONS:
        near = difflib.get_close_matches(str(direction), DIRECTIONS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InvalidInput(f"direction: expected one of {', '.join(DIRECTIONS)}, found {direction!r}.{hint}")
    return str(direction)


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
        What is not in it is gone from the store.
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
        """Everything but the root, nearest first, a row each."""
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
        """The graph as plain data."""
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
        """The graph in the language of Graphviz; recorded links are solid, those that follow are dashed."""
        number = {ref: f"n{place}" for place, ref in enumerate(self.depths)}
        lines = ["digraph lineage {", "  rankdir=LR;", "  node [shape=box];"]
        lines += [f'  {number[ref]} [label="{_dot(self._label(ref))}"];' for ref in self.depths]
        for link in self.links:
            style = "" if link.link_id else ", style=dashed"
            ends = f"{number[link.source]} -> {number[link.target]}"
            lines.append(f'  {ends} [label="{_dot(link.link_type)}"{style}];')
        return "\n".join([*lines, "}"]) + "\n"

    def to_mermaid(self) -> str:
        """The graph as a Mermaid flowchart; recorded links are solid, those that follow are dotted."""
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
                made = place.add(Text(_printable(words)))
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
        """The tree as text, a line a thing."""
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
        return _printable(f"{ref.kind} {digits} {words}".rstrip())


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


def _printable(text: str) -> str:
    # Names were written by whoever recorded them; nothing of them may steer a terminal.
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _dot(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _mermaid(text: str) -> str:
    # Mermaid has entities in the place of escapes.
    return text.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
