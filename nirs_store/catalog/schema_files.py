"""Tables of files of any kind: their versions, aliases and processing runs."""

from __future__ import annotations

from nirs_store.catalog.columns import Table, document, key, moment, text, whole, whole64

__all__ = ["FILE_TABLES"]

FILE_TABLES: tuple[Table, ...] = (
    # A row a version; what a name means today is its newest version that is not deleted.
    Table(
        "file_versions",
        (
            key("version_id"),
            text("name"),
            whole("version", null=False),
            text("type"),
            text("kind"),
            text("status"),
            text("mode"),
            text("coverage", null=True),
            text("test_name", null=True),
            text("model_id", null=True),
            text("evaluation_id", null=True),
            text("suite", null=True),
            text("group_name", null=True),
            text("episode", null=True),
            text("module", null=True),
            text("module_version", null=True),
            text("run_id", null=True),
            text("processing_id", null=True),
            text("artifact_id", null=True),
            text("content_hash", null=True),
            whole64("size_bytes"),
            whole64("stored_bytes"),
            text("compression"),
            document("tags"),
            document("metadata"),
            text("message", null=True),
            text("session_id", null=True),
            moment("created_at", null=False),
            moment("updated_at", null=False),
        ),
    ),
    Table(
        "file_aliases",
        (key("alias_id"), text("name"), text("alias"), text("version_id"), moment("made_at", null=False)),
    ),
    Table(
        "processing_runs",
        (
            key("processing_id"),
            text("name"),
            text("status"),
            text("module", null=True),
            text("module_version", null=True),
            document("parameters"),
            text("message", null=True),
            text("session_id", null=True),
            moment("started_at", null=False),
            moment("ended_at"),
        ),
    ),
)
