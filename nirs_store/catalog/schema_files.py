"""Tables of files of any kind: their versions, aliases and processing runs."""

from __future__ import annotations

from nirs_store.catalog.columns import Table, document, flag, key, moment, text, whole, whole64

__all__ = ["FILE_TABLES"]

FILE_TABLES: tuple[Table, ...] = (
    # A row a version. A name is one series of versions, and one more for each test; `is_latest` marks the newest
    # of a series, so that listing what is there today is one scan.
    Table(
        "file_versions",
        (
            key("version_id"),
            text("name"),
            text("test_name", null=True),
            whole("version", null=False),
            flag("is_latest"),
            text("type"),
            text("kind"),
            text("status"),
            text("mode"),
            text("coverage", null=True),
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
            text("compression_note", null=True),
            # Of a group: its members, a version id a name.
            document("members"),
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
        (
            key("alias_id"),
            text("name"),
            text("test_name", null=True),
            text("alias"),
            text("version_id"),
            moment("made_at", null=False),
        ),
    ),
    # The highest number that a deleted version of a series had: numbers are never given twice.
    Table("file_retired", (key("series"), whole("version", null=False))),
    # Types that somebody declared here, beside those that come with the library.
    Table(
        "file_types",
        (key("type"), text("description"), document("metadata_schema"), moment("made_at", null=False)),
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
