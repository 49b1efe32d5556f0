"""Scope of a calibration: matrix, range, instruments and wavelengths for which it may be used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nirs_store.errors import InvalidInput, did_you_mean, quoted
from nirs_store.lazy import polars as pl
from nirs_store.values import as_text

SCOPE_KEYS = ("matrix", "range", "instruments", "wavelengths", "note")
# Grids are compared to a thousandth of a channel's distance from its neighbors, which units round away.
_SLACK = 1e-6


def as_scope(value: Any) -> dict[str, Any]:
    """Check a scope, and return it in its normal form."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(
            f"scope: expected a dict such as {{'matrix': 'milk', 'range': (2, 6)}}, found {quoted(value)}. Nothing "
            "was registered."
        )
    found: dict[str, Any] = {}
    for name, each in value.items():
        if name not in SCOPE_KEYS:
            raise InvalidInput(
                f"scope: there is no {quoted(name)}.{did_you_mean(name, SCOPE_KEYS)} It may hold "
                f"{', '.join(SCOPE_KEYS)}. Nothing was registered."
            )
        if each is None:
            continue
        if name == "note":
            found[name] = as_text(each, "scope.note")
        elif name == "range" and isinstance(each, Mapping):
            keys = [as_text(key, "scope.range") for key in each]
            found[name] = {key: _interval(each[key], f"scope.range.{key}") for key in keys}
        elif name in ("range", "wavelengths"):
            found[name] = _interval(each, f"scope.{name}")
        else:
            listed = [each] if isinstance(each, str) else each
            if not isinstance(listed, (list, tuple, set, frozenset)) or not listed:
                raise InvalidInput(
                    f"scope.{name}: expected a text or a list of texts, found {quoted(each)}. Nothing was registered."
                )
            found[name] = sorted({as_text(text, f"scope.{name}").strip() for text in listed})
    return found


def _interval(value: Any, name: str) -> list[float]:
    try:
        low, high = (float(each) for each in value)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InvalidInput(
            f"{name}: expected the lowest and the highest value, found {quoted(value)}. Nothing was registered."
        )
    return [low, high]


def check_targets(scope: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse limits of a target that predictions of the chain do not name: nothing would check them."""
    limits = scope.get("range")
    for name in limits if isinstance(limits, Mapping) else ():
        if not known:
            raise InvalidInput(
                f"scope.range: expected (lowest, highest), because the chain has no target name; found limits of "
                f"{quoted(name)}. Nothing was registered. Leave the name out, or record the chain with target=."
            )
        if name not in known:
            raise InvalidInput(
                f"scope.range: the chain does not predict {quoted(name)}.{did_you_mean(name, known)} It predicts "
                f"{', '.join(known)}. Nothing was registered."
            )


def finish(
    details: pl.DataFrame,
    correction: Any,
    scope: Mapping[str, Any],
    *,
    instrument: str | None,
    matrix: str | None,
    wavelengths: Any,
) -> pl.DataFrame:
    """Correct a detailed prediction, and flag what is outside the scope; check only what the caller states."""
    # Corrected first: the range of a scope is about what is reported.
    details = details if correction is None else correction.apply(details)
    if not scope:
        return details
    words = [
        f"outside scope: {what}"
        for what, known, said in (
            ("matrix", scope.get("matrix"), matrix),
            ("instrument", scope.get("instruments"), instrument),
        )
        if known and said is not None and _plain(said) not in map(_plain, known)
    ]
    grid = scope.get("wavelengths")
    if grid and wavelengths is not None and len(wavelengths):
        values = np.asarray(wavelengths, dtype=float)
        slack = _SLACK * max(abs(grid[0]), abs(grid[1]))
        if values.min() < grid[0] - slack or values.max() > grid[1] + slack:
            words.append("outside scope: wavelengths")
    flags = pl.col("flags")
    if words:
        details = details.with_columns(flags.list.concat(pl.lit(words)))
    limits = scope.get("range")
    if limits and details["prediction"].dtype.is_numeric():
        found = pl.col("prediction")
        beyond = pl.lit(False)
        several = "target" in details.columns
        each = limits if isinstance(limits, Mapping) else {None: limits}
        for target, (low, high) in each.items():
            if several or len(each) == 1:
                of_target = (pl.col("target") == target) if several and target is not None else pl.lit(True)
                beyond = beyond | (of_target & ((found < low) | (found > high)))
        added = flags.list.concat(pl.lit(["outside scope: range"]))
        details = details.with_columns(flags=pl.when(beyond).then(added).otherwise(flags))
    return details


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
