"""Plan retention: what the rules keep, what the limits cut, what still has to stay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.table import Row
from nirs_store.display import byte_text, escape, printable, short
from nirs_store.files.names import PRODUCTION
from nirs_store.history.candidates import candidates, champions, file_values, reasons, run_values
from nirs_store.history.clocks import AHEAD
from nirs_store.history.policy import Limit, RetentionPolicy, Rule, many
from nirs_store.ids import earlier, utcnow
from nirs_store.records.ranking import top_chains
from nirs_store.scores import higher_is_better

# Types that no rule takes unless it names them: what models were trained on, and their states.
_KEPT_TYPES = ("training_set", "feature_matrix", "labels", "model_checkpoint")
_SHOWN = 20


@dataclass(frozen=True)
class Item:
    """Something that would go, and why."""

    # `bytes` are those of artifacts that it alone holds.

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
    """What a policy would delete now.

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
        """Return the plan as plain data."""
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
            lines.append("stay: " + ", ".join(f"{count:,} {many(kind)}" for kind, count in self.kept.items()))
        return "\n".join(printable(line) for line in lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


@dataclass(frozen=True)
class RetentionResult:
    """The result of a retention.

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
        """Return the result as plain data."""
        return {**asdict(self), "taken": self.taken}

    def __str__(self) -> str:
        what = (
            ", ".join(f"{len(ids):,} {many(kind)}" for kind, ids in self.removed.items() if ids) or "nothing"
        )
        later = f"; {self.skipped} stayed after all" if self.skipped else ""
        return f"deleted {what}, {self.files} files ({byte_text(self.bytes)}){later}"


def make_plan(engine: Engine, policy: RetentionPolicy, now: datetime | None = None) -> RetentionPlan:
    """Plan what a policy would delete at a moment (default: now); changes nothing."""
    ranked = [rule for rule in policy.rules if rule.policy == "keep_top_k" and rule.on == "chain"]
    ranks = {rule: _chain_ranks(engine, rule) for rule in ranked}
    moment = utcnow() if now is None else now

    def ask(con: Connection) -> RetentionPlan:
        rows = {kind: list(candidates(con, kind).iter_rows(named=True)) for kind in policy.kinds}
        going: dict[str, dict[str, str]] = {}
        held: dict[tuple[str, str], str] = {}
        for kind, found in rows.items():
            safe = {row["id"]: why for row in found for why in [_safe(policy, kind, row)] if why}
            free = [row for row in found if row["id"] not in safe]
            going[kind] = _going(con, policy, kind, free, ranks, moment)
            # Told only of what would go otherwise.
            beyond = _going(con, policy, kind, found, ranks, moment) if safe else {}
            held |= {(kind, identifier): safe[identifier] for identifier in beyond if identifier in safe}
        taken = {kind: list(why) for kind, why in going.items()}
        held |= _settle(con, taken, engine.living_sessions())
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


def _settle(con: Connection, taken: dict[str, list[str]], alive: list[str]) -> dict[tuple[str, str], str]:
    """Drop what has to stay from what is taken, until nothing that stays needs anything that goes; returns why."""
    held: dict[tuple[str, str], str] = {}
    while True:
        back = {
            (kind, identifier): reason
            for kind, ids in taken.items()
            if ids
            for identifier, reason in reasons(con, kind, taken, alive).items()
        }
        if not back:
            return held
        held |= back
        for kind, ids in taken.items():
            taken[kind] = [identifier for identifier in ids if (kind, identifier) not in back]


def _safe(policy: RetentionPolicy, kind: str, row: Row) -> str | None:
    """Say why the rules and limits of a policy cannot take a row at all; None where they can."""
    if policy.by_date(kind) and row["made_at"] > utcnow() + AHEAD:
        return f"its date, {row['made_at']:%Y-%m-%d}, lies in the future: a clock was or is wrong"
    if kind != "file":
        return None
    parts: tuple[Rule | Limit, ...] = (*policy.rules, *policy.limits)
    about = [part for part in parts if part.on == kind]
    if (
        row["mode"] == PRODUCTION
        and row["status"] == "completed"
        and all(p.mode != PRODUCTION for p in about)
    ):
        return "it is production content, and no rule names mode='production'"
    if row["type"] in _KEPT_TYPES and all(part.type != row["type"] for part in about):
        return f"it is of the type {row['type']}, which no rule names"
    return None


def _is_about(part: Rule | Limit, row: Row) -> bool:
    """Tell whether a rule or limit says anything about a row."""
    return part.type in (None, row["type"]) and part.mode in (None, row.get("mode"))


def _going(
    con: Connection,
    policy: RetentionPolicy,
    kind: str,
    rows: list[Row],
    ranks: dict[Rule, dict[str, int]],
    now: datetime,
) -> dict[str, str]:
    """Return the ids that go by the rules and limits of one kind, and why."""
    rules = [rule for rule in policy.rules if rule.on == kind]
    going: dict[str, str] = {}
    if rules:
        kept: set[str] = set()
        for rule in rules:
            kept |= _keeps(con, rule, [row for row in rows if _is_about(rule, row)], ranks, now)
        # A rule about one type or mode says nothing about the others.
        words = " or ".join(f"not {rule.words}" for rule in rules) if len(rules) == 1 else "no rule keeps it"
        going = {
            row["id"]: words
            for row in rows
            if row["id"] not in kept and any(_is_about(rule, row) for rule in rules)
        }
    for bound in (bound for bound in policy.limits if bound.on == kind):
        left = [row for row in rows if row["id"] not in going and _is_about(bound, row)]
        going |= dict.fromkeys(_beyond(bound, left, now), f"beyond the limit ({bound.words})")
    return going


def _keeps(
    con: Connection, rule: Rule, rows: list[Row], ranks: dict[Rule, dict[str, int]], now: datetime
) -> set[str]:
    if rule.policy == "keep_all":
        return {row["id"] for row in rows}
    if rule.policy == "keep_champions":
        return champions(con, rule.on, ever=True)
    if rule.policy == "keep_recent":
        kept = set()
        if rule.count is not None:
            kept |= {row["id"] for group in _groups(rule, rows) for row in group[: rule.count]}
        if rule.days is not None:
            since = earlier(now, days=rule.days)
            kept |= {row["id"] for row in rows if row["made_at"] >= since}
        return kept
    if rule.on == "run":
        return _best_runs(con, rule, rows)
    order = ranks.get(rule) or _ranks(con, rule)
    last = len(order)
    return {
        row["id"]
        for group in _groups(rule, rows)
        # What has no value ranks last, the newest of it first.
        for row in sorted(group, key=lambda row: order.get(row["id"], last))[: rule.count]
    }


def _groups(rule: Rule, rows: list[Row]) -> Iterable[list[Row]]:
    """Return the rows of each group of `per`, newest first."""
    names = {"name": "of_name"}
    columns = [names.get(name, name) for name in rule.per]
    # Days of two calibrations are not alternatives: one that is used often would push out the days of the other.
    columns += ["of_name"] if rule.on == "measurement" else []
    if rule.policy == "keep_top_k":
        # Scores are compared where they mean the same: one data set, one target in one unit, one suite; and of one
        # task where each chain counts by the usual metric of its own.
        columns += {"chain": ["dataset", "target", "unit"], "file": ["suite", "target"]}.get(rule.on, [])
        columns += ["type"] if rule.on == "chain" and rule.metric is None else []
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in columns), []).append(row)
    return groups.values()


def _beyond(bound: Limit, rows: list[Row], now: datetime) -> list[str]:
    """Return the ids of what exceeds a limit: the newest stay."""
    going = []
    size = 0
    places: dict[str, int] = {}
    oldest = None if bound.max_age_days is None else earlier(now, days=bound.max_age_days)
    for row in rows:
        # Days of measurements are counted per calibration, as rules count them; bytes are those of all.
        counted = row["of_name"] if bound.on == "measurement" else ""
        place = places.get(counted, 0)
        places[counted] = place + 1
        size += int(row["bytes"])
        if (
            (bound.max_count is not None and place >= bound.max_count)
            or (bound.max_bytes is not None and size > bound.max_bytes)
            or (oldest is not None and row["made_at"] < oldest)
        ):
            going.append(row["id"])
    return going


def _chain_ranks(engine: Engine, rule: Rule) -> dict[str, int]:
    """Return places on the leaderboard, best first; without a metric, one leaderboard per task."""
    ranks: dict[str, int] = {}
    tasks = ("regression", "classification") if rule.metric is None else (None,)
    for task in tasks:
        best = None if rule.higher_is_better is None else not rule.higher_is_better
        for row in top_chains(engine, None, rule.metric, best, task, mixed=True).iter_rows(named=True):
            score = row["score"]
            if score is not None and score == score:
                ranks.setdefault(row["chain_id"], len(ranks))
    return ranks


def _highest(rule: Rule) -> bool:
    if rule.higher_is_better is not None:
        return rule.higher_is_better
    return rule.metric is not None and higher_is_better(rule.metric)


def _best_runs(con: Connection, rule: Rule, rows: list[Row]) -> set[str]:
    """Return runs among the best k of each data set and target; what has no score ranks last."""
    highest = _highest(rule)
    values = run_values(con, rule.metric, highest)
    scored = {run_id for found in values.values() for run_id in found}
    kept: set[str] = set()
    for group in _groups(rule, rows):
        for found in values.values():
            of_both = [row["id"] for row in group if row["id"] in found]
            kept |= set(sorted(of_both, key=found.__getitem__, reverse=highest)[: rule.count])
        # Places that no score takes go to the newest without one.
        left = int(rule.count or 0) - len({row["id"] for row in group} & kept)
        kept |= set([row["id"] for row in group if row["id"] not in scored][: max(left, 0)])
    return kept


def _ranks(con: Connection, rule: Rule) -> dict[str, int]:
    values = file_values(con, str(rule.metric))
    ordered = sorted(values, key=values.__getitem__, reverse=_highest(rule))
    return {identifier: place for place, identifier in enumerate(ordered)}


def _shown(lines: Iterable[str]) -> list[str]:
    found = list(lines)
    more = len(found) - _SHOWN
    return found[:_SHOWN] + ([f"  … and {more} more"] if more > 0 else [])


def still_free(con: Connection, plan: RetentionPlan, alive: list[str]) -> dict[str, list[str]]:
    """Return what of a plan is there and free to go now."""
    taken: dict[str, list[str]] = {}
    for kind in plan.policy.kinds:
        there = set(candidates(con, kind)["id"].to_list())
        taken[kind] = [item.id for item in plan.take if item.kind == kind and item.id in there]
    _settle(con, taken, alive)
    return taken
