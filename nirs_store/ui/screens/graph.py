"""A lineage drawn as boxes in columns: what it came from on the left, what it led to on the right."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup, escape

from nirs_store.display import printable
from nirs_store.errors import shortened
from nirs_store.ui.frame import address

_WIDE, _HIGH, _GAP, _ROW = 190, 38, 60, 52
BOXES = 60


def lineage_graph(graph: Any) -> Markup:
    """Return a `LineageGraph` as SVG; each box leads to the lineage of its thing."""
    sides = _sides(graph)
    refs = sorted(graph.depths, key=lambda ref: (sides[ref], ref.kind, ref.id))[:BOXES]
    columns: dict[int, list[Any]] = {}
    for ref in refs:
        columns.setdefault(sides[ref], []).append(ref)
    order = sorted(columns)
    tallest = max(len(each) for each in columns.values())
    place = {
        ref: (10 + order.index(side) * (_WIDE + _GAP), 10 + row * _ROW + (tallest - len(found)) * _ROW / 2)
        for side, found in columns.items()
        for row, ref in enumerate(found)
    }
    width, height = 20 + len(order) * (_WIDE + _GAP) - _GAP, 20 + tallest * _ROW
    parts = [
        f'<svg class="figure graph" viewBox="0 0 {width} {height}" width="{width}" role="group" aria-label="Lineage">'
    ]
    for link in graph.links:
        # Within a column only what was recorded is drawn: what the parts of one thing need of each other is no news.
        apart = link.link_id or sides.get(link.source) != sides.get(link.target)
        if apart and link.source in place and link.target in place:
            (x1, y1), (x2, y2) = place[link.source], place[link.target]
            left, right = (x1 + _WIDE, x2) if x1 <= x2 else (x1, x2 + _WIDE)
            middle, y1, y2 = (left + right) / 2, y1 + _HIGH / 2, y2 + _HIGH / 2
            path = f"M{left:.0f} {y1:.0f}C{middle:.0f} {y1:.0f} {middle:.0f} {y2:.0f} {right:.0f} {y2:.0f}"
            dashed = "" if link.link_id else " dashed"
            parts.append(
                f'<path class="line faint{dashed}" d="{path}"><title>{escape(printable(link.link_type))}</title></path>'
            )
    for ref, (x, y) in place.items():
        name = printable(str(graph.names.get(ref) or "gone"))
        mark = " root" if ref == graph.root else ""
        parts.append(
            f'<a href="{escape(address("/lineage", id=ref.id))}"><rect class="box{mark}" x="{x:.0f}" y="{y:.0f}" '
            f'width="{_WIDE}" height="{_HIGH}" rx="6"><title>{escape(shortened(name, 400))}</title></rect>'
            f'<text class="name" x="{x + 8:.0f}" y="{y + 16:.0f}">{escape(shortened(name, 27))}</text>'
            f'<text x="{x + 8:.0f}" y="{y + 31:.0f}">{escape(ref.kind)} {escape(ref.id[-8:])}</text></a>'
        )
    return Markup("".join([*parts, "</svg>"]))


def _sides(graph: Any) -> dict[Any, int]:
    """Return for each thing how many links to the right of the root it is; to the left is negative."""
    sides = {graph.root: 0}
    waiting = [graph.root]
    while waiting:
        ref = waiting.pop(0)
        for link in graph.links:
            for end, other, step in ((link.source, link.target, 1), (link.target, link.source, -1)):
                if end == ref and other not in sides:
                    sides[other] = sides[ref] + step
                    waiting.append(other)
    return {ref: sides.get(ref, 0) for ref in graph.depths}
