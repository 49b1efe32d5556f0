"""What a check found, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["SEVERITIES", "CheckReport", "Finding", "Severity"]

Severity = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""Worst first. An error means that something recorded cannot be had or may be lost; a warning that something
should be cleaned up; an info is a fact."""

_SHOWN = 10


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
        What was expected and what was found.
    affects : tuple of str
        Ids of the chains that cannot replay, and of the predictions that cannot be read, because of it.
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
        """The finding as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        text = f"{self.severity}: {self.where}: {self.message}"
        if self.affects:
            shown = ", ".join(self.affects[:_SHOWN])
            more = f" and {len(self.affects) - _SHOWN} more" if len(self.affects) > _SHOWN else ""
            text += f"\n    affects {shown}{more}"
        return f"{text}\n    {self.remedy}" if self.remedy else text


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
        What was looked at: rows by table (pending commits included), ``files`` and ``bytes`` of blobs,
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
        """Ids of all chains and predictions that something found affects."""
        return tuple(sorted({ident for finding in self.findings for ident in finding.affects}))

    def of_kind(self, *kinds: str) -> tuple[Finding, ...]:
        """The findings of some kinds."""
        return tuple(finding for finding in self.findings if finding.kind in kinds)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
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
