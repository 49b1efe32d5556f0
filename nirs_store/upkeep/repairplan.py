"""What a repair would do: a plain value, made from a check, the same in a dry run."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from nirs_store.blobs.verified import hash_file
from nirs_store.catalog.layout import Layout
from nirs_store.upkeep.blobfiles import is_blob_name
from nirs_store.upkeep.findings import CheckReport, Finding
from nirs_store.upkeep.restore import newest_copy
from nirs_store.upkeep.surroundings import is_old

__all__ = ["RepairPlan", "make_plan"]

_CATALOG = ("catalog_missing", "catalog_damaged", "schema_too_new")
_BAD = ("blob_corrupt", "blob_size")
_HEALED = (
    "artifact_row_missing", "reference_dangling", "reference_missing", "leftover", "dead_claim", "aside",
    "blob_orphan",
)  # fmt: skip
_SHOWN = 20


@dataclass(frozen=True)
class RepairPlan:
    """What a repair does. Nothing is deleted but leftovers of writes and claims; nothing is invented.

    Attributes
    ----------
    workspace : str
        The folder.
    restore_from : str or None
        The copy that takes the catalog's place. Nothing else is done then: repair again afterwards.
    bad_blobs : tuple of str
        Files that do not fit their hash, moved to quarantine/.
    orphans : tuple of str
        Blobs older than an hour that no row names, moved to quarantine/.
    add_rows : tuple of str
        Artifacts that chains name, whose row is gone and whose file is there and intact: they get a row.
    remove_references : tuple of str
        References of chains that are gone.
    add_references : tuple of (str, str)
        Chain and artifact: references that chains lack.
    reject_segments : tuple of str
        Commits that cannot be applied, moved to journal/rejected/.
    settle_aside : tuple of str
        Blobs that a gc set aside when it died: put back, or removed when nothing names them.
    leftovers, dead_claims : tuple of str
        Files removed.
    kept : tuple of Finding
        What no repair can heal. Rows whose data are lost stay as they are.
    """

    workspace: str
    restore_from: str | None = None
    bad_blobs: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    add_rows: tuple[str, ...] = ()
    remove_references: tuple[str, ...] = ()
    add_references: tuple[tuple[str, str], ...] = ()
    reject_segments: tuple[str, ...] = ()
    settle_aside: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    dead_claims: tuple[str, ...] = ()
    kept: tuple[Finding, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return self.restore_from is None and not any(items for _, items in self._actions())

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        lines = []
        if self.restore_from is not None:
            lines += [
                f"Move store.duckdb to quarantine/, put a copy of {self.restore_from} in its place, apply the journal.",
                "    What was recorded after that copy was made, and applied since, does not come back: those "
                "commits are gone from the journal.",
                "    Nothing else is done now; check and repair again afterwards.",
            ]
        for words, items in self._actions():
            lines += _listed(f"{words} ({len(items)})", items)
        lines += _listed(f"Lost or left as it is ({len(self.kept)})", self.kept)
        return "\n".join(lines) or "Nothing to repair."

    def _actions(self) -> list[tuple[str, tuple[Any, ...]]]:
        return [
            ("Move blobs that do not fit their hash to quarantine/", self.bad_blobs),
            ("Move blobs that no row names to quarantine/", self.orphans),
            ("Give artifacts that chains name their row again", self.add_rows),
            ("Remove references of chains that are gone", self.remove_references),
            (
                "Add references that chains lack",
                tuple(f"chain {chain} to artifact {artifact}" for chain, artifact in self.add_references),
            ),
            ("Set commits that cannot be applied aside in journal/rejected/", self.reject_segments),
            ("Put back, or remove, what a gc that died had set aside", self.settle_aside),
            ("Remove unfinished writes", self.leftovers),
            ("Remove claims of stores that died", self.dead_claims),
        ]


def make_plan(layout: Layout, report: CheckReport, *, restore_catalog: bool) -> RepairPlan:
    """Plan from a check that read everything; changes nothing."""
    now = time.time()
    workspace = str(layout.root)
    if report.of_kind(*_CATALOG):
        # Without all rows nobody can say what belongs to nobody.
        copy = None
        if restore_catalog and not report.of_kind("schema_too_new"):
            copy = newest_copy(layout)
        kept = tuple(f for f in report.findings if f.severity != "info")
        source = None if copy is None else copy.relative_to(layout.root).as_posix()
        return RepairPlan(workspace, restore_from=source, kept=kept)
    restorable = {
        finding.subject[0]
        for finding in report.of_kind("artifact_row_missing")
        if _is_intact(layout, *finding.subject)
    }
    orphans = [path for path in _subjects(report, "blob_orphan") if is_old(layout.root / path, now)]
    healed = {
        f for f in report.of_kind(*_HEALED) if f.kind != "artifact_row_missing" or f.subject[0] in restorable
    }
    kept = tuple(f for f in report.findings if f.severity != "info" and f not in healed)
    rows_gone = {finding.subject[0] for finding in report.of_kind("artifact_missing")}
    return RepairPlan(
        workspace,
        bad_blobs=tuple(dict.fromkeys(f.where for f in report.of_kind(*_BAD) if is_blob_name(f.where))),
        orphans=tuple(orphans),
        add_rows=tuple(sorted(restorable)),
        remove_references=_subjects(report, "reference_dangling"),
        add_references=tuple(
            (f.subject[0], f.subject[1])
            for f in report.of_kind("reference_missing")
            if f.subject[1] not in rows_gone
        ),
        reject_segments=_subjects(report, "segment_damaged"),
        settle_aside=_subjects(report, "aside"),
        leftovers=_subjects(report, "leftover"),
        dead_claims=_subjects(report, "dead_claim"),
        kept=kept,
    )


def _subjects(report: CheckReport, kind: str) -> tuple[str, ...]:
    return tuple(finding.subject[0] for finding in report.of_kind(kind))


def _is_intact(layout: Layout, artifact_id: str, path: str) -> bool:
    try:
        return hash_file(layout.root / path)[0] == artifact_id
    except OSError:
        return False


def _listed(words: str, items: Iterable[Any]) -> list[str]:
    shown = [f"    {item}".replace("\n", "\n    ") for item in items]
    if not shown:
        return []
    more = [f"    and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
    return [f"{words}:", *shown[:_SHOWN], *more]
