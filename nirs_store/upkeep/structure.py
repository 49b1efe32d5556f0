"""Whether the rows of a catalog belong together: parents, arrays, artifacts, references."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from nirs_store.catalog.inspection import BlobRow, ChainRow, Inspection, Reference
from nirs_store.catalog.values import from_json
from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.chains.plan import ReplayPlan
from nirs_store.errors import CatalogDamaged, NirsStoreError
from nirs_store.upkeep.findings import Finding
from nirs_store.upkeep.surroundings import Surroundings

__all__ = ["Structure", "catalog_damaged", "examine", "stem_of"]

T = TypeVar("T")

_ARE_LOST = (
    "`nirs-store repair` lists what is lost; bring store.duckdb back from a backup, or record it again."
)
_REPAIR = "`nirs-store repair` puts this right."
# Who holds artifacts, and the table of it.
_OWNED_IN = {
    "chain": "chains",
    "record": "artifact_records",
    "file": "file_versions",
    "evaluation": "evaluations",
}
_SAVE_AGAIN = "Save the same object again, or bring its file back from a backup."


@dataclass
class Structure:
    """What the rows say.

    Attributes
    ----------
    findings : list of Finding
        What does not fit.
    blobs : list of BlobRow, or None
        Every artifact that has a row; None when the rows cannot be read.
    needed_by : dict of str to list of str
        By artifact: the chains that cannot replay without it.
    restorable : set of str
        Files of artifacts that chains name and that have no row.
    counts : dict of str to int
        Rows by table.
    """

    findings: list[Finding] = field(default_factory=list)
    blobs: list[BlobRow] | None = None
    needed_by: dict[str, list[str]] = field(default_factory=dict)
    restorable: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)

    def ask(self, what: str, question: Callable[[], T]) -> T | None:
        """Ask; a question that damage leaves without an answer becomes a finding."""
        try:
            return question()
        except CatalogDamaged as error:
            self.findings.append(catalog_damaged(what, str(error)))
            return None


def catalog_damaged(what: str, reason: str) -> Finding:
    """A part of the catalog that cannot be read."""
    return Finding(
        "catalog_damaged",
        "error",
        f"store.duckdb/{what}",
        reason,
        remedy="Bring store.duckdb back from a backup, or, when a migration kept a copy, use "
        "`nirs-store repair --restore-catalog`.",
    )


def examine(inspection: Inspection, seen: Surroundings) -> Structure:
    """Compare every row with those that it names and that name it."""
    found = Structure()
    found.counts = found.ask("rows", inspection.counts) or {}
    _changes(inspection, found)
    for row in found.ask("parents", inspection.dangling) or ():
        found.findings.append(
            Finding(
                "dangling_row",
                "warning",
                f"{row.table}/{row.key}",
                f"its {row.column} is {row.parent}, of which there is no row.",
                remedy="Its commit may still come, if the program that records it lives. The row is kept.",
            )
        )
    for array_hash in found.ask("arrays", inspection.missing_arrays) or ():
        users = found.ask("users of arrays", partial(inspection.users_of_array, array_hash))
        found.findings.append(
            Finding(
                "array_missing",
                "error",
                f"arrays/{array_hash}",
                "predictions or chains name this array, and there is no row of it.",
                affects=tuple(users or ()),
                remedy=_ARE_LOST,
            )
        )
    _artifacts(inspection, seen, found)
    return found


def _changes(inspection: Inspection, found: Structure) -> None:
    for kind, ident in found.ask("deferred changes", inspection.deferred) or ():
        found.findings.append(
            Finding(
                "change_deferred",
                "warning",
                f"deferred/{ident}",
                f"{kind.replace('_', ' ')}: the row to change has not come.",
                remedy="Its commit may still come, if the program that records it lives.",
            )
        )
    for table, count in (found.ask("dropped rows", inspection.dropped) or {}).items():
        found.findings.append(
            Finding(
                "rows_dropped",
                "info",
                f"dropped/{table}",
                f"{count:,} rows of {table} were dropped so far because what they belong to had been deleted.",
            )
        )


# -- artifacts and their references ------------------------------------------------------------


def _artifacts(inspection: Inspection, seen: Surroundings, found: Structure) -> None:
    found.blobs = found.ask("artifacts", inspection.blobs)
    references = found.ask("references", inspection.references)
    chains = found.ask("chains", lambda: list(inspection.chains()))
    recorded = found.ask("records", inspection.recorded)
    filed = found.ask("files", inspection.filed)
    evaluated = found.ask("evaluations", inspection.evaluated)
    if found.blobs is None or references is None or chains is None:
        return
    if recorded is None or filed is None or evaluated is None:
        return
    named = {chain.chain_id: _named(chain, found) for chain in chains}
    known = {blob.artifact_id for blob in found.blobs}
    owners = {"chain": named, "record": recorded, "file": filed, "evaluation": evaluated}
    found.findings += _missing_rows(owners, known, seen, found)
    found.findings += _references(references, owners, known)
    for session_id in found.ask("sessions", inspection.missing_sessions) or ():
        if session_id not in seen.alive:
            found.findings.append(
                Finding(
                    "session_missing",
                    "info",
                    f"sessions/{session_id}",
                    "it holds artifacts, has no row and does not live; the next gc gives it an end.",
                )
            )


def _named(chain: ChainRow, found: Structure) -> list[str]:
    """Artifacts that a chain names; notes which of them its replay needs."""
    try:
        row = _decoded(chain)
        named = chain_artifact_ids(row["steps"], row["fold_artifacts"], row["shared_artifacts"])
    except (NirsStoreError, ValueError, TypeError) as error:
        found.findings.append(
            Finding(
                "chain_unreadable",
                "error",
                f"chains/{chain.chain_id}",
                f"its steps cannot be read: {error}",
                affects=(chain.chain_id,),
                remedy=_ARE_LOST,
            )
        )
        return []
    try:
        # Where a refit stands alone, a chain replays without the models of its folds.
        needed: Iterable[str] = ReplayPlan.from_chain(row).artifact_ids
    except NirsStoreError:
        needed = named  # a chain that never could replay needs whatever it names
    for artifact_id in dict.fromkeys(needed):
        found.needed_by.setdefault(artifact_id, []).append(chain.chain_id)
    return named


def _decoded(chain: ChainRow) -> dict[str, Any]:
    row = chain._asdict()
    for name in ("steps", "fold_artifacts", "shared_artifacts", "branch_path", "fold_weights"):
        row[name] = from_json(row[name])
    return row | {
        "fold_artifacts": row["fold_artifacts"] or {},
        "shared_artifacts": row["shared_artifacts"] or {},
    }


def _missing_rows(
    named: dict[str, dict[str, list[str]]], known: set[str], seen: Surroundings, found: Structure
) -> list[Finding]:
    owners: dict[str, list[tuple[str, str]]] = {}
    for kind, holders in named.items():
        for owner, ids in holders.items():
            for artifact_id in ids:
                if artifact_id not in known:
                    owners.setdefault(artifact_id, []).append((kind, owner))
    files = {stem_of(path): path for path in sorted(seen.files | seen.aside)} if owners else {}
    findings = []
    for artifact_id, users in sorted(owners.items()):
        path = files.get(artifact_id)
        if path is not None:
            found.restorable.add(path)
        kinds = [kind for kind, _ in users]
        counted = [f"{kinds.count(kind)} {kind}s" for kind in _OWNED_IN if kind in kinds]
        words = " and ".join(counted)
        message = f"{words} name this artifact ({users[0][1]}), and there is no row of it"
        findings.append(
            Finding(
                "artifact_missing" if path is None else "artifact_row_missing",
                "error",
                f"artifacts/{artifact_id}" if path is None else path,
                f"{message}." if path is None else f"{message}, but its file is there.",
                affects=tuple(found.needed_by.get(artifact_id, ())),
                remedy=_SAVE_AGAIN if path is None else _REPAIR,
                subject=(artifact_id,) if path is None else (artifact_id, path),
            )
        )
    return findings


def _references(
    references: list[Reference], owners: dict[str, dict[str, list[str]]], known: set[str]
) -> list[Finding]:
    findings = []
    held: set[tuple[str, str, str]] = set()
    for ref in references:
        named = owners.get(ref.owner_kind)
        if named is not None:
            held.add((ref.owner_kind, ref.owner_id, ref.artifact_id))
            if ref.owner_id not in named:
                findings.append(
                    Finding(
                        "reference_dangling",
                        "warning",
                        f"artifact_refs/{ref.ref_id}",
                        f"{ref.owner_kind} {ref.owner_id}, which held artifact {ref.artifact_id}, is gone.",
                        remedy=_REPAIR,
                        subject=(ref.ref_id,),
                    )
                )
                continue
            if ref.artifact_id in named[ref.owner_id]:
                continue  # said of the artifact, when it has no row
        if ref.artifact_id not in known:
            findings.append(
                Finding(
                    "reference_empty",
                    "warning",
                    f"artifact_refs/{ref.ref_id}",
                    f"the {ref.owner_kind} {ref.owner_id} holds artifact {ref.artifact_id}, of which there is no row.",
                    remedy=_SAVE_AGAIN,
                )
            )
    for kind, named in owners.items():
        for owner_id, ids in named.items():
            for artifact_id in dict.fromkeys(ids):
                if (kind, owner_id, artifact_id) not in held:
                    findings.append(
                        Finding(
                            "reference_missing",
                            "warning",
                            f"{_OWNED_IN[kind]}/{owner_id}",
                            f"it holds no reference to artifact {artifact_id}, which it names; a gc could remove that.",
                            remedy=_REPAIR,
                            subject=(owner_id, artifact_id),
                        )
                    )
    return findings


def stem_of(path: str) -> str:
    """A file's name without its ending: the hash, for a blob."""
    return path.rsplit("/", 1)[-1].split(".", 1)[0]
