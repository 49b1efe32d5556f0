"""Rows of a table that sum up its samples, as "Mean" and "SD" above or below them, in a dozen languages.

Uses the standard library and numpy only: scripts that predict on their own carry the source of this module.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nirs_store.reading.cells import is_missing, parse_number, tidy
from nirs_store.reading.dialect import Unreadable

# Words without accents, blanks and points. Short ones are names of samples as well, so they need the numbers.
_WORDS = {
    "mean": "mean meanvalue meanspectrum average avg averagevalue mittelwert mittel durchschnitt moyenne media "
    "promedio valormedio mediaaritmetica gemiddelde medel medelvarde middelvaerdi middel gjennomsnitt "
    "gennemsnit keskiarvo srednia prumer atlag ortalama среднее среднеезначение 平均 平均值 平均値 ø ⌀ ср "
    "среднезнач",
    "sd": "sd std stdev stddev stdevs stdevp stdabw stdabweichung standarddeviation standardabweichung stabw "
    "stabwn stabws ecarttype desviacionestandar desviaciontipica desvest desviopadrao desvpad "
    "deviazionestandard devst devstd devstandard standaarddeviatie standaardafwijking stdafw "
    "standardavvikelse standardavvik standardafvigelse keskihajonta odchyleniestandardowe "
    "smerodatnaodchylka szoras standartsapma стандартноеотклонение σ 标准差 標準偏差",
    "min": "min мин minimum minimo minimalwert minwert mini minimaal minimi минимум 最小值 最小",
    "max": "max макс maximum maximo massimo maximalwert maxwert maxi maximaal maksimum maksimi максимум 最大值 最大",
    "median": "median mediane mediana mediaan medianwert zentralwert медиана 中位数 中央値",
    "var": "variance varianz varianza variancia variantie вариация",
    "cv": "cv% %cv rsd% %rsd rsd coefficientofvariation coeffvar coeffofvariation variationskoeffizient "
    "coefficientdevariation relstdev relativestandarddeviation",
    "se": "standarderror stderr stderror standardfehler erreurtype errorestandar sem",
    "range": "spannweite etendue rango",
    "n": "count anzahl nombre effectif aantal nobs numberofsamples nosamples",
}
_SHORT = {
    "mean": "m mw moy gem ave aver x μ µ",
    "sd": "s",
    "var": "var",
    "cv": "cv vk",
    "se": "se",
    "range": "range",
    "sum": "sum summe somme suma total totale gesamt",
    "n": "n",
    "25%": "25% q1",
    "75%": "75% q3",
    "median": "50% q2 med",
}
_FILLING = (
    "of all the overall grand total sample samples spectrum spectra spectral value values absorbance "
    "reflectance calibration set der die aller alle proben wert werte spektrum gesamt des de los las le "
    "la les echantillons muestras valeur valor population"
)
_FILL = frozenset(_FILLING.split())
_ASIDE = re.compile(r"[(\[].*?[)\]]")
_TOKEN = re.compile(r"(?:[^\W_]|%|\.(?=\w))+|[⌀σμ]")
_LATE = 6
"""So many rows without a name, at the end of a table, are looked at for the mean of those above."""


def summary_of(name: str) -> tuple[str, bool] | None:
    """Return which summary a row is called after, and whether the name says nothing else.

    Examples
    --------
    >>> summary_of("Mean"), summary_of("Std. dev. (n=60)"), summary_of("S1 mean"), summary_of("Meander 3")
    (('mean', True), ('sd', True), ('mean', False), None)
    """
    for text in (name, _ASIDE.sub(" ", name)):
        words = [each.replace(".", "") for each in _TOKEN.findall(_plain(text))]
        if "".join(words) in _MEANT:
            return _MEANT["".join(words)]
    core = [word for word in words if word not in _FILL and not word.isdigit() and word != "n"]
    kind, sure = _MEANT.get("".join(core), ("", False))
    if sure:
        # "Mean of all 60" says nothing else; "Min 3" may be the third of the samples that are called so.
        return kind, "n" in words or len(words) > len(core) + 1 or not words[-1].isdigit()
    for part in (*core, *("".join(pair) for pair in itertools.pairwise(core))):
        kind, sure = _MEANT.get(part, ("", False))
        if sure:
            return kind, False
    return None


def _plain(text: str) -> str:
    """Fold case and drop accents."""
    signs = unicodedata.normalize("NFKD", tidy(text).casefold())
    return "".join(sign for sign in signs if not unicodedata.combining(sign))


_MEANT = {
    _plain(word): (kind, sure)
    for words, sure in ((_SHORT, False), (_WORDS, True))
    for kind, each in words.items()
    for word in each.split()
}
"""Each word, as `_plain` has it, with its summary and whether it is sure."""


def list_summaries(labels: Sequence[Sequence[str]]) -> dict[int, tuple[str, tuple[str, bool]]]:
    """Find the rows whose first word is called after a summary: row to name, and what `summary_of` says."""
    found = {}
    for row, cells in enumerate(labels):
        filled = [cell for cell in cells if not is_missing(cell)]
        name = next((cell for cell in filled if parse_number(cell) is None), None)
        meant = None if name is None else summary_of(name)
        if name is not None and meant is not None:
            # After a number, which names the sample, the word may be a grade or a remark.
            found[row] = (name, (meant[0], meant[1] and filled[0] == name))
    return found


def find_summaries(X: Any, labels: Sequence[Sequence[str]], places: Sequence[str]) -> dict[int, str]:
    """Find rows that sum up the others: row to name. The numbers decide; a name alone is refused.

    Parameters
    ----------
    X : ndarray, shape (n, channels)
    labels : sequence of sequence of str
        Cells of the other columns, by row.
    places : sequence of str
        Where each row is, for messages.

    Raises
    ------
    Unreadable
        A row is called after a summary, but its numbers are not that of the rows next to it or of all.
    """
    named = list_summaries(labels)
    nameless = _nameless(X, labels, named)
    if not named and not nameless:
        return {}
    n = len(X)
    sure = {row for row, (_, (_, full)) in named.items() if full}
    rest = [row for row in range(n) if row not in named and row not in nameless]
    left: dict[int, str] = {}
    # Of "S1 mean" the numbers tell whether it sums up rows of this table, or is a sample that was averaged before.
    for row in sorted((named.keys() | nameless) - sure):
        kinds = (named[row][1][0],) if row in named else ("mean", "sd")
        if any(_sums_up(X, row, kind, rest, row in nameless) for kind in kinds):
            left[row] = named[row][0] if row in named else ""
    rest = [row for row in range(n) if row not in sure and row not in left]
    if sure and not rest:
        if len(sure) >= 2 * len({named[row][0] for row in sure}) or (n == 1 and named[0][1][0] == "mean"):
            return {}  # classes, or the mean of samples of another file
        row = min(sure)
        raise Unreadable(f"{places[row]} ({named[row][0]!r}) sums up samples that are not in the file.")
    doubtful = []
    for row in sorted(sure):
        if _sums_up(X, row, named[row][1][0], rest):
            left[row] = named[row][0]
        else:
            doubtful.append(row)
    words = {named[row][0] for row in doubtful}
    if doubtful and len(doubtful) < 2 * len(words):
        row = doubtful[0]
        name, (kind, _) = named[row]
        others = "other row" if len(rest) == 1 else f"other {len(rest)} rows"
        raise Unreadable(
            f"{places[row]} is called {name!r}, but its numbers are not the {_SAID.get(kind, kind)} of the "
            f"{others}. Delete the row if it sums up samples; if it is a sample, name it otherwise, "
            f"e.g. 'sample {name[:20]}'."
        )
    return left


_SAID = {
    "sd": "standard deviation",
    "min": "minimum",
    "max": "maximum",
    "var": "variance",
    "cv": "coefficient of variation",
    "se": "standard error",
    "n": "number",
}


def tell_left(left: dict[int, str], places: Sequence[str]) -> str:
    """Say which rows were left out as summaries."""
    shown = [f"{left[row]!r} ({places[row]})" if left[row] else places[row] for row in sorted(left)[:6]]
    more = f" and {len(left) - 6} more" if len(left) > 6 else ""
    return f"left out {', '.join(shown)}{more}, which sum{'s' * (len(left) == 1)} up the samples"


def _nameless(X: Any, labels: Sequence[Sequence[str]], named: dict[int, Any]) -> set[int]:
    """Find rows at the ends without a name: of a table of names those that have none, else the last few."""
    n = len(X)
    if n < 4:
        return set()
    if not labels or not labels[0]:
        few = X[:, :: max(1, X.shape[1] // 16)]
        for late in range(min(_LATE, n - 3), 0, -1):
            if _fits(few[-late], few[:-late].mean(axis=0), _rounding(few)) and _differ(few[:-late]):
                return set(range(n - late, n))
        return set()
    empty = [row not in named and is_missing(cells[0]) for row, cells in enumerate(labels)]
    if sum(empty) * 2 > n:
        return set()
    first = next((row for row in range(n) if not empty[row] and row not in named), n)
    last = next((row for row in range(n - 1, -1, -1) if not empty[row] and row not in named), -1)
    return {row for row in range(n) if empty[row] and not first < row < last}


def _sums_up(X: Any, row: int, kind: str, rest: Sequence[int], nameless: bool = False) -> bool:
    """Tell whether the numbers of a row are a summary of all samples, or of the block above or below it."""
    if kind == "n" and (X[row] == X[row, 0]).all() and X[row, 0] % 1 == 0 and X[row, 0] > 1:
        return True
    for rows in _blocks(row, rest):
        one = kind in ("mean", "median", "min", "max")
        if len(rows) < (3 if nameless else 1 if one else 2):
            continue
        # A few channels first: hundreds of rows may be called after a summary.
        for channels in (slice(None, None, max(1, X.shape[1] // 16)), slice(None)):
            samples, row_values = X[rows, channels], X[row, channels]
            if nameless and not _differ(samples):
                break
            slack = _rounding(row_values) + _rounding(samples[:20])
            # A value computed from rounded numbers carries more than their rounding, but for the mean and the like.
            share = 1e-6 if nameless or kind in ("mean", "min", "max", "median") else 1e-2
            if not any(_fits(row_values, each, slack, share) for each in _compute(kind, samples)):
                break
        else:
            return True
    return False


def _blocks(row: int, rest: Sequence[int]) -> Iterator[list[int]]:
    """Return the rows that one may sum up: all, those directly above, those directly below."""
    if not rest:
        return
    yield list(rest)
    above = [each for each in rest if each < row]
    below = [each for each in rest if each > row]
    for start in range(len(above) - 1, 0, -1):
        if above[start] - above[start - 1] > 1:
            above = above[start:]
            break
    for stop in range(1, len(below)):
        if below[stop] - below[stop - 1] > 1:
            below = below[:stop]
            break
    yield from (block for block in (above, below) if block and block != list(rest))


def _compute(kind: str, samples: Any) -> Iterator[Any]:
    n = len(samples)
    if kind == "mean":
        yield samples.mean(axis=0)
        return
    if kind in ("min", "max", "median", "sum"):
        yield getattr(np, kind)(samples, axis=0)
        return
    if kind in ("25%", "75%"):
        yield np.percentile(samples, float(kind[:2]), axis=0)
        return
    if kind == "range":
        yield np.ptp(samples, axis=0)
        return
    for ddof in (1, 0):
        sd = samples.std(axis=0, ddof=ddof)
        if kind == "sd":
            yield sd
        elif kind == "var":
            yield sd**2
        elif kind == "se":
            yield sd / np.sqrt(n)
        elif kind == "cv":
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.nan_to_num(sd / np.abs(samples.mean(axis=0)))
            yield share
            yield share * 100


def _fits(row: Any, wanted: Any, slack: float, share: float = 1e-6) -> bool:
    return bool((np.abs(row - wanted) <= slack + share * np.abs(wanted)).all())


def _differ(samples: Any) -> bool:
    """Tell samples that differ by more than what rounding leaves in doubt."""
    return bool((samples.std(axis=0) > 4 * _rounding(samples[:20])).mean() > 0.5)


def _rounding(X: Any) -> float:
    """Return half of the last digit that numbers are written with."""
    size = float(np.abs(X).max()) or 1.0
    for digits in range(11):
        if np.abs(np.round(X, digits) - X).max() <= 1e-12 * size:
            return 0.55 * 10.0**-digits
    return 0.0
