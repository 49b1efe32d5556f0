"""Signatures of versions, what they bind, and the rules by which an alias demands them.

A signature is a row that binds who, when, with which meaning, over which content (chain, artifacts, domain, scope,
figures) and after which entry of the audit trail; an entry of the trail names it in turn. With a key it also carries an
HMAC-SHA256. Without one it proves as much as the audit trail does: a person who can write to the workspace wrote it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.db.changes import GENESIS, entry_hash, head_of, verify_chain
from nirs_store.db.database import Connection
from nirs_store.db.schema import column_names
from nirs_store.db.session import Engine
from nirs_store.db.table import Table
from nirs_store.display import block, table
from nirs_store.domain import DOMAIN, domain_id
from nirs_store.errors import CalibrationInUse, InvalidInput, NirsStoreError, quoted
from nirs_store.ids import new_id, now_naive
from nirs_store.records import queries
from nirs_store.records.artifacts import read_artifact
from nirs_store.records.named import (
    ARCHIVED_NUMBER,
    MEANINGS,
    Rule,
    aliases_of,
    as_rule,
    check_alias,
    check_name,
    find_version,
    known_aliases,
    names,
    refuse_look_alike,
)
from nirs_store.records.notes import check_guard, note
from nirs_store.service.corrections import active, next_number
from nirs_store.service.log import user_name
from nirs_store.service.statistics import plain_fields
from nirs_store.values import as_text, from_json, one_of, with_zone

# -- What a version is made of, as hashes: its chain, its artifacts, its domain.

# Columns that came later are not hashed: what was signed stays signed.
_HASHED_OF_CHAIN = (
    "chain_id", "pipeline_id", "steps", "model_step_idx", "model_class", "preprocessings", "fold_strategy",
    "fold_artifacts", "shared_artifacts", "branch_path", "source_index", "fold_weights", "target", "target_unit",
)  # fmt: skip


@dataclass(frozen=True)
class Contents:
    """What a version is made of, as hashes: the chain, its artifacts, its domain (None without one)."""

    chain: str
    artifacts: str
    domain: str | None

    @property
    def digest(self) -> str:
        """Return one hash of them all."""
        return digest_of(asdict(self))


def digest_of(value: Any) -> str:
    """Return the SHA-256 of plain data in one spelling."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _named(chain: Mapping[str, Any]) -> list[str]:
    """List the artifacts that a chain names, its domain among them."""
    ids = chain_artifact_ids(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"])
    domain = domain_id(chain["metadata"])
    return sorted({*ids, *([domain] if domain else [])})


def artifacts_of(con: Connection, chain_id: str) -> list[str]:
    """List the artifacts of a chain; none where it is gone."""
    chain = queries.get_chain(con, chain_id)
    return [] if chain is None else _named(chain)


def contents_of(con: Connection, chain_id: str) -> Contents | None:
    """Hash a chain, its artifacts and its domain as they are now; None where the chain is gone."""
    chain = queries.get_chain(con, chain_id)
    if chain is None:
        return None
    metadata = dict(chain["metadata"] or {})
    domain = domain_id(metadata)
    metadata.pop(DOMAIN, None)
    wanted = _named(chain)
    blobs = Table(con, "blobs").where(artifact_id=wanted)
    held = {row["artifact_id"]: str(row["content_hash"]) for row in blobs}
    grid = chain["wavelengths"]
    described = {
        **{name: chain[name] for name in _HASHED_OF_CHAIN},
        "metadata": metadata,
        "wavelengths": None if grid is None else hashlib.sha256(grid.astype("<f8").tobytes()).hexdigest(),
        "created_at": None if chain["created_at"] is None else chain["created_at"].isoformat(),
    }
    return Contents(
        digest_of(described),
        digest_of([[each, held.get(each)] for each in wanted if each != domain]),
        None if domain is None else digest_of([domain, held.get(domain)]),
    )


_ALGORITHM = "HMAC-SHA256"
_SHORTEST_KEY = 16
_FORM = "nirs_store signature 1"
# Columns of a version that came later are not hashed: what was signed stays signed.
_HASHED = (
    "version_id", "name", "chain_id", "dataset_version_id", "correction_id", "scope", "figures", "content_hash",
    "author", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Signature:
    """One signature of a version.

    Attributes
    ----------
    signature_id, name, version : str, str, int
    signer, meaning, note : str
        ``meaning`` is one of "authorship", "review", "responsibility", "approval".
    signed_at : datetime
        By the clock of the machine.
    content_hash : str
        The signed content: the version with its chain, artifacts and domain.
    audit_head : str
        Number and hash of the entry of the audit trail that was the last one.
    key_id : str or None
        Which key was used; None without a key.
    """

    signature_id: str
    name: str
    version: int
    signer: str
    meaning: str
    note: str | None
    signed_at: datetime | None
    content_hash: str
    audit_head: str
    key_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "signed_at": None if self.signed_at is None else self.signed_at.isoformat()}


@dataclass(frozen=True)
class SignatureCheck:
    """What `verify_signatures` found about one version.

    Attributes
    ----------
    calibration : str
        Such as ``fat@v3``.
    valid : tuple of Signature
        Those that hold.
    problems : tuple of (str, str)
        Which signature (its id), and what is wrong with it.
    unchecked : tuple of str
        Ids of valid signatures whose key was not given: their HMAC was not computed.
    """

    calibration: str
    valid: tuple[Signature, ...]
    problems: tuple[tuple[str, str], ...]
    unchecked: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Tell whether nothing is wrong; a version without signatures is not wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return plain_fields(self, "ok")

    def __repr__(self) -> str:
        lines = [f"{each.meaning} by {each.signer}, {each.signed_at:%Y-%m-%d %H:%M}" for each in self.valid]
        lines += [f"NOT VALID {identifier[-8:]}: {why}" for identifier, why in self.problems]
        return "\n".join([f"<Signatures of {self.calibration}: {len(self.valid)} valid>", *lines])

    def _repr_html_(self) -> str:
        rows: list[tuple[Any, ...]] = [(s.meaning, s.signer, s.signed_at, "valid") for s in self.valid]
        rows += [("", identifier[-8:], None, why) for identifier, why in self.problems]
        return block(f"Signatures of {self.calibration}", table(("meaning", "signer", "time", "state"), rows))


# -- What is signed.


def _content(con: Connection, row: Mapping[str, Any]) -> tuple[str, Contents | None]:
    """Hash a version with its chain, artifacts and domain as they are now."""
    contents = contents_of(con, str(row["chain_id"]))
    # A version that came with an archive may have another number here than where it was signed.
    metadata, created = dict(row["metadata"]), row["created_at"]
    described = {name: row[name] for name in _HASHED}
    described |= {"version": metadata.pop(ARCHIVED_NUMBER, row["version"]), "metadata": metadata}
    described["created_at"] = None if created is None else created.isoformat()
    applied = active(con, row)
    if applied is not None:
        # It changes what is reported, so who signs a version signs its correction.
        described["correction"] = [applied.correction_id, applied.slope, applied.bias]
    return digest_of([described, None if contents is None else asdict(contents)]), contents


def _message(signature: Mapping[str, Any]) -> bytes:
    """Spell out what a signature binds, always in the same way."""
    names = (
        "signature_id", "version_id", "signer", "meaning", "note", "content_hash", "audit_head", "key_id",
    )  # fmt: skip
    moment = signature["signed_at"].isoformat(timespec="microseconds")
    text = json.dumps(
        [_FORM, *(signature[name] for name in names), moment], ensure_ascii=False, separators=(",", ":")
    )
    return text.encode()


def as_key(key: Any, undone: str = "Nothing was signed.") -> bytes | None:
    """Return a key as bytes: bytes as they are, text as UTF-8, a path by the content of its file."""
    # `undone` ends each error.
    if key is None:
        return None
    if isinstance(key, os.PathLike):
        try:
            found = Path(key).read_bytes().strip()
        except OSError as error:
            raise InvalidInput(f"key: {key} cannot be read: {error.strerror or error}. {undone}") from error
    elif isinstance(key, str):
        found = key.encode()
    elif isinstance(key, (bytes, bytearray)):
        found = bytes(key)
    else:
        raise InvalidInput(f"key: expected bytes, text or a path, found {type(key).__name__}. {undone}")
    if len(found) < _SHORTEST_KEY:
        raise InvalidInput(
            f"key: expected at least {_SHORTEST_KEY} bytes, found {len(found)}. {undone} Make one with "
            "secrets.token_hex(32)."
        )
    return found


def key_id(key: bytes) -> str:
    """Return a short name of a key that does not give it away."""
    return hmac.new(key, b"nirs_store key id", hashlib.sha256).hexdigest()[:16]


def sign(
    engine: Engine,
    calibration: Any,
    *,
    meaning: str,
    signer: str | None = None,
    note_text: str | None = None,
    key: Any = None,
) -> Signature:
    """Sign a version; see `Calibrations.sign`."""
    one_of("meaning", meaning, MEANINGS)
    by = user_name() if signer is None else check_name(signer, "signer")
    secret = as_key(key)
    words = None if note_text is None else as_text(note_text, "note")
    check_guard(engine, {"signer": signer, "note": words})

    def write(con: Connection) -> Signature:
        row = find_version(con, calibration)
        label = f"{row['name']}@v{row['version']}"
        digest, contents = _content(con, row)
        if contents is None:
            raise CalibrationInUse(
                f"{label} cannot be signed: its chain {row['chain_id']} was deleted. Nothing was signed."
            )
        said = {"signer": by, "meaning": meaning, "content_hash": digest, "version_id": row["version_id"]}
        if Table(con, "signatures").keys(**said):
            raise CalibrationInUse(
                f"{by} has signed {label} with the meaning {meaning!r} already. Nothing was signed."
            )
        head = head_of(con)
        signature: dict[str, Any] = said | {
            "signature_id": new_id(),
            "note": words,
            "audit_head": f"{head.number}:{head.entry_hash}",
            "signed_at": now_naive(),
            "key_id": None if secret is None else key_id(secret),
        }
        if secret is not None:
            signature |= {"algorithm": _ALGORITHM, "signature": _hmac(secret, signature)}
        Table(con, "signatures").insert([signature])
        details = {"name": row["name"], "version": row["version"], "digest": _digest(signature)}
        details |= {name: signature[name] for name in ("signature_id", "signer", "meaning")}
        # Also where the trail is switched off: a signature counts by its entry.
        note(engine, "sign", "calibration", row["version_id"], details=details, con=con, always=True)
        return _signature(row, signature)

    return engine.change(write)


def _hmac(secret: bytes, signature: Mapping[str, Any]) -> str:
    return hmac.new(secret, _message(signature), hashlib.sha256).hexdigest()


def _digest(signature: Mapping[str, Any]) -> str:
    return hashlib.sha256(_message(signature) + str(signature.get("signature") or "").encode()).hexdigest()


def _signature(version: Mapping[str, Any], row: Mapping[str, Any]) -> Signature:
    whole = {**row, "name": version["name"], "version": version["version"]}
    values = {name: whole[name] for name in Signature.__dataclass_fields__}
    return Signature(**values | {"signed_at": with_zone(row["signed_at"])})


def _rows(con: Connection, version_id: str) -> list[dict[str, Any]]:
    return Table(con, "signatures").where("signature_id", version_id=version_id)


def signatures_of(con: Connection, calibration: Any) -> tuple[Signature, ...]:
    """List the signatures of a version, oldest first, as they are stored."""
    version = find_version(con, calibration)
    return tuple(_signature(version, row) for row in _rows(con, version["version_id"]))


# -- Verifying.


def verify(con: Connection, calibration: Any, keys: Sequence[bytes] = ()) -> SignatureCheck:
    """Check every signature of a version against its content, the audit trail, and the keys that were given."""
    version = find_version(con, calibration)
    label = f"{version['name']}@v{version['version']}"
    digest, contents = _content(con, version)
    rows = _rows(con, version["version_id"])
    noted = _noted(con, version["version_id"])
    secrets = {key_id(key): key for key in keys}
    valid: list[Signature] = []
    problems: list[tuple[str, str]] = []
    unchecked: list[str] = []
    for row in rows:
        identifier = str(row["signature_id"])
        entry = noted.pop(identifier, None)
        why = _wrong(con, row, version, digest, contents, entry)
        if why is None and row["key_id"] is not None:
            secret = secrets.get(row["key_id"])
            if secret is None:
                unchecked.append(identifier)
            elif not hmac.compare_digest(_hmac(secret, row), str(row["signature"])):
                why = "its HMAC is not that of its key"
        if why is None:
            valid.append(_signature(version, row))
        else:
            problems.append((identifier, why))
    problems += [(identifier, "the audit trail names it, and it is gone") for identifier in noted]
    return SignatureCheck(label, tuple(valid), tuple(problems), tuple(unchecked))


def _noted(con: Connection, version_id: str) -> dict[str, dict[str, Any]]:
    """Map signatures that the audit trail names for a version to the details of their entries."""
    # As text: the hash of an entry is about the text of its details.
    names = column_names("audit_entries")
    rows = con.execute(
        f"SELECT {', '.join(names)} FROM audit_entries WHERE object_kind = 'calibration' AND object_id = ? AND "
        "operation = 'sign' AND success ORDER BY number",
        [version_id],
    ).fetchall()
    found = {}
    for row in rows:
        entry = dict(zip(names, row, strict=True))
        facts = from_json(entry["details"]) or {}
        whole = entry_hash(entry) == entry["entry_hash"]
        found[str(facts.get("signature_id"))] = facts | {"number": int(entry["number"]), "whole": whole}
    return found


def _wrong(
    con: Connection,
    row: Mapping[str, Any],
    version: Mapping[str, Any],
    digest: str,
    contents: Contents | None,
    entry: Mapping[str, Any] | None,
) -> str | None:
    """Say what is wrong with a signature; None where nothing is."""
    if row["meaning"] not in MEANINGS:
        return f"it has no known meaning: {quoted(row['meaning'])}"
    if contents is None:
        return "the chain that was signed is gone"
    if row["content_hash"] != digest:
        signed = (version["metadata"].get("contents") or {}) if isinstance(version["metadata"], dict) else {}
        changed = [what for what, value in asdict(contents).items() if signed.get(what) != value]
        what = ", ".join(changed) or "the version itself, or its slope and bias correction"
        return f"it is about other content: {what} changed since, or it was copied from elsewhere"
    if entry is None:
        return "the audit trail of this workspace does not name it: it came from elsewhere, or was put in by hand"
    if not entry["whole"]:
        return "its entry in the audit trail was altered"
    if entry.get("digest") != _digest(row):
        return "it was altered: the audit trail names it with other content"
    number, _, head = str(row["audit_head"]).partition(":")
    if number.isdecimal() and int(number) + 1 != int(entry["number"]):
        return "its entry in the audit trail does not follow the one that it binds"
    held = "SELECT 1 FROM audit_entries WHERE number = TRY_CAST(? AS BIGINT) AND entry_hash = ?"
    if (number, head) != ("0", GENESIS) and not con.execute(held, [number, head]).fetchall():
        return "the audit trail does not hold the entry that it binds: the trail was cut or replaced"
    return None


def verify_whole(engine: Engine, calibration: Any, keys: Any = None) -> SignatureCheck:
    """Check the signatures of a version, the files of its artifacts, and the whole audit trail."""
    secrets = keys_of(keys)

    def ask(con: Connection) -> tuple[SignatureCheck, list[tuple[str, str]], list[str]]:
        version = find_version(con, calibration)
        found = verify(con, version["version_id"], secrets)
        broken = verify_chain(con)[1]
        trail = [("audit trail", f"number {each.number}: {each.reason}") for each in broken]
        return found, trail, artifacts_of(con, version["chain_id"])

    found, trail, needed = engine.query(ask)
    problems = [*found.problems, *trail]
    for artifact_id in needed:
        try:
            read_artifact(engine, artifact_id)
        except NirsStoreError as error:
            problems.append((f"artifact {artifact_id}", str(error)))
    return replace(found, problems=tuple(problems))


# -- Rules of aliases.


def rules_of(con: Connection, name: str) -> dict[str, Rule]:
    """Map the aliases of a name to the rules that hold now."""
    rows = con.execute(
        "SELECT alias, rule FROM calibration_rules WHERE name = ? QUALIFY row_number() OVER (PARTITION BY alias "
        "ORDER BY number DESC) = 1 ORDER BY alias",
        [name],
    ).fetchall()
    return {str(alias): as_rule(from_json(rule)) for alias, rule in rows if rule is not None}


def set_rule(
    engine: Engine, name: str, alias: str, rule: Rule | None, *, user: str | None = None
) -> Rule | None:
    """Set or remove the rule of an alias; see `Calibrations.set_rule`."""
    known, wanted = check_name(name), check_alias(alias)
    by = user_name() if user is None else check_name(user, "user")
    broken = ""

    def write(con: Connection) -> Rule | None:
        nonlocal broken
        refuse_look_alike(names(con), known)
        refuse_look_alike(known_aliases(con, known), wanted, "alias")
        before = rules_of(con, known).get(wanted)
        if before == rule:
            return before
        details = {"name": known, "alias": wanted, "rule": None if rule is None else asdict(rule)}
        row = details | {"rule_id": new_id(), "set_by": by, "set_at": now_naive()}
        row["number"] = next_number(con, "calibration_rules", name=known)
        Table(con, "calibration_rules").insert([row])
        details |= {"before": None if before is None else asdict(before), "by": by}
        note(engine, "set_rule", "calibration", details=details, con=con)
        number = aliases_of(con, known).get((known, wanted))
        if number is not None:
            try:
                check_rule(con, find_version(con, f"{known}@v{number}"), wanted)
            except CalibrationInUse:
                broken = f"{known}@v{number}"
        return before

    found = engine.change(write)
    if broken:
        warnings.warn(
            f"The rule of {known}@{wanted} is set and holds for later moves; the alias already points to {broken}, "
            "which lacks these signatures.",
            UserWarning,
            stacklevel=3,
        )
    return found


def check_rule(con: Connection, version: Mapping[str, Any], alias: str) -> None:
    """Refuse to point an alias to a version that its rule does not allow, inside the caller's transaction."""
    rule = rules_of(con, version["name"]).get(alias)
    if rule is None:
        return
    found = verify(con, version["version_id"])
    counted = [each for each in found.valid if not rule.meanings or each.meaning in rule.meanings]
    signers = {_person(each.signer) for each in counted}
    others = signers - {_person(version["author"])}
    if len(signers) >= rule.signatures and len(others) >= rule.others:
        return
    label = f"{version['name']}@v{version['version']}"
    listed = ", ".join(f"{each.meaning} by {each.signer}" for each in counted) or "none"
    wrong = f" Not valid: {'; '.join(why for _, why in found.problems)}." if found.problems else ""
    raise CalibrationInUse(
        f"The alias {alias!r} demands {rule}; {label} (author {version['author']}) has: {listed}.{wrong} Nothing was "
        "changed. Let the missing persons sign (store.calibrations.sign) first."
    )


def refuse_ruled(con: Connection, version: Mapping[str, Any], what: str, instead: str) -> None:
    """Refuse a change of what a version reports where an alias with a rule points to it."""
    # `what` is the change, such as "corrected". No signature made before can be about the changed content.
    name, number = version["name"], version["version"]
    rules = rules_of(con, name)
    for (_, alias), pointed in aliases_of(con, name).items():
        if pointed == number and alias in rules:
            raise CalibrationInUse(
                f"{name}@v{number} cannot be {what}: the alias {alias!r} points to it and demands {rules[alias]}; "
                f"there are none for what it would report then. Nothing was changed. {instead}"
            )


def keep_rules(con: Connection, version: Mapping[str, Any], what: str, instead: str) -> None:
    """Refuse a change that was made, inside its transaction, where a rule no longer allows the alias."""
    # Other than `refuse_ruled` it allows the change back to what was signed.
    name = version["name"]
    try:
        for (_, alias), pointed in aliases_of(con, name).items():
            if pointed == version["version"]:
                check_rule(con, version, alias)
    except CalibrationInUse:
        refuse_ruled(con, version, what, instead)
        raise


def keep_rules_of_chain(con: Connection, chain_id: str) -> None:
    """Refuse another domain of a chain, inside its transaction, where a rule no longer allows an alias."""
    for version_id in sorted(Table(con, "calibration_versions").keys(chain_id=chain_id)):
        keep_rules(
            con, find_version(con, version_id), "given another domain",
            "Take the rule off, add the domain, have the version signed again, and set the rule again: the audit trail "
            "records each step.",
        )  # fmt: skip


def _person(name: str) -> str:
    return unicodedata.normalize("NFKC", " ".join(name.split())).casefold()


def keys_of(keys: Any) -> list[bytes]:
    """Return one key or several as bytes, to check signatures with."""
    if keys is None or isinstance(keys, (str, bytes, bytearray, os.PathLike)):
        keys = [keys]
    if not isinstance(keys, (list, tuple, set, frozenset)):
        raise InvalidInput(
            f"keys: expected a key or a list of keys, found {type(keys).__name__}. Nothing was checked."
        )
    found = [as_key(key, "Nothing was checked.") for key in keys]
    return [key for key in found if key is not None]
