"""What the audit trail hears of stored files: every change, and every attempt that was refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nirs_store.catalog.engine import Engine
from nirs_store.errors import NirsStoreError
from nirs_store.registry.audit import note
from nirs_store.registry.files.request import FileVersion

__all__ = ["attempting", "note_versions"]

_NOTED_ONE_BY_ONE = 100


@contextmanager
def attempting(engine: Engine, operation: str, object_id: str | None = None) -> Iterator[None]:
    """Note in the audit trail what is refused or fails in the block."""
    engine.check_writable()
    try:
        yield
    except (NirsStoreError, OSError, TypeError, ValueError) as error:
        note(engine, operation, "file", object_id, success=False, message=str(error))
        raise


def note_versions(engine: Engine, operation: str, versions: Sequence[FileVersion], **details: Any) -> None:
    """Note a change of versions: one entry each, or one for many."""
    if len(versions) > _NOTED_ONE_BY_ONE:
        ids = [version.version_id for version in versions]
        note(engine, operation, "file", None, details={"count": len(ids), "versions": ids, **details})
        return
    for version in versions:
        said = {"name": version.name, "version": version.version, "content_hash": version.content_hash}
        if version.test_name:
            said["test_name"] = version.test_name
        note(engine, operation, "file", version.version_id, details={**said, **details})
