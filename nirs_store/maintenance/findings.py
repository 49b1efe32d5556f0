"""What a check found, as plain values: a table of the kinds of findings, a finding, and the report of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""Worst first. An error means that something recorded cannot be read or may be lost; a warning that something
should be cleaned up; an info is a fact."""

_SHOWN = 10
_ARE_LOST = (
    "`nirs-store repair` lists what is lost; bring store.duckdb back from a backup, or record it again."
)
_REPAIR = "`nirs-store repair` puts this right."
_SWEEP = "`nirs-store repair` removes it."
_COPY = "or, when a migration kept a copy, use `nirs-store repair --restore-catalog`."
_SAVE_AGAIN = "Save the same object again, or bring its file back from a backup."
_BRING_BACK = "Save the same object again, or bring the file back from a backup."
_HEAL = f"{_BRING_BACK.removesuffix('.')}; `nirs-store repair` moves the bad one to quarantine/."
_MAY_COME = "Its commit may still come, if the program that records it lives."

# What each kind of finding weighs, and what to do about it; an empty remedy is that of a fact.
KINDS: dict[str, tuple[Severity, str]] = {
    # The catalog.
    "catalog_missing": ("error", f"Bring it back from a backup, {_COPY}"),
    "catalog_damaged": ("error", f"Bring store.duckdb back from a backup, {_COPY}"),
    "schema_too_new": ("error", "Upgrade nirs_store."),
    "schema_old": ("info", ""),
    "wal_present": (
        "warning",
        "The next query of a store that may write takes it in. Keep both files together.",
    ),
    "changes_lost": (
        "warning",
        "Compare with a backup: deletions, files, evaluations and settings may be missing.",
    ),
    "foreign_object": ("info", ""),
    "view_altered": ("warning", "Drop it with DuckDB and make it again."),
    "audit_broken": (
        "error",
        "Compare with an export of the trail that is kept elsewhere. `nirs-store audit head` takes the trail as it is "
        "now for the one to go on from.",
    ),
    # A shared workspace: its log, and this computer's replica.
    "log_damaged": (
        "error",
        "Run `nirs-store shared snapshot --truncate 0` on a computer whose replica is up to date: new computers then "
        "start from its snapshot.",
    ),
    "replica_damaged": ("error", "`nirs-store repair` builds it again from the log."),
    "replica_differs": (
        "error",
        "`nirs-store repair` on each of these computers compares its replica with the log, and builds it again.",
    ),
    # Its rows.
    "change_deferred": ("warning", _MAY_COME),
    "rows_dropped": ("info", ""),
    "dangling_row": ("warning", f"{_MAY_COME} The row is kept."),
    "calibration_gone": (
        "info",
        "It stays as a record; restore the run from the trash or from a backup to use it again.",
    ),
    "calibration_broken": (
        "error",
        "Restore the run from the trash or from a backup, or move the alias to a version that is whole.",
    ),
    "array_missing": ("error", _ARE_LOST),
    "array_corrupt": ("error", "Bring store.duckdb back from a backup, or record the predictions again."),
    "chain_unreadable": ("error", _ARE_LOST),
    "artifact_missing": ("error", _SAVE_AGAIN),
    "artifact_row_missing": ("error", _REPAIR),
    "reference_dangling": ("warning", _REPAIR),
    "reference_missing": ("warning", _REPAIR),
    "reference_empty": ("warning", _SAVE_AGAIN),
    "session_missing": ("info", ""),
    # The journal.
    "segments_pending": ("info", ""),
    "segment_damaged": ("error", "Bring the file back from a backup; `nirs-store repair` rejects it."),
    "segment_newer": (
        "warning",
        "Upgrade nirs_store here, or ask the store with the newer version, which applies it.",
    ),
    "segment_rejected": (
        "error",
        "Its rows are not in the catalog; record them again, or keep the file as evidence.",
    ),
    "leftover": ("warning", _SWEEP),
    "dead_claim": ("warning", _SWEEP),
    "aside": ("warning", "The next change of the store, or `nirs-store repair`, puts it back or removes it."),
    # The files of artifacts.
    "blob_path": ("error", "Bring store.duckdb back from a backup."),
    "blob_missing": ("error", _BRING_BACK),
    "blob_size": ("error", _HEAL),
    "blob_corrupt": ("error", _HEAL),
    "blob_unreadable": ("error", "Give this user the right, or check the disk."),
    "blob_orphan": ("warning", "`nirs-store repair` moves it to quarantine/ when it is older than an hour."),
    "unknown_file": ("info", ""),
}


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes
    ----------
    kind : str
        A stable name, e.g. "blob_corrupt".
    severity : {"error", "warning", "info"}
        See `SEVERITIES`.
    where : str
        The file below the workspace, or the row as ``table/id``.
    message : str
        The expected and the found state.
    affects : tuple of str
        Ids of the chains that cannot replay, and of the predictions and data sets that cannot be read, because of it.
    remedy : str
        What to do; empty for a fact.
    subject : tuple of str
        The ids that a repair works on.
    """

    kind: str
    severity: Severity
    where: str
    message: str
    affects: tuple[str, ...] = ()
    remedy: str = ""
    subject: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        text = f"{self.severity}: {self.where}: {self.message}"
        if self.affects:
            shown = ", ".join(self.affects[:_SHOWN])
            more = f" and {len(self.affects) - _SHOWN} more" if len(self.affects) > _SHOWN else ""
            text += f"\n    affects {shown}{more}"
        return f"{text}\n    {self.remedy}" if self.remedy else text


def finding(
    kind: str,
    where: str,
    message: str,
    affects: Iterable[str] = (),
    subject: tuple[str, ...] = (),
    *,
    remedy: str = "",
) -> Finding:
    """Make a finding of a kind of the table, with another remedy where one is given."""
    severity, usual = KINDS[kind]
    return Finding(kind, severity, where, message, tuple(affects), remedy or usual, subject)


@dataclass(frozen=True)
class CheckReport:
    """What a check found, worst first.

    Attributes
    ----------
    workspace : str
        The folder.
    read_data : bool
        Whether every byte was read, or only the structure looked at.
    findings : tuple of Finding
        Empty for a store without any peculiarity.
    counts : dict of str to int
        The extent of the check: rows by table (pending commits included), ``files`` and ``bytes`` of blobs,
        ``segments``.
    """

    workspace: str
    read_data: bool
    findings: tuple[Finding, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_findings(
        cls, workspace: str, read_data: bool, findings: Iterable[Finding], counts: Mapping[str, int]
    ) -> CheckReport:
        """Make a report: worst first, the same finding once."""
        unique = {(f.kind, f.where, f.subject): f for f in findings}
        ordered = sorted(unique.values(), key=lambda f: (SEVERITIES.index(f.severity), f.kind, f.where))
        return cls(workspace, read_data, tuple(ordered), dict(counts))

    @property
    def ok(self) -> bool:
        """Whether there is neither an error nor a warning."""
        return all(finding.severity == "info" for finding in self.findings)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that are warnings."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    @property
    def affected(self) -> tuple[str, ...]:
        """Ids of all chains, predictions and versions of data sets that something found affects."""
        return tuple(sorted({ident for finding in self.findings for ident in finding.affects}))

    def of_kind(self, *kinds: str) -> tuple[Finding, ...]:
        """Return the findings of some kinds."""
        return tuple(finding for finding in self.findings if finding.kind in kinds)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "workspace": self.workspace,
            "read_data": self.read_data,
            "ok": self.ok,
            "counts": dict(self.counts),
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def __str__(self) -> str:
        lines = []
        left = Counter(finding.kind for finding in self.findings)
        shown: Counter[str] = Counter()
        for finding in self.findings:
            shown[finding.kind] += 1
            left[finding.kind] -= 1
            if shown[finding.kind] <= _SHOWN:
                lines.append(str(finding))
            if shown[finding.kind] == _SHOWN and left[finding.kind]:
                lines.append(f"{finding.severity}: {left[finding.kind]} more of this kind ({finding.kind})")
        return "\n".join([*lines, self._summary()])

    def _summary(self) -> str:
        looked = ", ".join(
            f"{self.counts[name]:,} {name}"
            for name in ("runs", "chains", "predictions", "files", "segments")
            if name in self.counts
        )
        depth = "every byte read" if self.read_data else "structure only; --read-data reads every byte"
        errors, warnings = len(self.errors), len(self.warnings)
        verdict = "No damage found" if self.ok else f"{errors} errors, {warnings} warnings"
        return f"{verdict} ({looked}; {depth})." if looked else f"{verdict} ({depth})."
