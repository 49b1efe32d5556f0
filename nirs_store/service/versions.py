"""Versions of named calibrations, the aliases that point to them, and the rules of aliases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains.family import components_of
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.table import Table
from nirs_store.display import block, field_table
from nirs_store.domain.scope import as_scope, check_targets
from nirs_store.errors import CalibrationInUse, InvalidInput, UnknownId, quoted
from nirs_store.ids import is_id, new_id, now_naive
from nirs_store.lazy import polars as pl
from nirs_store.maintenance.trash import deleting
from nirs_store.records import predictions, queries
from nirs_store.records.named import (
    ARCHIVED_NUMBER,
    aliases_of,
    check_alias,
    check_name,
    find_version,
    known_aliases,
    known_name,
    names,
    refuse_look_alike,
)
from nirs_store.records.notes import check_guard, note
from nirs_store.records.queries import frame
from nirs_store.records.ranking import (
    NO_FOLDS,
    REFIT_FOLDS,
    SCORED_ARRAYS,
    needed_arrays,
    predictions_of_chain,
)
from nirs_store.scores import classification_scores, is_classification
from nirs_store.service.corrections import next_number, refuse_several, take_over
from nirs_store.service.log import user_name
from nirs_store.service.signing import check_rule, contents_of
from nirs_store.service.statistics import agreement
from nirs_store.values import as_text, from_json, with_zone

# -- Figures of merit of a chain, as they are kept with a version of a calibration.

Floats = NDArray[np.float64]
Pair = tuple[NDArray[Any], NDArray[Any]]


def targets_of(chain: Mapping[str, Any]) -> list[str | None]:
    """List the names of what a chain predicts; several are kept as a JSON list."""
    metadata = chain.get("metadata") or {}
    found = metadata.get("target_names") or chain.get("target") or metadata.get("target")
    if isinstance(found, str) and found.startswith("["):
        found = from_json(found)
    if isinstance(found, (list, tuple)):
        return [None if each is None else str(each) for each in found]
    return [None if found in (None, "") else str(found)]


def names_in_predictions(chain: Mapping[str, Any], figures: Mapping[str, Any]) -> list[str]:
    """List what a detailed prediction calls the targets: by number where there are several without names."""
    named, targets = (chain.get("metadata") or {}).get("target_names") or [], targets_of(chain)
    width = max(len(named), len(targets), len(figures.get("targets") or ()))
    if width > 1 and len(named) != width:
        return [str(place) for place in range(width)]
    return [name for name in targets if name]


def figures_of(con: Connection, chain: Mapping[str, Any]) -> dict[str, Any]:
    """Compute what a validation asks for from the stored predictions; what is not stored is left out.

    Returns
    -------
    dict
        ``task``, ``n_cal``, ``p`` (latent variables; None for a model without), and for each target ``sec`` (with
        n - p - 1 degrees of freedom), ``rmsec``, ``secv`` and ``rmsecv`` (out of fold), ``sep``, ``rmsep``, ``bias``
        and ``n_test`` (test set), ``bias_cv``, ``r2_cv``, ``range`` and ``sd`` of the measured values. A chain of
        one target has them at the top, a chain of several in ``targets``, by name. ``bias`` and ``bias_cv`` are
        predicted - reference, the sign of recorded scores and the opposite of that in service.
    """
    rows = predictions_of_chain(con, str(chain["chain_id"]))
    arrays = predictions.load_arrays(con, needed_arrays(rows), SCORED_ARRAYS)
    fitted = _pooled(rows, arrays, "train", refit=True)
    out_of_fold = _pooled(rows, arrays, "val", refit=False)
    tested = _pooled(rows, arrays, "test", refit=True)
    metadata = chain.get("metadata") or {}
    task = str(metadata.get("task_type") or (rows[0]["task_type"] if rows else "regression"))
    p = components_of(chain)
    found: dict[str, Any] = {"task": task, "n_cal": _count(metadata, fitted, out_of_fold), "p": p}
    if is_classification(task):
        for name, pair in (("cv", out_of_fold), ("test", tested)):
            if pair is not None:
                scores = classification_scores(pair[0], pair[1])
                found |= {f"{key}_{name}": _plain(value) for key, value in scores.items()}
                found[f"n_{name}"] = len(pair[0])
        return found
    names = targets_of(chain)
    shapes = [pair[0].shape[1:] or (1,) for pair in (fitted, out_of_fold, tested) if pair is not None]
    width = max((int(shape[0]) for shape in shapes), default=1)
    labels = [str(name or f"target {place}") for place, name in enumerate(names, 1)]
    if len(labels) != width:
        labels = [f"target {place}" for place in range(1, width + 1)]
    each = {
        label: _of_target(_column(fitted, place), _column(out_of_fold, place), _column(tested, place), p)
        for place, label in enumerate(labels)
    }
    return found | (each[labels[0]] if width == 1 else {"targets": each})


def labelled(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the known figures for a reader: each bias says its sign."""
    found: dict[str, Any] = {}
    for name, value in figures.items():
        if name == "targets" and isinstance(value, Mapping):
            found[name] = {target: labelled(own) for target, own in value.items()}
        elif value is not None:
            found[f"{name} (predicted - reference)" if name in ("bias", "bias_cv") else name] = value
    return found


def _of_target(
    fitted: tuple[Floats, Floats] | None,
    out_of_fold: tuple[Floats, Floats] | None,
    tested: tuple[Floats, Floats] | None,
    p: int | None,
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if fitted is not None:
        fit = agreement(*fitted)
        free = fit.n - 1 - (p or 0)
        found["rmsec"] = _plain(fit.rmsep)
        # Without a number of latent variables the degrees of freedom that a fit has used up are not known.
        found["sec"] = _plain(fit.rmsep * math.sqrt(fit.n / free)) if p is not None and free > 0 else None
    # The bias of `agreement` is reference - predicted; 0 is subtracted from, so that there is no -0.
    if out_of_fold is not None:
        folds, spread = agreement(*out_of_fold), float(out_of_fold[0].var())
        found |= {"rmsecv": _plain(folds.rmsep), "secv": _plain(folds.sep), "bias_cv": _plain(0 - folds.bias)}
        found["r2_cv"] = _plain(1 - folds.rmsep**2 / spread) if spread > 0 else None
    if tested is not None:
        test = agreement(*tested)
        found |= {"rmsep": _plain(test.rmsep), "sep": _plain(test.sep), "bias": _plain(0 - test.bias)}
        found["n_test"] = test.n
        if math.isfinite(test.slope):
            found |= {"slope": _plain(test.slope), "intercept": _plain(test.intercept)}
    known = fitted or out_of_fold
    if known is not None:
        y = known[0]
        found |= {"range": [_plain(y.min()), _plain(y.max())], "sd": _plain(y.std(ddof=1))}
    return found


def _pooled(
    rows: Sequence[Mapping[str, Any]], arrays: Mapping[str, Mapping[str, Any]], partition: str, *, refit: bool
) -> Pair | None:
    """Join measured and predicted values of the refit, or of all folds; None where one was not stored."""
    chosen = [
        arrays.get(str(row["prediction_id"])) or {}
        for row in rows
        if row["partition"] == partition
        and ((row["fold_id"] in REFIT_FOLDS) if refit else (row["fold_id"] not in NO_FOLDS))
    ]
    pairs = [(each.get("y_true"), each.get("y_pred")) for each in chosen]
    whole = [(np.asarray(y), np.asarray(z)) for y, z in pairs if y is not None and z is not None]
    if not whole or len(whole) < len(pairs):
        return None
    return np.concatenate([y for y, _ in whole]), np.concatenate([z for _, z in whole])


def _column(pair: Pair | None, place: int) -> tuple[Floats, Floats] | None:
    if pair is None:
        return None
    y, z = (np.asarray(each, dtype=float).reshape(len(each), -1)[:, place] for each in pair)
    known = np.isfinite(y) & np.isfinite(z)
    return (y[known], z[known]) if known.sum() > 1 else None


def _count(metadata: Mapping[str, Any], fitted: Pair | None, out_of_fold: Pair | None) -> int | None:
    if fitted is not None:
        return len(fitted[0])
    counted = metadata.get("n_samples")
    if isinstance(counted, int):
        return counted
    return None if out_of_fold is None else len(out_of_fold[0])


def _plain(value: Any) -> float | None:
    number = None if value is None else float(value)
    return number if number is not None and math.isfinite(number) else None


RESERVED = frozenset({"contents", ARCHIVED_NUMBER})


@dataclass(frozen=True)
class AliasChange:
    """One change of an alias: it pointed to `previous` and points to `version` since; None is not a version."""

    name: str
    alias: str
    version: int | None
    previous: int | None
    set_by: str
    reason: str | None
    set_at: datetime | None


@dataclass(frozen=True)
class CalibrationVersion:
    """One version of a named calibration.

    Attributes
    ----------
    name, version, version_id : str, int, str
        ``fat``, 3, and the id of this version in the workspace.
    chain_id : str
        The chain; it may have been deleted since (`chain_exists`).
    aliases : tuple of str
        Aliases that point to it now.
    scope, figures : dict
        Where it may be used; figures of merit at registration, of which ``bias`` and ``bias_cv`` are
        predicted - reference.
    author, note, metadata, created_at
        As registered.
    dataset_version_id, correction_id : str or None
        The version of a data set that it was fitted on, and its slope and bias correction.
    content_hash : str
        Hash of chain, artifacts and domain at registration.
    chain_exists : bool
        Whether the chain is still in the workspace.
    """

    name: str
    version: int
    version_id: str
    chain_id: str
    aliases: tuple[str, ...]
    scope: dict[str, Any]
    figures: dict[str, Any]
    author: str
    note: str | None
    created_at: datetime | None
    content_hash: str
    dataset_version_id: str | None = None
    correction_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    chain_exists: bool = True

    @property
    def label(self) -> str:
        """Return ``fat@v3``."""
        return f"{self.name}@v{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        created = None if self.created_at is None else self.created_at.isoformat()
        return {**asdict(self), "aliases": list(self.aliases), "created_at": created}

    def __repr__(self) -> str:
        aliases = f" ({', '.join(self.aliases)})" if self.aliases else ""
        gone = "" if self.chain_exists else ", deleted since"
        return f"<Calibration {self.label}{aliases}: chain {self.chain_id[-8:]}{gone}>"

    def _repr_html_(self) -> str:
        facts = {
            "aliases": ", ".join(self.aliases) or None,
            "chain": self.chain_id + ("" if self.chain_exists else " (deleted)"),
            "author": self.author,
            "registered": self.created_at,
            "scope": self.scope or None,
            "note": self.note,
        }
        return block(self.label, field_table(facts), field_table(labelled(self.figures)))


# -- Registering.


def register(
    engine: Engine,
    name: str,
    chain_id: str,
    *,
    scope: Any = None,
    note_text: str | None = None,
    author: str | None = None,
    dataset_version_id: str | None = None,
    correction_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    alias: str | None = None,
) -> CalibrationVersion:
    """Register a chain as the next version of a name; see `Calibrations.register`."""
    known = check_name(name)
    row: dict[str, Any] = {
        "version_id": new_id(),
        "name": known,
        "chain_id": as_text(chain_id, "chain_id"),
        "dataset_version_id": None if dataset_version_id is None else as_text(dataset_version_id, "dataset"),
        "correction_id": None if correction_id is None else as_text(correction_id, "correction_id"),
        "scope": as_scope(scope),
        "author": user_name() if author is None else check_name(author, "author"),
        "note": None if note_text is None else as_text(note_text, "note"),
    }
    wanted = None if alias is None else check_alias(alias)
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidInput(f"metadata: expected a dict, found {quoted(metadata)}. Nothing was registered.")
    facts = dict(metadata or {})
    for reserved in RESERVED & facts.keys():
        raise InvalidInput(
            f"metadata: the key {reserved!r} is kept by the store itself. Nothing was registered."
        )
    texts = {"name": known, "scope": row["scope"], "note": note_text, "author": author, "metadata": facts}
    check_guard(engine, texts)

    def look(con: Connection) -> tuple[dict[str, Any], Any]:
        chain = _chain(con, row["chain_id"])
        figures = figures_of(con, chain)
        check_targets(row["scope"], names_in_predictions(chain, figures))
        return figures, (chain["metadata"] or {}).get("dataset_version_id")

    row["figures"], recorded = engine.query(look)
    if correction_id is not None:
        refuse_several(row["figures"], f"Chain {row['chain_id']}")
    if row["dataset_version_id"] is None and isinstance(recorded, str):
        row["dataset_version_id"] = recorded

    def write(con: Connection) -> CalibrationVersion:
        _chain(con, row["chain_id"])
        refuse_look_alike(names(con), known)
        contents = contents_of(con, row["chain_id"])
        if contents is None:
            raise UnknownId("chain", row["chain_id"], "Nothing was registered.")
        newest = Table(con, "calibration_versions").where("version DESC", 1, name=known)
        numbers = [*newest, *Table(con, "calibration_retired").where(name=known)]
        row["version"] = max((int(each["version"]) for each in numbers), default=0) + 1
        if correction_id is not None:
            row["correction_id"] = take_over(con, row["correction_id"], known, row["version"], row["author"])
        row["content_hash"] = contents.digest
        row["metadata"] = facts | {"contents": asdict(contents)}
        row["created_at"] = now_naive()
        Table(con, "calibration_versions").insert([row])
        details = {"name": known, "version": row["version"], "chain_id": row["chain_id"]}
        details["content_hash"] = row["content_hash"]
        note(engine, "register_calibration", "calibration", row["version_id"], details=details, con=con)
        if wanted is not None:
            _move(engine, con, known, wanted, row["version"], row["author"], "registered")
        return get(con, row["version_id"])

    return engine.change(write)


def _chain(con: Connection, chain_id: str) -> dict[str, Any]:
    """Read the chain that is to be registered; its pipeline must be complete."""
    chain = queries.get_chain(con, chain_id)
    if chain is None:
        raise UnknownId("chain", chain_id, "Nothing was registered.")
    rows = Table(con, "pipelines").where(pipeline_id=chain["pipeline_id"])
    status = rows[0]["status"] if rows else "missing"
    if status != "completed":
        # What a pipeline recorded goes when it fails.
        raise InvalidInput(
            f"chain_id: the pipeline of chain {chain_id} is {status}; a calibration needs one that was completed. "
            "Nothing was registered. Complete the pipeline first."
        )
    return chain


# -- Reading.


def get(con: Connection, given: Any) -> CalibrationVersion:
    """Read one version with the aliases that point to it now."""
    return as_version(con, find_version(con, given))


def as_version(con: Connection, row: Mapping[str, Any]) -> CalibrationVersion:
    """Complete a row of `calibration_versions`, read in the same look at the catalog."""
    aliases = [
        alias for (_, alias), version in aliases_of(con, row["name"]).items() if version == row["version"]
    ]
    there = con.execute("SELECT 1 FROM chains WHERE chain_id = ?", [row["chain_id"]]).fetchall()
    return CalibrationVersion(**row, aliases=tuple(aliases), chain_exists=bool(there))


def list_names(con: Connection) -> pl.DataFrame:
    """List names: one row per name, with the newest version and the aliases."""
    found = frame(
        con,
        "SELECT v.name, count(*) AS versions, max(v.version)::BIGINT AS latest, arg_max(c.target, v.version) AS "
        "target, arg_max(v.chain_id, v.version) AS chain_id, max(v.created_at) AS created_at FROM "
        "calibration_versions v LEFT JOIN chains c USING (chain_id) GROUP BY v.name ORDER BY v.name",
    )
    pointing = [(name, f"{alias}=v{version}") for (name, alias), version in aliases_of(con).items()]
    return _with_aliases(found, 3, "name", pointing)


def list_versions(con: Connection, name: str) -> pl.DataFrame:
    """List the versions of a name, newest first."""
    known = known_name(con, name)
    found = frame(
        con,
        "SELECT v.version, v.chain_id, v.author, v.note, v.created_at, v.scope::VARCHAR AS scope, "
        "v.figures::VARCHAR AS figures, (SELECT count(*) FROM signatures s WHERE s.version_id = v.version_id) AS "
        "signatures, c.chain_id IS NOT NULL AS chain_exists, v.version_id FROM calibration_versions v "
        "LEFT JOIN chains c ON c.chain_id = v.chain_id WHERE v.name = $name ORDER BY v.version DESC",
        {"name": known},
    )
    pointing = [(version, alias) for (_, alias), version in aliases_of(con, known).items()]
    return _with_aliases(found, 1, "version", pointing)


def _with_aliases(
    found: pl.DataFrame, place: int, by: str, pointing: Sequence[tuple[Any, str]]
) -> pl.DataFrame:
    """Add the column of aliases; `pointing` pairs the value of `by` in a row with an alias."""
    aliases = [", ".join(alias for key, alias in pointing if key == each) for each in found[by]]
    return found.insert_column(place, pl.Series("aliases", aliases, dtype=pl.String))


# -- Aliases.


def set_alias(
    engine: Engine, name: str, alias: str, version: Any, *, reason: str | None = None, user: str | None = None
) -> CalibrationVersion:
    """Point an alias to a version; see `Calibrations.set_alias`."""
    known, wanted = check_name(name), check_alias(alias)
    why = None if reason is None else as_text(reason, "reason")
    by = user_name() if user is None else check_name(user, "user")
    check_guard(engine, {"alias": wanted, "reason": why, "user": user})

    def write(con: Connection) -> CalibrationVersion:
        row = of_name(con, known, version)
        _move(engine, con, known, wanted, int(row["version"]), by, why)
        return get(con, row["version_id"])

    return engine.change(write)


def remove_alias(
    engine: Engine, name: str, alias: str, *, reason: str | None = None, user: str | None = None
) -> bool:
    """Remove an alias; False when there was none."""
    why = None if reason is None else as_text(reason, "reason")
    by = user_name() if user is None else check_name(user, "user")
    check_guard(engine, {"reason": why, "user": user})

    def write(con: Connection) -> bool:
        known = known_name(con, name)
        if (known, alias) not in aliases_of(con, known):
            return False
        _move(engine, con, known, alias, None, by, why)
        return True

    return engine.change(write)


def of_name(con: Connection, name: str, version: Any) -> dict[str, Any]:
    """Read the version of a name that a number, ``v3``, an alias, a whole name, an id, or a version object means."""
    if isinstance(version, str) and ("@" in version or is_id(version)):
        row = find_version(con, version)
    elif isinstance(version, (str, int, np.integer)) and not isinstance(version, bool):
        text = str(version).strip()
        row = find_version(con, f"{name}@{'v' if text.isdecimal() else ''}{text}")
    elif isinstance(getattr(version, "version", None), int):
        row = find_version(con, version)
    else:
        raise InvalidInput(
            f"version: expected a number, an alias such as 'candidate', or a version; found {type(version).__name__}. "
            "Nothing was changed."
        )
    if row["name"] != name:
        raise InvalidInput(
            f"version: expected one of {quoted(name)}; found {row['name']}@v{row['version']}, of another calibration. "
            "Nothing was changed. Register its chain under this name first."
        )
    return row


def _move(
    engine: Engine, con: Connection, name: str, alias: str, version: int | None, by: str, why: str | None
) -> None:
    """Write one change of an alias inside the caller's transaction, where its rule allows it."""
    before = aliases_of(con, name).get((name, alias))
    if before == version:
        return
    refuse_look_alike(known_aliases(con, name), alias, "alias")
    number = next_number(con, "calibration_aliases", name=name)
    about = find_version(con, f"{name}@v{before if version is None else version}")
    if version is not None:
        if not con.execute("SELECT 1 FROM chains WHERE chain_id = ?", [about["chain_id"]]).fetchall():
            raise CalibrationInUse(
                f"The alias {alias!r} cannot point to {name}@v{version}: its chain {about['chain_id']} was deleted. "
                "Nothing was changed. Restore it from the trash, or choose another version."
            )
        check_rule(con, about, alias)
    row = {
        "alias_id": new_id(), "name": name, "alias": alias, "number": number, "version": version,
        "previous": before, "set_by": by, "reason": why, "set_at": now_naive(),
    }  # fmt: skip
    Table(con, "calibration_aliases").insert([row])
    details = {name: row[name] for name in ("name", "alias", "version", "previous", "reason")} | {"by": by}
    operation = "remove_alias" if version is None else "set_alias"
    note(engine, operation, "calibration", about["version_id"], details=details, con=con)


def alias_history(con: Connection, name: str, alias: str | None) -> tuple[AliasChange, ...]:
    """List the changes of the aliases of a name, oldest first."""
    wanted = {"name": known_name(con, name)} | ({} if alias is None else {"alias": as_text(alias, "alias")})
    rows = Table(con, "calibration_aliases").where("number", **wanted)
    columns = ("name", "alias", "version", "previous", "set_by", "reason")
    return tuple(
        AliasChange(**{name: row[name] for name in columns}, set_at=with_zone(row["set_at"])) for row in rows
    )


# -- Deleting.


def plan_delete(con: Connection, given: Any) -> CalibrationVersion:
    """Find the version that is to be deleted; an alias that points to it refuses."""
    found = get(con, given)
    if found.aliases:
        raise CalibrationInUse(
            f"{found.label} cannot be deleted: the alias {found.aliases[0]!r} points to it. Nothing was deleted. "
            "Move or remove the alias first."
        )
    return found


def delete(engine: Engine, given: Any, *, reason: str | None = None, now: bool = False) -> CalibrationVersion:
    """Delete a version with its signatures; see `Calibrations.delete`."""
    why = None if reason is None else as_text(reason, "reason").strip()
    check_guard(engine, {"reason": why})

    def write(con: Connection) -> CalibrationVersion:
        found = plan_delete(con, given)
        rows = Table(con, "signatures").where("signature_id", version_id=found.version_id)
        signed = [[row["signer"], row["meaning"]] for row in rows]
        if signed and not why:
            by = ", ".join(f"{meaning} by {signer}" for signer, meaning in signed)
            raise CalibrationInUse(
                f"{found.label} is signed ({by}). Nothing was deleted. Give a reason to delete it with its signatures."
            )
        with deleting(
            con, "calibration", found.version_id, found.label, "delete_calibration", now=now
        ) as take:
            for table in ("signatures", "calibration_versions"):
                take(con, table, "version_id = $id", {"id": found.version_id})
        Table(con, "calibration_retired").raise_number(found.name, found.version)
        details = found.to_dict() | {"reason": why, "signatures": signed}
        note(engine, "delete_calibration", "calibration", found.version_id, details=details, con=con)
        return found

    return engine.change(write)
