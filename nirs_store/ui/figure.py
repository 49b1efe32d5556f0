"""Figures as SVG, made here: drawn at once, without a script, on paper and in a file alike.

The colors are classes of ``page.css``, the ones of `nirs_store.plots`. Points carry a ``<title>``, which browsers
show and screen readers read; ``page.js`` shows it without the wait, and marks the same sample in the other figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import ArrayLike, NDArray

from nirs_store.display import printable
from nirs_store.errors import shortened

Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]
#: Draws one mark: given what turns values of x and of y into places, and the box of the axes.
Draw = Callable[[Any, Any, Box], Iterable[str]]
#: More points than these are drawn as one path; only those farthest out keep a title.
_MOST_TITLED = 2000
_TITLED_OF_MANY = 200
#: A line has no more points than a screen has pixels.
_MOST_ON_LINE = 1500


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return round numbers within bounds, about as many as wanted."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if span / (m * power) <= count + 0.5)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


_DAY = 86_400.0
_STEPS = (
    *(1.0, 5.0, 15.0, 60.0, 300.0, 900.0),
    *(k * 3600.0 for k in (1, 3, 6, 12)),
    *(k * _DAY for k in (1, 2, 7, 14)),
)


def time_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return moments within bounds, as seconds since 1970, with the words for them."""
    span = (high - low) / 6
    step = next((each for each in _STEPS if span <= each), None)
    if step is not None:
        form = "%m-%d %H:%M:%S" if step < 60 else "%m-%d %H:%M" if step < _DAY else "%Y-%m-%d"
        places = [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
        return [
            (each, f"{_moment(each):{form}}")
            for each in places[:: 2 if step >= _DAY and len(places) > 5 else 1]
        ]
    months = next((each for each in (1, 2, 3, 6, 12, 24, 60, 120) if span <= each * 31 * _DAY), 600)
    first, last = _moment(low), _moment(high)
    numbers = range(first.year * 12 + first.month - 1, last.year * 12 + last.month)
    moments = [datetime(n // 12, n % 12 + 1, 1, tzinfo=UTC) for n in numbers if n % months == 0 and n >= 12]
    return [(each.timestamp(), f"{each:%Y-%m}") for each in moments if low <= each.timestamp() <= high]


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class Figure:
    """Axes with points, lines, bands and bars; what is drawn first lies below."""

    def __init__(
        self,
        title: str,
        x: str,
        y: str,
        *,
        equal: bool = False,
        falling: bool = False,
        whole_x: bool = False,
        labels: Sequence[str] = (),
        zero: bool = False,
        times: bool = False,
        width: int = 460,
        height: int = 340,
    ) -> None:
        self.title, self.x, self.y = title, x, y
        self.equal, self.falling, self.whole_x, self.labels, self.zero = equal, falling, whole_x, labels, zero
        self.times, self.width, self.height = times, width, height if not equal else width - 40
        self._xs: list[Floats] = []
        self._ys: list[Floats] = []
        self._draws: list[Draw] = []
        self._legend: list[tuple[str, str, str]] = []
        self._linked, self._margin = False, 0.0
        self.data: list[dict[str, Any]] = []

    # -- what is drawn ---------------------------------------------------------------------------

    def points(
        self,
        x: ArrayLike,
        y: ArrayLike,
        kind: str = "s0",
        *,
        label: str = "",
        titles: Sequence[str] | None = None,
        keys: Sequence[Any] | None = None,
        links: Sequence[str] | None = None,
        marker: str = "circle",
        size: float = 3.2,
        where: ArrayLike | None = None,
    ) -> Figure:
        """Draw points, some or all; `titles` are shown when pointed at, `keys` name samples of other figures too."""
        xs, ys = _flat(x), _flat(y)
        known = np.isfinite(xs) & np.isfinite(ys)
        if where is not None:
            known &= np.asarray(where, bool)
            if not known.any():
                return self
        rows, xs, ys = np.flatnonzero(known).tolist(), xs[known], ys[known]
        self._linked |= links is not None
        self._margin = 0.04

        def mark(row: int, a: float, b: float) -> str:
            if marker == "triangle":
                s = size * 1.25
                shape, end = (
                    f'path d="M{a:.1f} {b - s:.1f}L{a + s:.1f} {b + s * 0.8:.1f}H{a - s:.1f}Z"',
                    "path",
                )
            else:
                shape, end = f'circle cx="{a:.1f}" cy="{b:.1f}" r="{size}"', "circle"
            key = "" if keys is None else f' data-key="{_shown(str(keys[row]))}"'
            drawn = (
                f'<{shape} class="mark {kind}"{key}>{"" if titles is None else _title(titles[row])}</{end}>'
            )
            return (
                f'<a href="{escape(links[row])}">{drawn}</a>' if links is not None and links[row] else drawn
            )

        def draw(px: Any, py: Any, _: Box) -> Iterator[str]:
            across, up, places = px(xs), py(ys), range(xs.size)
            if xs.size > _MOST_TITLED:
                dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(across, up, strict=True))
                yield f'<path class="dots {kind}" d="{dots}"/>'
                far = np.abs(ys - np.median(ys)) if not self.equal else np.abs(ys - xs)
                places = np.argsort(-far)[:_TITLED_OF_MANY].tolist()
            yield from (mark(rows[i], float(across[i]), float(up[i])) for i in places)

        return self._add("points", xs, ys, draw, kind, label, marker)

    def groups(
        self, x: ArrayLike, y: ArrayLike, parts: Iterable[tuple[Any, str, str]], **more: Any
    ) -> Figure:
        """Draw points in groups: where each is, its kind, and its words in the legend."""
        for where, kind, words in parts:
            self.points(x, y, kind, label=words, where=where, **more)
        return self

    def line(
        self, x: ArrayLike, y: ArrayLike, kind: str = "line", *, label: str = "", title: str = "", dashed: bool = False
    ) -> Figure:  # fmt: skip
        """Draw a line; it breaks where a value is missing."""
        xs, ys = _thinned(_flat(x), _flat(y))
        dash = " dashed" if dashed else ""

        def draw(px: Any, py: Any, _: Box) -> Iterator[str]:
            yield f'<path class="line {kind}{dash}" d="{_path(px(xs), py(ys))}">{_title(title) if title else ""}</path>'

        return self._add("line", xs, ys, draw, kind, label, "line")

    def band(
        self, x: ArrayLike, low: ArrayLike, high: ArrayLike, kind: str = "faint", *, label: str = ""
    ) -> Figure:
        """Fill the space between two lines."""
        xs, both = _thinned(_flat(x), np.column_stack([_flat(low), _flat(high)]))

        def draw(px: Any, py: Any, _: Box) -> Iterator[str]:
            known = np.isfinite(both).all(axis=1)
            there = _path(px(xs[known]), py(both[known, 0]))
            back = _path(px(xs[known])[::-1], py(both[known, 1])[::-1])
            if there:
                yield f'<path class="band {kind}" d="{there}{back.replace("M", "L", 1)}Z"/>'

        return self._add("band", xs, both, draw, kind, label, "band")

    def spans(
        self, x: ArrayLike, low: ArrayLike, high: ArrayLike, kind: str = "s0", *, label: str = ""
    ) -> Figure:
        """Draw upright lines from low to high: intervals of single values."""
        xs, both = _flat(x), np.column_stack([_flat(low), _flat(high)])
        self._margin = 0.04

        def draw(px: Any, py: Any, _: Box) -> Iterator[str]:
            known = np.isfinite(both).all(axis=1)
            ends = zip(px(xs[known]), py(both[known, 0]), py(both[known, 1]), strict=True)
            path = "".join(f"M{a:.1f} {b:.1f}V{c:.1f}" for a, b, c in ends)
            yield f'<path class="line span {kind}" d="{path}"/>'

        return self._add("spans", xs, both, draw, kind, label, "line")

    def bars(
        self, x: ArrayLike, y: ArrayLike, kind: str = "s0", *, label: str = "", width: float = 0.8,
        titles: Sequence[str] | None = None,
    ) -> Figure:  # fmt: skip
        """Draw bars from zero."""
        self.zero, self._margin = True, 0.04
        xs, ys = _flat(x), _flat(y)
        self._xs += [xs - width / 2, xs + width / 2]

        def draw(px: Any, py: Any, _: Box) -> Iterator[str]:
            base = py(0.0)
            for i in np.flatnonzero(np.isfinite(ys)).tolist():
                left, right = sorted((px(xs[i] - width / 2), px(xs[i] + width / 2)))
                yield (
                    f'<rect class="bar {kind}" x="{left + 0.5:.1f}" y="{min(base, py(ys[i])):.1f}" '
                    f'width="{max(right - left - 1, 1):.1f}" height="{abs(py(ys[i]) - base):.1f}">'
                    f"{_title(titles[i]) if titles else ''}</rect>"
                )

        return self._add("bars", xs, ys, draw, kind, label, "band")

    def across(self, value: float, kind: str = "limit", *, label: str = "") -> Figure:
        """Draw a dashed line across the figure at a value of y."""
        return self._rule(
            self._ys, value, kind, label, lambda px, py, box: f"M{box[0]} {py(value):.1f}H{box[1]}"
        )

    def upright(self, value: float, kind: str = "limit", *, label: str = "") -> Figure:
        """Draw a dashed upright line at a value of x."""
        return self._rule(
            self._xs, value, kind, label, lambda px, py, box: f"M{px(value):.1f} {box[2]}V{box[3]}"
        )

    def _rule(
        self, values: list[Floats], value: float, kind: str, label: str, path: Callable[..., str]
    ) -> Figure:
        known = _flat([value])
        if not np.isfinite(known).all():
            return self
        values.append(known)
        self._draws.append(lambda *where: [f'<path class="line dashed {kind}" d="{path(*where)}"/>'])
        return self.entry(label, kind, "dashed")

    def histogram(self, values: ArrayLike, kind: str = "s0", *, label: str = "") -> Figure:
        """Draw how often values occur."""
        known = _flat(values)
        known = known[np.isfinite(known)]
        if known.size:
            bins = min(40, max(5, math.ceil(2 * known.size ** (1 / 3))))
            counts, edges = np.histogram(known, bins, _span([known], 0.0))
            titles = [f"{a:.4g} to {b:.4g}: {n}" for a, b, n in zip(edges, edges[1:], counts, strict=False)]
            middles, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
            self.bars(middles, counts, kind, label=label, width=width, titles=titles)
        return self

    def _add(self, what: str, x: Floats, y: Floats, draw: Draw, kind: str, label: str, marker: str) -> Figure:
        self._xs.append(x)
        self._ys.append(y.ravel())
        self._draws.append(draw)
        self.data.append({"mark": what, "name": label or kind, "x": x, "y": y})
        return self.entry(label, kind, marker)

    def entry(self, label: str, kind: str, marker: str) -> Figure:
        """Put a line into the legend, once."""
        if label and (label, kind, marker) not in self._legend:
            self._legend.append((label, kind, marker))
        return self

    # -- how -------------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        return any(np.isfinite(mark["y"]).any() for mark in self.data)

    def svg(self) -> Markup:
        """Return the figure as an element; nothing where there is nothing to draw."""
        if not self:
            return Markup("")
        left, right, top, bottom = 58, 20, 12, 44
        turned = any(len(each) > 4 for each in self.labels)
        if turned:
            bottom += min(90, 5 * max(len(shortened(each, 18)) for each in self.labels))
        legend_rows = self._legend_rows(self.width - left - right)
        top += 17 * len(legend_rows)
        height = self.height + 17 * len(legend_rows) + (bottom - 44)
        x0, x1, y0, y1 = limits = self._limits()
        wide, high = self.width - left - right, height - top - bottom
        box = (left, self.width - right, top, top + high)

        def px(value: Any) -> Any:
            share = (value - x0) / (x1 - x0)
            return left + wide * ((1 - share) if self.falling else share)

        def py(value: Any) -> Any:
            return top + high * (1 - (value - y0) / (y1 - y0))

        # Links within an image are not reached with the keyboard.
        role = "group" if self._linked else "img"
        parts = [
            f'<svg class="figure" viewBox="0 0 {self.width} {height}" role="{role}" aria-label="{_shown(self.title)}">',
            *self._axes(px, py, limits, box, height, turned),
            f'<svg x="{left}" y="{top}" width="{wide}" height="{high}" viewBox="{left} {top} {wide} {high}">',
            *(part for draw in self._draws for part in draw(px, py, box)),
            "</svg>",
            *_legend(legend_rows, left),
            "</svg>",
        ]
        return Markup("".join(parts))

    def _limits(self) -> Box:
        # A file that is predicted at once is measured at one moment: a minute, not a share of the time since 1970.
        x0, x1 = _span(self._xs, self._margin, 60.0 if self.times else 0.0)
        y0, y1 = _span(self._ys, 0.06)
        if self.zero:
            least = [float(np.nanmin(y)) * 1.06 for y in self._ys if np.isfinite(y).any()]
            y0, y1 = min(y0 if y1 < 0 else 0.0, *least, 0.0), max(y1, 0.0)
        if self.equal:
            x0 = y0 = min(x0, y0)
            x1 = y1 = max(x1, y1)
        return x0, x1, y0, y1

    def _axes(self, px: Any, py: Any, limits: Box, box: Box, height: float, turned: bool) -> Iterator[str]:
        (x0, x1, y0, y1), (left, right, top, bottom) = limits, box
        yield '<g class="axes">'
        yt = ticks(y0, y1, 5)
        numbers, factor = _numbers(yt)
        if factor:
            yield f'<text x="4" y="{top - 4:.0f}">{factor}</text>'
        for y, words in zip(map(py, yt), numbers, strict=True):
            yield f'<path d="M{left:.1f} {y:.1f}H{right:.1f}"/>'
            yield f'<text x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{words}</text>'
        if self.labels:
            for place, name in enumerate(self.labels):
                x = px(place)
                end = f'end" transform="rotate(-40 {x:.1f} {bottom + 14:.1f})' if turned else "middle"
                words = f"{_shown(name, 18)}{_title(name)}"
                yield f'<text x="{x:.1f}" y="{bottom + 14:.1f}" text-anchor="{end}">{words}</text>'
        else:
            xt = [t for t in ticks(x0, x1, 6) if not self.whole_x or float(t).is_integer()]
            numbers, factor = _numbers(xt)
            if factor and not self.times:
                yield f'<text x="{right:.0f}" y="{bottom + 30:.0f}" text-anchor="end">{factor}</text>'
            for value, words in time_ticks(x0, x1) if self.times else zip(xt, numbers, strict=True):
                x = px(value)
                yield f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>'
                yield f'<text x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{words}</text>'
        yield f'<path class="frame" d="M{left} {top}V{bottom}H{right}"/>'
        across, up = (left + right) / 2, (top + bottom) / 2
        turn = f"translate(13 {up:.0f}) rotate(-90)"
        for where, words in (
            (f'x="{across:.0f}" y="{height - 8:.0f}"', _shown(self.x, int((right - left) / 6.2))),
            (f'transform="{turn}"', _shown(self.y, int((bottom - top) / 6.2))),
        ):
            yield f'<text class="name" {where} text-anchor="middle">{words}</text>'
        yield "</g>"
        if self.equal:
            yield f'<path class="one" d="M{px(x0):.1f} {py(x0):.1f}L{px(x1):.1f} {py(x1):.1f}"/>'

    def _legend_rows(self, wide: float) -> list[list[tuple[str, str, str]]]:
        rows: list[list[tuple[str, str, str]]] = []
        used = wide + 1.0
        for label, kind, marker in self._legend[:12]:
            words = shortened(printable(label), 40)
            need = 32 + 6.2 * len(words)
            if used + need > wide:
                rows.append([])
                used = 0.0
            rows[-1].append((words, kind, marker))
            used += need
        return rows


def _flat(values: ArrayLike) -> Floats:
    """Return values as numbers; those too large to subtract from each other are not drawn."""
    found = np.asarray(values, float).ravel()
    return np.where(np.abs(found) < 1e300, found, np.nan)


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    step = max(1, math.ceil(x.size / _MOST_ON_LINE))
    return x[::step], y[::step]


def _shown(text: str, longest: int = 0) -> Markup:
    """Return a text for an element, cut where it may not be long."""
    return escape(shortened(printable(text), longest) if longest else printable(text))


def _title(text: str) -> str:
    return f"<title>{_shown(text)}</title>"


def _legend(rows: list[list[tuple[str, str, str]]], left: float) -> Iterable[str]:
    for number, row in enumerate(rows):
        x, y = left, 12 + 17 * number
        for words, kind, marker in row:
            if marker == "circle":
                sign = f'<circle class="mark {kind}" cx="{x + 8:.0f}" cy="{y - 4}" r="4"/>'
            elif marker == "triangle":
                sign = f'<path class="mark {kind}" d="M{x + 8:.0f} {y - 9}l5 8h-10z"/>'
            elif marker == "band":
                sign = f'<rect class="band {kind}" x="{x + 1:.0f}" y="{y - 9}" width="14" height="9"/>'
            else:
                dash = " dashed" if marker == "dashed" else ""
                sign = f'<path class="line {kind}{dash}" d="M{x:.0f} {y - 4}h16"/>'
            yield f'{sign}<text class="legend" x="{x + 20:.0f}" y="{y}">{escape(words)}</text>'
            x += 32 + 6.2 * len(words)


def _span(parts: Sequence[Floats], margin: float, least: float = 0.0) -> tuple[float, float]:
    known = np.concatenate(parts) if parts else np.empty(0)
    known = known[np.isfinite(known)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    wide = high - low
    # What differs by rounding alone is one value.
    if wide <= 1e-12 * max(abs(low), abs(high)):
        wide, margin = 0.0, max(margin, 0.5)
    wide = max(wide, least) or abs(high) or 1.0
    return low - margin * wide, high + margin * wide


def _numbers(values: Sequence[float]) -> tuple[list[str], str]:
    """Write the numbers of an axis, and the power of ten that is written once at its end."""
    largest = max((abs(v) for v in values), default=0.0)
    power = 0 if not largest or 1e-3 <= largest < 1e5 else math.floor(math.log10(largest) + 1e-9)
    shown = [v / 10.0**power for v in values]
    places = max((len(f"{v:.8f}".rstrip("0").partition(".")[2]) for v in shown), default=0)
    factor = "×10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")) if power else ""
    return [f"{v:.{places}f}".replace("-", "−") for v in shown], factor


def _path(x: Floats, y: Floats) -> str:
    parts, pen = [], "M"
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        if math.isfinite(a) and math.isfinite(b):
            parts.append(f"{pen}{a:.1f} {b:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)
