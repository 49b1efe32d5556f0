"""Whether a figure can be read: nothing cut off, nothing on top of something else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import Any


def unreadable(figure: Any) -> list[str]:
    """List texts that leave the figure, and those that cover each other."""
    figure.draw_without_rendering()
    return [
        *_cut(figure),
        *(each for axes in figure.axes for each in _covered(axes)),
        *(each for legend in figure.legends for each in _under(figure, legend)),
    ]


def _box(artist: Any) -> Any:
    return artist.get_window_extent()


def _ticks(axis: Any) -> list[Any]:
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    labels = [label for tick in ticks for label in (tick.label1, tick.label2)]
    return [label for label in labels if label.get_visible() and label.get_text()]


def _texts(figure: Any) -> Iterator[Any]:
    for axes in figure.axes:
        yield from (axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts)
        yield from (*_ticks(axes.xaxis), *_ticks(axes.yaxis))
    yield from (figure._suptitle, figure._supxlabel)
    yield from (text for legend in figure.legends for text in legend.get_texts())


def _cut(figure: Any) -> list[str]:
    found = []
    for text in _texts(figure):
        if text is None or not text.get_text().strip():
            continue
        box = _box(text)
        if min(box.x0, box.y0) < -1 or box.x1 > figure.bbox.width + 1 or box.y1 > figure.bbox.height + 1:
            found.append(f"cut: {text.get_text()!r}")
    return found


def _covered(axes: Any) -> list[str]:
    found = []
    for axis in (axes.xaxis, axes.yaxis):
        ticks = _ticks(axis)
        if ticks and not ticks[0].get_rotation():
            pairs = pairwise(ticks)
            found += [f"ticks: {a.get_text()}, {b.get_text()}" for a, b in pairs if _box(a).overlaps(_box(b))]
        if axis.label.get_text():
            found += [
                f"label over tick {tick.get_text()}"
                for tick in ticks
                if _box(tick).overlaps(_box(axis.label))
            ]
    texts = [text for text in axes.texts if text.get_text()]
    # The numbers of a table follow each other along its rows; names can be anywhere.
    named = [text for text in texts if hasattr(text, "xyann")]
    pairs = [*pairwise(texts), *combinations(named, 2)]
    return found + [f"names: {a.get_text()}, {b.get_text()}" for a, b in pairs if _box(a).overlaps(_box(b))]


def _under(figure: Any, legend: Any) -> list[str]:
    below = [axes.xaxis.label for axes in figure.axes if axes.xaxis.label.get_text()]
    return [f"legend over {each}" for each in (*figure.axes, *below) if _box(each).overlaps(_box(legend))]
