"""Names of calibrations: what ``fat@production``, ``fat@v3`` and ``fat`` mean, and which chains a name needs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nirs_store.db.database import Connection
from nirs_store.db.schema import column_names
from nirs_store.db.table import Table, column
from nirs_store.display import counted
from nirs_store.errors import CalibrationInUse, CalibrationNotFound, InvalidInput, nearest, quoted
from nirs_store.ids import is_id
from nirs_store.records.links import STACKED
from nirs_store.records.queries import row_of
from nirs_store.values import as_name, is_text, one_of

DEFAULT_ALIAS = "production"
"""What a name alone means."""
LATEST = "latest"
ARCHIVED_NUMBER = "archived_version"
"""The key of a version's metadata that keeps the number that it had where an archive brought it from."""
_LONGEST = 100
_NUMBER = re.compile(r"[vV]([0-9]{1,9})")
_PRESENT = (
    "(SELECT name, alias, version FROM (SELECT *, row_number() OVER (PARTITION BY name, alias ORDER BY number DESC) "
    "AS age FROM calibration_aliases) WHERE age = 1 AND version IS NOT NULL)"
)
_POINTED = (
    "name = $id AND version = (SELECT version FROM calibration_aliases WHERE name = $id AND alias = $alias "
    "ORDER BY number DESC LIMIT 1)"
)


MEANINGS = ("authorship", "review", "responsibility", "approval")
"""What a signature can say."""


class Resolved(NamedTuple):
    """What a name means now: the name, the number of the version, and its chain."""

    name: str
    version: int
    chain_id: str


@dataclass(frozen=True)
class Rule:
    """What an alias demands of a version.

    Attributes
    ----------
    signatures : int
        Valid signatures of so many different signers.
    others : int
        So many of these signers are not the author of the version.
    meanings : tuple of str
        Only signatures with one of these meanings count; all do where it is empty.
    """

    signatures: int = 2
    others: int = 1
    meanings: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = f" ({' or '.join(self.meanings)})" if self.meanings else ""
        others = f", {self.others} of them not by the author" if self.others else ""
        return f"signatures of {counted(self.signatures, 'person')}{what}{others}"


def as_rule(value: Any) -> Rule:
    """Check a rule as it was given or kept."""
    given = dict(value)
    meanings = given.get("meanings") or ()
    meanings = (meanings,) if isinstance(meanings, str) else tuple(meanings)
    for meaning in meanings:
        one_of("meanings", meaning, MEANINGS)
    signatures, others = given.get("signatures", 2), given.get("others", 1)
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in (signatures, others)):
        raise InvalidInput(
            f"rule: expected whole numbers of at least 0, found {[signatures, others]}. Nothing was changed."
        )
    if others > signatures or signatures < 1:
        raise InvalidInput(
            "rule: expected at least one signature, and not more by others than there are; found "
            f"{signatures} signatures, {others} by others. Nothing was changed."
        )
    return Rule(signatures, others, tuple(dict.fromkeys(meanings)))


def version_number(selector: str) -> int | None:
    """Return the number that a selector such as ``v3`` means; None for an alias."""
    found = _NUMBER.fullmatch(selector)
    return int(found[1]) if found else None


def check_name(value: Any, name: str = "name") -> str:
    """Return the name of a calibration as it is kept: composed Unicode, no spaces around it."""
    text = unicodedata.normalize("NFC", as_name(value, name).strip())
    reasons = {
        "it is empty": not text,
        f"it is longer than {_LONGEST} characters": len(text) > _LONGEST,
        "'@' parts a name from its version or alias": "@" in text,
        "it holds characters that cannot be printed": not text.isprintable(),
        "a command line takes what begins with '-' for an option": text.startswith("-"),
        "it looks like the id of a chain": is_id(text),
    }
    return _well_formed(
        text, reasons, f"{name}: expected the name of a calibration such as 'fat in milk'", value
    )


def check_alias(value: Any) -> str:
    """Return an alias as it is kept."""
    text = check_name(value, "alias")
    reasons = {
        "it looks like the number of a version": re.fullmatch(r"[vV]?[0-9]+", text) is not None,
        "'latest' always means the newest version": text.casefold() == LATEST,
        "it holds a space": any(character.isspace() for character in text),
    }
    return _well_formed(text, reasons, "alias: expected one word such as 'production' or 'candidate'", value)


def _well_formed(text: str, reasons: Mapping[str, bool], expected: str, given: Any) -> str:
    """Return a text that nothing speaks against; else say the first reason."""
    wrong = next((reason for reason, applies in reasons.items() if applies), None)
    if wrong:
        raise InvalidInput(f"{expected}, found {quoted(given)}: {wrong}. Nothing was changed.")
    return text


def is_name(given: str) -> bool:
    """Tell whether a text can only be a name with a version or an alias: no id has an ``@``."""
    return "@" in given


def names(con: Connection) -> list[str]:
    """List the names that have a version, in order."""
    return column(con, "SELECT DISTINCT name FROM calibration_versions ORDER BY name")


def refuse_look_alike(known: Sequence[str], name: str, what: str = "calibration") -> None:
    """Refuse a name that differs from a known one by case only: people would take one for the other."""
    same = [each for each in known if each.casefold() == name.casefold() and each != name]
    if same and name not in known:
        raise InvalidInput(
            f"There is the {what} {quoted(same[0])}, which differs from {quoted(name)} by capital letters only. "
            f"Nothing was changed. Use {quoted(same[0])}, or another name."
        )


def known_aliases(con: Connection, name: str) -> list[str]:
    """List the aliases that a name has or had, and those with a rule."""
    return column(
        con,
        "SELECT alias FROM calibration_aliases WHERE name = $name UNION SELECT alias FROM calibration_rules WHERE "
        "name = $name ORDER BY alias",
        {"name": name},
    )


def aliases_of(con: Connection, name: str | None = None) -> dict[tuple[str, str], int]:
    """Map each present alias (name, alias) to the number of its version."""
    sql = f"SELECT * FROM {_PRESENT} WHERE $name::VARCHAR IS NULL OR name = $name ORDER BY name, alias"
    rows = con.execute(sql, {"name": name}).fetchall()
    return {(str(row[0]), str(row[1])): int(row[2]) for row in rows}


def version_row(con: Connection, where: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read one version, JSON decoded."""
    columns = ", ".join(column_names("calibration_versions"))
    row = row_of(con, f"SELECT {columns} FROM calibration_versions WHERE {where}", dict(params))
    return row and row | {name: row[name] or {} for name in ("scope", "figures", "metadata")}


def find_version(con: Connection, given: Any) -> dict[str, Any]:
    """Read the version that is meant by ``name@alias``, ``name@v3``, ``name@latest``, a name, or its id."""
    # One look at the catalog: an alias that moves meanwhile gives the old version or the new one, whole.
    if not isinstance(given, str):
        # What `resolve` and `get` return.
        name, number = getattr(given, "name", None), getattr(given, "version", None)
        if isinstance(name, str) and isinstance(number, int):
            return _numbered(con, name, number)
        raise InvalidInput(f"calibration: expected a name such as 'fat@production', found {quoted(given)}.")
    if not is_text(given):
        raise CalibrationNotFound(given, f"There is no calibration called {quoted(given)}.")
    if is_id(given):
        row = version_row(con, "version_id = $id", {"id": given})
        if row is None:
            raise CalibrationNotFound(given, f"No version of a calibration has the id {given!r}.")
        return row
    text = unicodedata.normalize("NFC", given.strip())
    name, at, selector = text.partition("@")
    if at and not selector:
        raise CalibrationNotFound(given, f"{quoted(given)} names no version or alias after the '@'.")
    if "@" in selector:
        raise CalibrationNotFound(given, f"{quoted(given)} has more than one '@'.")
    number = version_number(selector)
    if number is not None:
        return _numbered(con, name, number)
    if selector == LATEST:
        row = version_row(
            con,
            "name = $id AND version = (SELECT max(version) FROM calibration_versions WHERE name = $id)",
            {"id": name},
        )
        if row is None:
            raise _unknown_name(con, name)
        return row
    wanted = selector or DEFAULT_ALIAS
    row = version_row(con, _POINTED, {"id": name, "alias": wanted})
    if row is not None:
        return row
    present = {alias: version for (_, alias), version in aliases_of(con, name).items()}
    if wanted in present:
        return _numbered(con, name, present[wanted])
    if name not in names(con):
        raise _unknown_name(con, name)
    near = nearest(wanted, present)
    hint = f" Did you mean {name}@{near}?" if near else ""
    what = f"no alias {quoted(wanted)}" + ("" if selector else ", which the name alone stands for")
    listed = ", ".join(present) or "none"
    raise CalibrationNotFound(
        given, f"The calibration {quoted(name)} has {what}.{hint} Its aliases: {listed}. A version is named "
        f"like {name}@v1."
    )  # fmt: skip


def known_name(con: Connection, given: Any) -> str:
    """Return the name of a calibration that has a version; of ``fat@v1`` it is ``fat``."""
    selected = not isinstance(given, str) or is_name(given) or is_id(given)
    return str(find_version(con, given if selected else f"{given}@{LATEST}")["name"])


def named_like(con: Connection, given: str) -> list[str]:
    """List the chain that a calibration's name alone means; none where no calibration has the name."""
    name = unicodedata.normalize("NFC", given.strip())
    if name not in names(con):
        return []
    return [str(find_version(con, name)["chain_id"])]


def _numbered(con: Connection, name: str, number: int) -> dict[str, Any]:
    row = version_row(con, "name = $id AND version = $version", {"id": name, "version": number})
    if row is not None:
        return row
    there = [f"v{each['version']}" for each in Table(con, "calibration_versions").where("version", name=name)]
    if not there:
        raise _unknown_name(con, name)
    listed = ", ".join(there if len(there) < 10 else [*there[:3], "…", *there[-3:]])
    raise CalibrationNotFound(
        f"{name}@v{number}", f"The calibration {quoted(name)} has no version v{number}. It has {listed}."
    )


def _unknown_name(con: Connection, name: str) -> CalibrationNotFound:
    known = names(con)
    folded = {each.casefold(): each for each in known}
    longer = next((each for each in folded if name and name.casefold() in each), None)
    near = longer or nearest(name.casefold(), folded)
    hint = f" Did you mean {quoted(folded[near])}?" if near else ""
    hint += f" There are: {', '.join(known[:5])}{' and more' if len(known) > 5 else ''}."
    if not known:
        hint = " No calibration is registered in this workspace."
    return CalibrationNotFound(name, f"There is no calibration called {quoted(name)}.{hint}")


def named_chains(con: Connection, chain_ids: Sequence[str]) -> dict[str, list[str]]:
    """Map chains to what they are called: ``fat@production`` for each alias, and ``fat@v2`` without one."""
    rows = con.execute(
        "SELECT chain_id, name, version FROM calibration_versions WHERE chain_id IN (SELECT unnest($ids::VARCHAR[])) "
        "ORDER BY name, version",
        {"ids": list(chain_ids)},
    ).fetchall()
    if not rows:
        return {}
    aliases: dict[tuple[str, int], list[str]] = {}
    for (name, alias), version in aliases_of(con).items():
        aliases.setdefault((name, version), []).append(f"{name}@{alias}")
    found: dict[str, list[str]] = {}
    for chain_id, name, version in rows:
        found.setdefault(str(chain_id), []).extend(
            aliases.get((str(name), int(version)), [f"{name}@v{version}"])
        )
    return found


# -- Chains that may not be deleted, because an alias or a signature is about them.


HELD = f"""
    WITH RECURSIVE needed AS (
        SELECT v.chain_id, 'the alias ' || p.name || '@' || p.alias || ' names it' AS reason
            FROM calibration_versions v JOIN {_PRESENT} p ON p.name = v.name AND p.version = v.version
        UNION SELECT v.chain_id, 'the calibration ' || v.name || '@v' || v.version || ' is signed'
            FROM calibration_versions v JOIN signatures s USING (version_id)
        UNION SELECT s.base, n.reason || ' as a part of the stack ' || n.chain_id
            FROM needed n JOIN {STACKED} s ON s.chain_id = n.chain_id
    )
    SELECT chain_id AS id, reason FROM needed
"""
"""Ids of chains that must stay, with the reason."""


def held_chains(con: Connection, chain_ids: Sequence[str]) -> dict[str, str]:
    """Map those of some chains that must stay to the reason."""
    if not con.execute("SELECT 1 FROM calibration_versions LIMIT 1").fetchall():
        return {}
    rows = con.execute(
        f"SELECT id, min(reason) FROM ({HELD}) WHERE id IN (SELECT unnest($ids::VARCHAR[])) GROUP BY id ORDER BY id",
        {"ids": list(chain_ids)},
    ).fetchall()
    return {str(row[0]): str(row[1]) for row in rows}


def refuse_held(con: Connection, chain_ids: Sequence[str]) -> None:
    """Refuse to delete chains that an alias or a signature is about, inside the caller's transaction."""
    held = held_chains(con, chain_ids)
    if held:
        chain_id, reason = next(iter(held.items()))
        more = f" (and {len(held) - 1} more)" if len(held) > 1 else ""
        raise CalibrationInUse(
            f"Chain {chain_id}{more} cannot be deleted: {reason}. Nothing was deleted. Move or remove the alias, or "
            "delete the version (store.calibrations.delete), first."
        )
