"""What a check says of the audit trail: entries that were altered, replaced or removed."""

from __future__ import annotations

import json

import duckdb

from nirs_store.catalog.audit_rows import Head, has_trail, verify_chain
from nirs_store.catalog.layout import Layout
from nirs_store.errors import CatalogDamaged
from nirs_store.upkeep.findings import Finding

__all__ = ["audit_findings", "read_head"]

_REMEDY = (
    "Compare with an export of the trail that is kept elsewhere. `nirs-store audit head` takes the trail as it "
    "is now for the one to go on from."
)


def read_head(layout: Layout) -> Head | None:
    """The head that was handed out last; None where none was, or the file is not one."""
    try:
        found = json.loads(layout.audit_head.read_bytes())
        return Head(int(found["number"]), str(found["entry_hash"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def audit_findings(con: duckdb.DuckDBPyConnection, layout: Layout) -> list[Finding]:
    """Verify the chain of hashes in a catalog that is open for looking."""
    head = read_head(layout)
    try:
        # An older catalog is checked as it is, and has no trail yet.
        if not has_trail(con):
            return []
        _, breaks = verify_chain(con, [] if head is None else [head])
    except duckdb.Error as error:
        raise CatalogDamaged(f"the audit trail cannot be read: {error}") from error
    return [
        Finding(
            "audit_broken",
            "error",
            f"audit_entries/{found.number}",
            f"the audit trail does not hold: {found.reason}.",
            remedy=_REMEDY,
        )
        for found in breaks
    ]
