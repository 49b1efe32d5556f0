"""JCAMP-DX files (.jdx, .dx): spectra in the forms AFFN, PAC, SQZ, DIF and DUP, single or in blocks.

R. S. McDonald and P. A. Wilks, Appl. Spectrosc. 42 (1988) 151: JCAMP-DX, a standard form for exchange of infrared
spectra in computer readable form; corrections in P. Lampen et al., Appl. Spectrosc. 53 (1999) 1491 (5.01).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nirs_store.reading.cells import parse_unit
from nirs_store.reading.dialect import Unreadable, decode
from nirs_store.reading.measured import Measured, check_finite, most_values, name_signal, printable

# A few characters can stand for any number of repeated values, so the size of the file is not a bound.
_MOST_POINTS = 2**20
_LABEL = re.compile(r"\s*##(.*?)=(.*)", re.DOTALL)
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_PLAIN = re.compile(rf"{_NUMBER}(?:[Ee][+-]?\d{{1,3}})?")
_TOKEN = re.compile(
    rf"[\s,;]*(?:(?P<pac>{_NUMBER})|(?P<sqz>[@A-Ia-i]\d*)|(?P<dif>[%J-Rj-r]\d*)|(?P<dup>[S-Zs]\d*)|(?P<gap>\?))"
)
# Pseudo-digits; E and e may as well begin an exponent, so they alone do not tell a packed form.
_PACKED = re.compile(r"[@%A-DF-Za-df-s]")
_DIGITS = (
    {c: str(k) for k, c in enumerate("@ABCDEFGHI")}
    | {c: f"-{k}" for k, c in enumerate("abcdefghi", 1)}
    | {c: str(k) for k, c in enumerate("%JKLMNOPQR")}
    | {c: f"-{k}" for k, c in enumerate("jklmnopqr", 1)}
    | {c: str(k) for k, c in enumerate("STUVWXYZs", 1)}
)
_DATA = ("XYDATA", "XYPOINTS", "PEAKTABLE", "PEAKASSIGNMENTS", "NTUPLES", "RADATA")
# What holds for one spectrum only, and says nothing of the sample.
_OWN = (
    "FIRSTY", "MAXY", "MINY", "DELTAX", "FIRSTX", "LASTX", "MAXX", "MINX", "NPOINTS", "XFACTOR", "YFACTOR", "XUNITS",
    "YUNITS", "JCAMPDX", "DATATYPE", "END", "BLOCKID", "BLOCKS", "RESOLUTION", "DATACLASS",
)  # fmt: skip


class _Block(NamedTuple):
    line: int
    labels: dict[str, str]
    data: list[tuple[str, str, int, list[tuple[int, str]]]]

    @property
    def title(self) -> str:
        return self.labels.get("TITLE", "")


def is_jcamp(head: bytes) -> bool:
    """Tell the first bytes of a JCAMP-DX file."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    begin = rb"(?:\$\$[^\n\r]*[\n\r]+\s*)*##\s*(TITLE|JCAMP[ _/-]*DX)\s*="
    return b"##" in head and re.match(begin, text, re.IGNORECASE) is not None


def read_jcamp(data: bytes, block: str | None = None) -> Measured:
    """Read the spectra of a JCAMP-DX file; its blocks become samples where they have one grid."""
    text, _ = decode(data)
    blocks = [each for each in _blocks(text) if each.data]
    if block is not None:
        titles = ", ".join(f"{k} {each.title[:40]!r}" for k, each in enumerate(blocks, 1))
        blocks = [each for k, each in enumerate(blocks, 1) if block in (each.title, str(k))]
        if not blocks:
            raise Unreadable(f"it holds no block {block!r}; it holds {titles or 'none'}.")
    spectra, notes = [], []
    for each in blocks:
        kinds = [data for data in each.data if data[0] in ("XYDATA", "XYPOINTS")]
        if kinds:
            spectra.append((each, *_spectrum(each, *kinds[0][1:])))
        else:
            notes.append(f"the block {each.title[:40]!r} with {each.data[0][0]} left out")
        if sum(len(y) for *_, y in spectra) > most_values():
            raise Unreadable(f"it holds more than {most_values()} values.")
    if not spectra:
        found = {data[0] for each in blocks for data in each.data}
        raise Unreadable(
            f"it holds no spectrum (XYDATA or XYPOINTS), but {', '.join(sorted(found)) or 'nothing else either'}."
        )
    first, x, _ = spectra[0]
    for each, other, _ in spectra[1:]:
        if len(other) != len(x) or not np.allclose(other, x, rtol=1e-9, atol=1e-6):
            raise Unreadable(
                f"the block {each.title[:40]!r} (line {each.line}) has another grid than {first.title[:40]!r}. "
                "Read one of them: block='TITLE' (--block)."
            )
    heads = [each.labels for each, _, _ in spectra]
    units = {head.get("XUNITS", "").strip().upper() for head in heads}
    signals = {name_signal(head.get("YUNITS", "")) for head in heads}
    for several, what in ((units, "X"), ({str(each) for each in signals}, "Y")):
        if len(several) > 1:
            raise Unreadable(f"its blocks have several units of {what}: {', '.join(sorted(several))}.")
    words = units.pop()
    unit = parse_unit(words)
    if unit == "um":
        x, unit = x * 1000, "nm"
    elif unit is None and words:
        notes.append(f"the X axis is {words.lower()}")
    X = np.vstack([y for _, _, y in spectra])
    check_finite(X, x if len(x) > 1 else None)
    return _told(X, x, unit, signals.pop(), heads, notes)


def _told(
    X: np.ndarray,
    x: np.ndarray,
    unit: str | None,
    signal: str | None,
    heads: list[dict[str, str]],
    notes: list[str],
) -> Measured:
    common, labels = {"format": "JCAMP-DX"}, {}
    for name in dict.fromkeys(name for head in heads for name in head):
        values = [head.get(name, "") for head in heads]
        if name in _OWN or name == "TITLE":
            continue
        if len(set(values)) == 1:
            common[name.lower()] = values[0][:200]
        else:
            labels[name.lower()] = values
    titles = [head.get("TITLE", "") for head in heads]
    several = len(heads) > 1
    named = several and all(titles) and len(set(titles)) == len(titles)
    if titles[0] and not named:
        labels = {"title": titles, **labels}
    ids = (titles if named else [str(k + 1) for k in range(len(heads))]) if several else None
    return Measured(X, x, unit, signal, ids, labels, {k: v for k, v in common.items() if v}, notes)


def _records(text: str) -> Iterator[tuple[int, str, str, list[tuple[int, str]]]]:
    """Split the text into labels with their values and the lines below; comments go."""
    label, value, start = "", "", 0
    below: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("$$", 1)[0].rstrip()
        found = _LABEL.match(line)
        if found:
            if label:
                yield start, label, value, below
            label, value = re.sub(r"[\s_/-]", "", found[1]).upper(), found[2].strip()
            below, start = [], number
        elif line.strip():
            if not label:
                raise Unreadable(f"this is not a JCAMP-DX file: line {number} is before the first ##LABEL=.")
            below.append((number, line))
    if label:
        yield start, label, value, below


def _blocks(text: str) -> list[_Block]:
    """Collect the blocks; those of a LINK block are siblings of it."""
    open_blocks: list[_Block] = []
    found: list[_Block] = []
    for number, label, value, below in _records(text):
        if label == "TITLE" or not open_blocks:
            block = _Block(number, {}, [])
            open_blocks.append(block)
            found.append(block)
        if label == "END":
            open_blocks.pop()
        elif label in _DATA:
            open_blocks[-1].data.append((label, value, number, below))
        elif label:
            whole = " ".join([value, *(line.strip() for _, line in below)])
            open_blocks[-1].labels.setdefault(label, printable(whole.encode("latin-1", "replace")))
    if open_blocks:
        raise Unreadable(f"the block {open_blocks[-1].title[:40]!r} has no ##END=; the file was cut off.")
    return found


def _number(labels: dict[str, str], name: str, default: float | None = None) -> float:
    text = labels.get(name, "").strip()
    if not text and default is not None:
        return default
    found = _PLAIN.fullmatch(text if "." in text else text.replace(",", "."))
    value = float(found[0]) if found else float("nan")
    if not np.isfinite(value):
        raise Unreadable(f"##{name}= must be a number; found {text[:40]!r}.")
    return value


def _spectrum(
    block: _Block, form: str, line: int, below: list[tuple[int, str]]
) -> tuple[np.ndarray, np.ndarray]:
    labels = block.labels
    form = re.sub(r"\s", "", form).upper()
    factors = _number(labels, "XFACTOR", 1.0), _number(labels, "YFACTOR", 1.0)
    count = _number(labels, "NPOINTS")
    if not 1 <= count <= _MOST_POINTS or count != int(count):
        raise Unreadable(f"##NPOINTS= must be a whole number from 1 to {_MOST_POINTS}; found {count:g}.")
    n = int(count)
    if form.startswith("(XY..XY)"):
        x, y = _pairs(below)
        if len(x) != n:
            raise Unreadable(f"##NPOINTS= is {n}, but {len(x)} pairs of X and Y follow line {line}.")
        return x * factors[0], y * factors[1]
    if not form.startswith("(X++(Y..Y)"):
        raise Unreadable(f"line {line}: expected the form (X++(Y..Y)) or (XY..XY), found {form[:40]!r}.")
    first, last = _number(labels, "FIRSTX"), _number(labels, "LASTX")
    grid = np.linspace(first, last, n)
    comma = any(
        re.fullmatch(r"[+-]?\d+,\d+", labels.get(name, "").strip()) for name in ("FIRSTX", "LASTX", "YFACTOR")
    )
    ordinates = _ordinates(below, n, grid, factors[0], comma)
    if len(ordinates) != n:
        raise Unreadable(
            f"##NPOINTS= is {n}, but {len(ordinates)} values follow line {line}; lines are missing."
        )
    return grid, np.array(ordinates) * factors[1]


def _pairs(below: list[tuple[int, str]]) -> tuple[np.ndarray, np.ndarray]:
    values: list[float] = []
    for number, line in below:
        tokens = re.split(r"[\s,;]+", line.strip(" \t,;"))
        if len(tokens) % 2 or not all(map(_PLAIN.fullmatch, tokens)):
            raise Unreadable(f"line {number} must hold pairs of X and Y; found {line.strip()[:40]!r}.")
        values.extend(map(float, tokens))
    array = np.array(values).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _ordinates(
    below: list[tuple[int, str]], n: int, grid: np.ndarray, factor: float, comma: bool
) -> list[float]:
    """Decode lines of X and ordinates, and hold the checks of X and of differences."""
    packed = any(_PACKED.search(line) for _, line in below)
    y: list[float] = []
    differences = False
    for number, line in below:
        line = line.replace(",", ".") if comma else line
        values, ended = _packed(line, number, n) if packed else (_plain(line, number), False)
        if not values:
            raise Unreadable(f"line {number} holds no numbers.")
        x, ordinates = values[0] * factor, values[1:]
        if differences and not ordinates:
            raise Unreadable(f"line {number}: the ordinate that checks the line above is missing.")
        if differences:
            # A line that ends with a difference is checked by the first ordinate of the next.
            if ordinates[0] != y[-1]:
                raise Unreadable(
                    f"line {number}: the check of the line above fails, its last value is {y[-1]:g}, not "
                    f"{ordinates[0]:g}. The file is damaged, or was written wrongly."
                )
            ordinates = ordinates[1:]
        place = len(y) - differences
        step = abs(grid[-1] - grid[0]) / max(n - 1, 1)
        if place < n and abs(x - grid[place]) > 1.01 * max(step, abs(factor)) + 1e-6 * abs(x):
            raise Unreadable(
                f"line {number} begins at X = {x:g}; by the lines above it should be {grid[place]:g}. "
                "A line is missing, or FIRSTX, LASTX or NPOINTS is wrong."
            )
        y.extend(ordinates)
        differences = ended
        if len(y) > n:
            raise Unreadable(f"line {number}: more than the {n} values that ##NPOINTS= says.")
    return y


def _plain(line: str, number: int) -> list[float]:
    values, at = [], 0
    line = line.strip(" \t,;")
    while at < len(line):
        found = _PLAIN.match(line, at)
        if found is None:
            raise Unreadable(f"line {number}: expected a number, found {line[at : at + 20]!r}.")
        values.append(float(found[0]))
        at = found.end()
        while at < len(line) and line[at] in " \t,;":
            at += 1
    return values


def _packed(line: str, number: int, most: int) -> tuple[list[float], bool]:
    """Decode a line with pseudo-digits; say whether its last value is a difference."""
    values: list[float] = []
    step: float | None = None
    line, at = line.rstrip(" \t,;"), 0
    while at < len(line):
        found = _TOKEN.match(line, at)
        if found is None or found["gap"]:
            raise Unreadable(f"line {number}: expected a number, found {line[at : at + 20].strip()!r}.")
        at = found.end()
        kind = str(found.lastgroup)
        token = found[kind]
        value = float(token if kind == "pac" else _DIGITS[token[0]] + token[1:])
        if kind in ("pac", "sqz"):
            values.append(value)
            step = None
            continue
        if len(values) < 2:
            raise Unreadable(f"line {number}: {token!r} has no ordinate before it.")
        if kind == "dif":
            step = value
            values.append(values[-1] + step)
            continue
        if value < 1 or len(values) + value > most + 3:
            raise Unreadable(
                f"line {number}: {token!r} repeats a value {value:g} times; ##NPOINTS= is {most}."
            )
        for _ in range(int(value) - 1):
            values.append(values[-1] + (step or 0.0))
    return values, step is not None
