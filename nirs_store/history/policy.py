"""Retention policies: rules, limits and their combination, as values that can be stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from nirs_store.errors import InvalidInput
from nirs_store.files.names import MODES
from nirs_store.history.triggers import EVERY
from nirs_store.scores import higher_is_better
from nirs_store.values import one_of, whole_number

__all__ = [
    "AUTOMATIC", "ON", "Limit", "RetentionPolicy", "Rule", "as_policy", "keep_all", "keep_champions", "keep_recent",
    "keep_top_k", "limit", "many",
]  # fmt: skip

ON = ("chain", "run", "file", "measurement")
PER = ("type", "model", "dataset", "run", "name")
POLICIES = ("keep_all", "keep_top_k", "keep_recent", "keep_champions")
AUTOMATIC = ("never", "on_close", "after_run", *EVERY)


def _count(value: Any, name: str, least: int = 1) -> int | None:
    return None if value is None else whole_number(name, value, least)


def _days(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise InvalidInput(f"{name}: expected days of at least 0, found {value!r}. Nothing was changed.")
    return float(value)


def many(kind: str) -> str:
    """Return the plural of a kind of things."""
    return "days of measurements" if kind == "measurement" else f"{kind}s"


def _check_mode(mode: Any, on: str) -> None:
    if mode is not None:
        one_of("mode", mode, MODES)
        if on != "file":
            raise InvalidInput(f"mode: only files have one, and this is about {on}s. Nothing was changed.")


@dataclass(frozen=True)
class Rule:
    """One reason to keep things; made by `keep_all`, `keep_top_k`, `keep_recent` and `keep_champions`."""

    policy: str
    on: str = "chain"
    count: int | None = None
    metric: str | None = None
    per: tuple[str, ...] = ()
    days: float | None = None
    higher_is_better: bool | None = None
    type: str | None = None
    mode: str | None = None

    def __post_init__(self) -> None:
        _check_mode(self.mode, self.on)
        one_of("policy", self.policy, POLICIES)
        one_of("on", self.on, ON)
        for name in self.per:
            one_of("per", name, PER)
        _count(self.count, "count")
        _days(self.days, "days")
        if self.on == "measurement" and self.policy in ("keep_top_k", "keep_champions"):
            raise InvalidInput(
                f"{self.policy}: measurements have no score. Keep those of the last days. Nothing was changed."
            )
        if self.policy == "keep_top_k":
            if self.count is None:
                raise InvalidInput("keep_top_k: expected how many to keep. Nothing was changed.")
            if self.on != "chain" and self.metric is None:
                raise InvalidInput(f"keep_top_k of {self.on}s: name the metric. Nothing was changed.")
            if self.metric is not None and (self.on == "chain" or self.higher_is_better is None):
                higher_is_better(self.metric)  # refuses an unknown name and suggests the nearest
        if self.policy == "keep_recent" and self.count is None and self.days is None:
            raise InvalidInput("keep_recent: expected a count or days. Nothing was changed.")

    @property
    def words(self) -> str:
        """Describe the rule."""
        per = self.per
        if self.on == "measurement":
            # Its name and its model are the calibration; see `_groups` in plan.py.
            per = (*(key for key in per if key not in ("name", "model")), "calibration")
        each = f" of each {' and '.join(per)}" if per else ""
        what = (f"{self.mode} " if self.mode else "") + many(self.on)
        what += f" of type {self.type}" if self.type else ""
        if self.policy == "keep_top_k":
            return f"the {self.count} best {what}{each} by {self.metric or 'their metric'}"
        if self.policy == "keep_recent":
            parts = [] if self.count is None else [f"the {self.count} newest {what}{each}"]
            parts += [] if self.days is None else [f"{what} of the last {self.days:g} days"]
            return " and ".join(parts)
        return f"all {what}" if self.policy == "keep_all" else f"{what} that are or were champions"

    def __or__(self, other: Rule | Limit | RetentionPolicy) -> RetentionPolicy:
        return RetentionPolicy((self,)) | other


@dataclass(frozen=True)
class Limit:
    """A bound on what the rules keep; made by `limit`."""

    on: str = "chain"
    type: str | None = None
    max_count: int | None = None
    max_bytes: int | None = None
    max_age_days: float | None = None
    mode: str | None = None

    def __post_init__(self) -> None:
        _check_mode(self.mode, self.on)
        one_of("on", self.on, ON)
        _count(self.max_count, "max_count", 0)
        _count(self.max_bytes, "max_bytes", 0)
        _days(self.max_age_days, "max_age_days")
        if self.max_count is None and self.max_bytes is None and self.max_age_days is None:
            raise InvalidInput("limit: expected max_count, max_bytes or max_age_days. Nothing was changed.")

    @property
    def words(self) -> str:
        """Describe the limit."""
        bounds = [
            words
            for value, words in (
                (
                    self.max_count,
                    f"{self.max_count} of {'each calibration' if self.on == 'measurement' else 'them'}",
                ),
                (self.max_bytes, f"{self.max_bytes or 0:,} bytes"),
                (self.max_age_days, f"{self.max_age_days or 0:g} days of age"),
            )
            if value is not None
        ]
        what = (f"{self.mode} " if self.mode else "") + many(self.on)
        return f"{what}{f' of type {self.type}' if self.type else ''}: at most {', '.join(bounds)}"

    def __or__(self, other: Rule | Limit | RetentionPolicy) -> RetentionPolicy:
        return RetentionPolicy((), (self,)) | other


@dataclass(frozen=True)
class RetentionPolicy:
    """Rules and limits together.

    Attributes
    ----------
    rules : tuple of Rule
    limits : tuple of Limit
    automatic : {"never", "on_close", "after_run", "hourly", "daily", "weekly"}
        When it is carried out without being asked: never, when a store is closed, when a run is completed, or as
        often by every store that is open for writing, and on closing where it is due.

    Examples
    --------
    >>> policy = keep_top_k(3, "rmse", per="model") | keep_recent(days=30) | limit(max_age_days=365)
    >>> print(policy)
    keep the 3 best chains of each model by rmse
    keep chains of the last 30 days
    limit chains: at most 365 days of age
    >>> RetentionPolicy.from_dict(policy.to_dict()) == policy
    True
    """

    rules: tuple[Rule, ...] = ()
    limits: tuple[Limit, ...] = ()
    automatic: str = "never"

    def __post_init__(self) -> None:
        one_of("automatic", self.automatic, AUTOMATIC)

    def by_date(self, kind: str) -> bool:
        """Tell whether dates decide what goes of a kind."""
        return any(bound.on == kind for bound in self.limits) or any(
            rule.on == kind and rule.policy == "keep_recent" for rule in self.rules
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of things that it is about."""
        abouts = {rule.on for rule in self.rules} | {bound.on for bound in self.limits}
        return tuple(kind for kind in ON if kind in abouts)

    def __or__(self, other: Rule | Limit | RetentionPolicy) -> RetentionPolicy:
        if isinstance(other, Rule):
            return RetentionPolicy((*self.rules, other), self.limits, self.automatic)
        if isinstance(other, Limit):
            return RetentionPolicy(self.rules, (*self.limits, other), self.automatic)
        automatic = self.automatic if other.automatic == "never" else other.automatic
        return RetentionPolicy((*self.rules, *other.rules), (*self.limits, *other.limits), automatic)

    def __str__(self) -> str:
        lines = [f"keep {rule.words}" for rule in self.rules]
        lines += [f"limit {bound.words}" for bound in self.limits]
        if self.automatic != "never":
            lines.append(f"carried out {self.automatic.replace('_', ' ')}")  # "on close", "daily"
        return "\n".join(lines) or "keep everything"

    def to_dict(self) -> dict[str, Any]:
        """Return the policy as plain data, without what is not set."""
        return {
            "rules": [_filled(rule) for rule in self.rules],
            "limits": [_filled(bound) for bound in self.limits],
            "automatic": self.automatic,
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> RetentionPolicy:
        """Make a policy from plain data.

        Raises
        ------
        InvalidInput
            Something is unknown (the nearest is named) or does not fit.
        """
        if not isinstance(given, Mapping):
            raise InvalidInput(
                f"policy: expected an object, found {type(given).__name__}. Nothing was changed."
            )
        for name in given:
            one_of("policy", name, ("rules", "limits", "automatic"))
        return cls(
            tuple(_made(Rule, rule) for rule in given.get("rules") or ()),
            tuple(_made(Limit, bound) for bound in given.get("limits") or ()),
            given.get("automatic") or "never",
        )


def _filled(part: Rule | Limit) -> dict[str, Any]:
    values = {name: value for name, value in asdict(part).items() if value not in (None, ())}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _made(kind: Any, given: Any) -> Any:
    if not isinstance(given, Mapping):
        raise InvalidInput(
            f"{kind.__name__.lower()}: expected an object, found {given!r}. Nothing was changed."
        )
    known = [field.name for field in fields(kind)]
    for name in given:
        one_of(kind.__name__.lower(), name, known)
    values = dict(given)
    if "per" in values:
        values["per"] = _names(values["per"])
    if kind is Rule and "policy" not in values:
        raise InvalidInput(f"rule: expected a policy, one of {', '.join(POLICIES)}. Nothing was changed.")
    return kind(**values)


def _names(per: Any) -> tuple[str, ...]:
    return () if per is None else (per,) if isinstance(per, str) else tuple(per)


def keep_all(*, on: str = "chain", type: str | None = None, mode: str | None = None) -> Rule:
    """Keep everything of a kind (chains, runs or files), or of one type (of files: or mode) of it."""
    return Rule("keep_all", on, type=type, mode=mode)


def keep_top_k(
    k: int,
    metric: str | None = None,
    *,
    on: str = "chain",
    per: str | Sequence[str] | None = None,
    higher_is_better: bool | None = None,
    type: str | None = None,
    mode: str | None = None,
) -> Rule:
    """Keep the best k by a metric.

    Parameters
    ----------
    k : int
    metric : str, optional
        As on the leaderboard; without one each chain counts by the usual metric of its task. Of files: a number in
        their metadata (also below ``metrics`` or ``scores``), or a score of the evaluation that they belong to.
    on : {"chain", "run", "file", "measurement"}
        A run counts by its best pipeline.
    per : {"type", "model", "dataset", "run", "name"} or several, optional
        k of each. Scores of different data sets, targets or units are never compared, whatever is given: k of each
        of them stay.
    higher_is_better : bool, optional
        For a metric that this library does not know.
    type : str, optional
        Only things of this type. Training sets and model checkpoints go only by rules that name their type.
    mode : {"production", "test"}, optional
        Only files of this mode. Production content goes only by rules that name the mode.

    Raises
    ------
    InvalidInput
    """
    return Rule("keep_top_k", on, k, metric, _names(per), None, higher_is_better, type, mode)


def keep_recent(
    count: int | None = None,
    *,
    days: float | None = None,
    on: str = "chain",
    per: str | Sequence[str] | None = None,
    type: str | None = None,
    mode: str | None = None,
) -> Rule:
    """Keep the newest (of each type, model, ...), or what was made in the last days, or both."""
    return Rule("keep_recent", on, count, None, _names(per), days, None, type, mode)


def keep_champions(*, on: str = "chain") -> Rule:
    """Keep what is or ever was a champion. Present champions are never taken in any case."""
    return Rule("keep_champions", on)


def limit(
    *,
    on: str = "chain",
    type: str | None = None,
    max_count: int | None = None,
    max_bytes: int | None = None,
    max_age_days: float | None = None,
    mode: str | None = None,
) -> Limit:
    """Bound what the rules keep: the newest stay."""
    return Limit(on, type, max_count, max_bytes, max_age_days, mode)


def as_policy(given: RetentionPolicy | Rule | Limit | Mapping[str, Any]) -> RetentionPolicy:
    """Return a rule, a limit, a policy or its plain data as a policy."""
    if isinstance(given, (RetentionPolicy, Rule, Limit)):
        return RetentionPolicy() | given
    return RetentionPolicy.from_dict(given)
