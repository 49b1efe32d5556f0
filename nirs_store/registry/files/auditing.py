"""What the audit trail hears of stored files: every change, and every attempt that was refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from nirs_store.catalog.engine import Engine
from nirs_store.errors import NirsStoreError
from nirs_store.registry.audit import note
from nirs_store.registry.files.request import FileVersion

__all__ = ["attempting", "note_rows", "note_versions"]

_NOTED_ONE_BY_ONE = 100


@contextmanager
def attempting(engine: Engine, operation: str, object_id: str | None = None) -> Iterator[None]:
    """Note in the audit trail what is refused or fails in the block."""
    engine.check_writable()
    try:
        yield
    except (NirsStoreError, OSError, TypeError, ValueError) as error:
        said = None if object_id is None else _as_text(object_id)
        note(engine, operation, "file", said, success=False, message=_as_text(str(error)))
        raise


def _as_text(words: str) -> str:
    """Escape what UTF-8 cannot hold: a path of other bytes must not keep its own error from the caller."""
    return words.encode("utf-8", "backslashreplace").decode()


def note_versions(engine: Engine, operation: str, versions: Sequence[FileVersion], **details: Any) -> None:
    """Note a change of versions: one entry each, or one for many."""
    note_rows(engine, operation, [vars(version) for version in versions], **details)


def note_rows(engine: Engine, operation: str, rows: Sequence[Mapping[str, Any]], **details: Any) -> None:
    """Note a change of versions as their rows tell of them."""
    if len(rows) > _NOTED_ONE_BY_ONE:
        ids = [row["version_id"] for row in rows]
        note(engine, operation, "file", None, details={"count": len(ids), "versions": ids, **details})
        return
    for row in rows:
        said = {
            name: row[name]
            for name in ("name", "test_name", "version", "content_hash")
            if row[name] is not None
        }
        note(engine, operation, "file", row["version_id"], details={**said, **details})
