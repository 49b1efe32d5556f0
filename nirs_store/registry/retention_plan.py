"""Planning retention: what the rules keep, what the limits cut, what has to stay all the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from nirs_store.catalog import retention_rows
from nirs_store.catalog.access import Connection
from nirs_store.catalog.engine import Engine
from nirs_store.display import byte_text, escape, short
from nirs_store.ids import earlier, utcnow
from nirs_store.registry.policies import Limit, RetentionPolicy, Rule
from nirs_store.scores import higher_is_better

__all__ = ["Held", "Item", "RetentionPlan", "RetentionResult", "make_plan", "settle"]

_SHOWN = 20
Row = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """Something that would go, and why.

    `bytes` are those of artifacts that it alone holds.
    """

    kind: str
    id: str
    name: str
    type: str
    made_at: datetime
    bytes: int
    why: str


@dataclass(frozen=True)
class Held:
    """Something that no rule keeps, and that stays because something needs it."""

    kind: str
    id: str
    name: str
    reason: str


@dataclass(frozen=True)
class RetentionPlan:
    """What a policy would let go of now.

    Attributes
    ----------
    policy : RetentionPolicy
    take : tuple of Item
    held : tuple of Held
    kept : dict of str to int
        How many of each kind stay.
    """

    policy: RetentionPolicy
    take: tuple[Item, ...]
    held: tuple[Held, ...]
    kept: dict[str, int]

    @property
    def bytes(self) -> int:
        """Bytes that would become free, at least: things that go together can free what they share."""
        return sum(item.bytes for item in self.take)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {
            "policy": self.policy.to_dict(),
            "take": [asdict(item) for item in self.take],
            "held": [asdict(held) for held in self.held],
            "kept": self.kept,
            "bytes": self.bytes,
        }

    def __str__(self) -> str:
        lines = str(self.policy).splitlines()
        if not self.take:
            lines.append("Nothing would go.")
        else:
            lines.append(f"{len(self.take)} would go ({byte_text(self.bytes)}):")
            lines += _shown(f"  {i.kind} {i.id[-8:]}  {short(i.name, 50)}  {i.why}" for i in self.take)
        if self.held:
            lines.append(f"{len(self.held)} stay although no rule keeps them:")
            lines += _shown(f"  {h.kind} {h.id[-8:]}  {short(h.name, 50)}  {h.reason}" for h in self.held)
        if self.kept:
            lines.append("stay: " + ", ".join(f"{count:,} {kind}s" for kind, count in self.kept.items()))
        return "\n".join(_printable(line) for line in lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


@dataclass(frozen=True)
class RetentionResult:
    """What was let go of.

    Attributes
    ----------
    removed : dict of str to list of str
        Ids by kind.
    skipped : int
        That had been planned and were needed, or gone, when it was their turn.
    files, bytes : int
        Blobs removed.
    """

    removed: dict[str, list[str]]
    skipped: int
    files: int
    bytes: int

    @property
    def taken(self) -> int:
        """How many things went."""
        return sum(map(len, self.removed.values()))

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return {**asdict(self), "taken": self.taken}

    def __str__(self) -> str:
        what = ", ".join(f"{len(ids):,} {kind}s" for kind, ids in self.removed.items() if ids) or "nothing"
        later = f"; {self.skipped} stayed after all" if self.skipped else ""
        return f"let go of {what}, {self.files} files ({byte_text(self.bytes)}){later}"


def make_plan(engine: Engine, policy: RetentionPolicy) -> RetentionPlan:
    """Look what a policy would let go of; changes nothing."""
    ranks = {rule: _chain_ranks(engine, rule) for rule in policy.rules if _ranks_chains(rule)}

    def ask(con: Connection) -> RetentionPlan:
        rows = {
            kind: list(retention_rows.candidates(con, kind).iter_rows(named=True)) for kind in policy.kinds
        }
        going: dict[str, dict[str, str]] = {
            kind: _going(con, policy, kind, found, ranks) for kind, found in rows.items()
        }
        taken = {kind: list(why) for kind, why in going.items()}
        held = settle(con, taken, engine.living_sessions())
        by_id = {(kind, row["id"]): row for kind, found in rows.items() for row in found}
        take = [
            Item(kind, identifier, row["name"], row["type"], row["made_at"], int(row["bytes"]), why)
            for kind, ids in taken.items()
            for identifier in ids
            for row, why in ((by_id[kind, identifier], going[kind][identifier]),)
        ]
        stay = [
            Held(kind, identifier, by_id[kind, identifier]["name"], reason)
            for (kind, identifier), reason in held.items()
        ]
        kept = {kind: len(found) - len(taken[kind]) for kind, found in rows.items()}
        return RetentionPlan(policy, tuple(take), tuple(stay), kept)

    return engine.query(ask)


def settle(con: Connection, taken: dict[str, list[str]], alive: list[str]) -> dict[tuple[str, str], str]:
    """Give back what has to stay, until nothing that stays needs anything that goes; returns why."""
    held: dict[tuple[str, str], str] = {}
    while True:
        back = {
            (kind, identifier): reason
            for kind, ids in taken.items()
            if ids
            for identifier, reason in retention_rows.reasons(con, kind, taken, alive).items()
        }
        if not back:
            return held
        held |= back
        for kind, ids in taken.items():
            taken[kind] = [identifier for identifier in ids if (kind, identifier) not in back]


def _going(
    con: Connection,
    policy: RetentionPolicy,
    kind: str,
    rows: list[Row],
    ranks: dict[Rule, dict[str, int]],
) -> dict[str, str]:
    """Ids that go by the rules and limits of one kind, and why."""
    rules = [rule for rule in policy.rules if rule.on == kind]
    going: dict[str, str] = {}
    if rules:
        kept: set[str] = set()
        for rule in rules:
            of_type = [row for row in rows if rule.type is None or row["type"] == rule.type]
            kept |= _keeps(con, rule, of_type, ranks)
        # A rule about one type says nothing about the others.
        about = {rule.type for rule in rules}
        words = " or ".join(f"not {rule.words}" for rule in rules) if len(rules) == 1 else "no rule keeps it"
        going = {
            row["id"]: words
            for row in rows
            if row["id"] not in kept and (None in about or row["type"] in about)
        }
    for bound in (bound for bound in policy.limits if bound.on == kind):
        left = [row for row in rows if row["id"] not in going and bound.type in (None, row["type"])]
        going |= dict.fromkeys(_beyond(bound, left), f"beyond the limit ({bound.words})")
    return going


def _keeps(con: Connection, rule: Rule, rows: list[Row], ranks: dict[Rule, dict[str, int]]) -> set[str]:
    if rule.policy == "keep_all":
        return {row["id"] for row in rows}
    if rule.policy == "keep_champions":
        return retention_rows.champions(con, rule.on, ever=True)
    if rule.policy == "keep_recent":
        kept = set()
        if rule.count is not None:
            kept |= {row["id"] for group in _groups(rule, rows) for row in group[: rule.count]}
        if rule.days is not None:
            since = earlier(utcnow(), days=rule.days)
            kept |= {row["id"] for row in rows if row["made_at"] >= since}
        return kept
    order = ranks.get(rule) or _ranks(con, rule)
    last = len(order)
    return {
        row["id"]
        for group in _groups(rule, rows)
        # What has no value ranks last, the newest of it first.
        for row in sorted(group, key=lambda row: order.get(row["id"], last))[: rule.count]
    }


def _groups(rule: Rule, rows: list[Row]) -> Iterable[list[Row]]:
    """Rows a group of `per`, newest first."""
    names = {"name": "of_name"}
    columns = [names.get(name, name) for name in rule.per]
    if rule.policy == "keep_top_k" and rule.on == "chain":
        columns.append("dataset")
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in columns), []).append(row)
    return groups.values()


def _beyond(bound: Limit, rows: list[Row]) -> list[str]:
    """Ids of what exceeds a limit: the newest stay."""
    going = []
    size = 0
    oldest = None if bound.max_age_days is None else earlier(utcnow(), days=bound.max_age_days)
    for place, row in enumerate(rows):
        size += int(row["bytes"])
        if (
            (bound.max_count is not None and place >= bound.max_count)
            or (bound.max_bytes is not None and size > bound.max_bytes)
            or (oldest is not None and row["made_at"] < oldest)
        ):
            going.append(row["id"])
    return going


def _ranks_chains(rule: Rule) -> bool:
    return rule.policy == "keep_top_k" and rule.on == "chain"


def _chain_ranks(engine: Engine, rule: Rule) -> dict[str, int]:
    """Places on the leaderboard, best first; without a metric, one leaderboard a task."""
    from nirs_store.leaderboard import top_chains

    ranks: dict[str, int] = {}
    tasks = ("regression", "classification") if rule.metric is None else (None,)
    for task in tasks:
        best = None if rule.higher_is_better is None else not rule.higher_is_better
        for row in top_chains(engine, None, rule.metric, best, task).iter_rows(named=True):
            score = row["score"]
            if score is not None and score == score:
                ranks.setdefault(row["chain_id"], len(ranks))
    return ranks


def _ranks(con: Connection, rule: Rule) -> dict[str, int]:
    highest = rule.higher_is_better
    if highest is None:
        highest = rule.metric is not None and higher_is_better(rule.metric)
    if rule.on == "run":
        values = retention_rows.run_values(con, rule.metric, highest)
    else:
        values = retention_rows.file_values(con, str(rule.metric))
    ordered = sorted(values, key=lambda identifier: values[identifier], reverse=highest)
    return {identifier: place for place, identifier in enumerate(ordered)}


def _shown(lines: Iterable[str]) -> list[str]:
    found = list(lines)
    more = len(found) - _SHOWN
    return found[:_SHOWN] + ([f"  … and {more} more"] if more > 0 else [])


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text)
