"""Tables of what became of things: typed links, the audit trail, settings of the workspace, pins."""

from __future__ import annotations

import pyarrow as pa

from nirs_store.catalog.columns import Column, Table, document, key, moment, text, whole, whole64

__all__ = ["HISTORY_TABLES"]

HISTORY_TABLES: tuple[Table, ...] = (
    Table(
        "lineage_links",
        (
            key("link_id"),
            text("source_kind"),
            text("source_id"),
            text("target_kind"),
            text("target_id"),
            text("link_type"),
            document("metadata"),
            moment("created_at", null=False),
        ),
    ),
    # Append-only; each entry holds the hash of the one before it. Its number is its name: no index, which
    # every application of the journal would have to keep up.
    Table(
        "audit_entries",
        (
            whole64("number"),
            moment("made_at", null=False),
            text("user_name"),
            text("host"),
            whole("pid", null=False),
            text("operation"),
            text("object_kind", null=True),
            text("object_id", null=True),
            Column("success", "BOOLEAN NOT NULL", pa.bool_()),
            text("message", null=True),
            document("details"),
            text("previous_hash"),
            text("entry_hash"),
        ),
    ),
    Table("settings", (key("key"), document("value"), moment("changed_at", null=False))),
    Table(
        "pins",
        (
            key("pin_id"),
            text("object_kind"),
            text("object_id"),
            text("reason", null=True),
            moment("made_at", null=False),
        ),
    ),
)
