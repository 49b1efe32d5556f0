"""Every error this library raises on purpose.

One base class; each subclass also inherits the builtin exception that a caller would
expect, carries a stable ``code`` (for programs) and an ``exit_code`` (for shells), and its
message says what was expected, what was found and what to do next::

    NirsStoreError                              exit 1
    ├── InvalidInput            ValueError      exit 2   bad argument; nothing was changed
    │   ├── ShapeMismatch                                lengths or channels that do not fit
    │   ├── UnknownFormat                                no serializer / export of that name
    │   ├── ForbiddenContent                             a guard refuses to store it
    │   ├── LineageCycle                                 a link that would make a thing its own source
    │   ├── PathEscapes                                  a path that leaves the workspace
    │   ├── SerializationError  TypeError                an object that cannot be stored
    │   └── SourceMissing       FileNotFoundError        a file to be stored that is not there
    ├── UnknownId               KeyError        exit 3   no such run, chain, artifact, ...
    │   ├── ArtifactMissing     FileNotFoundError        named by a chain, but not there
    │   ├── UnknownFile         FileNotFoundError        no stored file, version or alias of that name
    │   ├── UnknownDataset      FileNotFoundError        no data set or version of that name
    │   └── CalibrationNotFound                          no calibration, version or alias of that name
    ├── BlobMissing             FileNotFoundError  exit 4   catalog row present, file gone
    ├── BlobCorrupt             OSError         exit 4   file present, hash wrong
    ├── BlobUnreadable          OSError         exit 4   file present, the system does not give its bytes
    ├── ReplayError             RuntimeError    exit 4   a chain that cannot predict
    │   └── CodeChanged                                  its code is not what was recorded; strict=True
    ├── OutlierFound            RuntimeError    exit 11  flagged samples; on_outlier="raise", --strict
    ├── StoreBusy               TimeoutError    exit 5   another process holds the catalog
    ├── WorkspaceElsewhere      RuntimeError    exit 5   on a network share, and another computer uses it
    ├── InboxOnly               RuntimeError    exit 6   a query to a store that only records
    ├── StoreClosed             RuntimeError    exit 1   used after close()
    ├── ReadOnlyStore           PermissionError exit 6   write to a read-only workspace
    ├── NotAWorkspace           ValueError      exit 7   the folder is something else
    │   └── ForeignCatalog                               store.duckdb of another program
    ├── SchemaTooNew            RuntimeError    exit 7   written by a newer nirs_store
    ├── MigrationNeeded         RuntimeError    exit 7   shared workspace of an older schema version
    ├── CatalogDamaged          RuntimeError    exit 4   store.duckdb cannot be opened
    │   └── ReplicaRefused                               a replica of another log
    ├── WriteFailed             OSError         exit 8   disk full, I/O error; rows are kept
    │   └── SharedStoreUnreachable                       server or object store does not answer
    ├── SessionEnded            RuntimeError    exit 9   taken for dead by others
    ├── SegmentRejected         RuntimeError    exit 9   a commit that could not be applied
    ├── TemplateExists          FileExistsError exit 2   the library has one of that name
    ├── TemplateNotFound        FileNotFoundError  exit 3   the library has none of that name
    ├── OverwriteRefused        FileExistsError exit 2   production content, without force
    ├── CalibrationInUse        RuntimeError    exit 2   an alias, signature or rule forbids it
    ├── ArchiveInvalid          ValueError      exit 10  not an archive, or an altered one
    ├── BackupInvalid           ValueError      exit 10  not a backup, or a damaged one
    └── BundleError             ValueError      exit 10
        ├── BundleInvalid                                not a bundle, or a damaged one
        │   └── BundleMissing   FileNotFoundError        there is no file at the path
        ├── BundleTooNew                                 format version above ours
        └── UntrustedBundle     PermissionError          holds pickles; needs allow_pickle
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

__all__ = [
    "ArchiveInvalid",
    "ArtifactMissing",
    "BackupInvalid",
    "BlobCorrupt",
    "BlobMissing",
    "BlobUnreadable",
    "BundleError",
    "BundleInvalid",
    "BundleMissing",
    "BundleTooNew",
    "CalibrationInUse",
    "CalibrationNotFound",
    "CatalogDamaged",
    "CodeChanged",
    "CodeChangedWarning",
    "ForbiddenContent",
    "ForeignCatalog",
    "InboxOnly",
    "InvalidInput",
    "LineageCycle",
    "MigrationNeeded",
    "NirsStoreError",
    "NotAWorkspace",
    "OutlierFound",
    "OutlierWarning",
    "OverwriteRefused",
    "PathEscapes",
    "ReadOnlyStore",
    "RecordingWarning",
    "ReplayError",
    "ReplicaRefused",
    "SchemaTooNew",
    "SegmentRejected",
    "SerializationError",
    "SessionEnded",
    "ShapeMismatch",
    "SharedStoreUnreachable",
    "SourceMissing",
    "StoreBusy",
    "StoreClosed",
    "TemplateExists",
    "TemplateNotFound",
    "UnknownDataset",
    "UnknownFile",
    "UnknownFormat",
    "UnknownId",
    "UntrustedBundle",
    "WorkspaceElsewhere",
    "WriteFailed",
]

_LONGEST_MESSAGE = 2000
_LONGEST_VALUE = 120


def nearest(value: object, known: Iterable[object]) -> str | None:
    """Return the known word that is nearest to a value, None if none is near."""
    from difflib import get_close_matches

    words = list(map(str, known))
    for text in (str(value), str(value).lower()):
        if near := get_close_matches(text, words, n=1, cutoff=0.5):
            return near[0]
    return None


def did_you_mean(value: object, known: Iterable[object]) -> str:
    """Return a sentence that names the nearest known word, with a space before it; empty if none is near."""
    near = nearest(value, known)
    return f" Did you mean {near!r}?" if near else ""


def shortened(text: str, longest: int) -> str:
    """Cut a text in the middle, where it says least: what begins it and what ends it stay."""
    if len(text) <= longest:
        return text
    kept = longest - 1
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def quoted(value: object, longest: int = _LONGEST_VALUE) -> str:
    """Quote a value that was found, for a message: its repr, however long the value is."""
    cut = shortened(value, longest) if isinstance(value, str) else value
    return shortened(repr(cut), longest)


class NirsStoreError(Exception):
    """Base of all errors raised by this library."""

    code = "error"
    exit_code = 1

    def __init__(self, message: str) -> None:
        # Messages repeat what was given, which may be megabytes.
        message = shortened(message, _LONGEST_MESSAGE)
        super().__init__(message)
        self.message = message

    # KeyError prints the repr of its argument and OSError looks for an errno: say it plainly.
    def __str__(self) -> str:
        return self.message

    # Of an OSError the reason of the system is not part of its __dict__, and would stay behind.
    def __reduce__(self) -> tuple[object, ...]:
        number = self.errno if isinstance(self, OSError) else None
        state = self.__dict__ if number is None else {**self.__dict__, "errno": number}
        return (_rebuild, (type(self), self.message, state))


class InvalidInput(NirsStoreError, ValueError):
    """An argument that cannot be used; nothing was changed."""

    code = "invalid_input"
    exit_code = 2


class ShapeMismatch(InvalidInput):
    """Lengths, shapes or wavelength grids that do not belong together."""

    code = "shape_mismatch"


class UnknownFormat(InvalidInput):
    """No serializer or export format of that name is registered."""

    code = "unknown_format"


class PathEscapes(InvalidInput):
    """A path or name that would leave the folder it must stay in."""

    code = "path_escapes"


class SerializationError(InvalidInput, TypeError):
    """An object that its format cannot store."""

    code = "not_serializable"


class UnknownId(NirsStoreError, KeyError):
    """No run, pipeline, chain, prediction or artifact has that id."""

    code = "unknown_id"
    exit_code = 3

    def __init__(self, kind: str, identifier: object, hint: str = "") -> None:
        message = f"No {kind} has the id {identifier!r} in this workspace."
        super().__init__(f"{message} {hint}" if hint else message)
        self.kind = kind
        self.identifier = identifier


class ArtifactMissing(UnknownId, FileNotFoundError):
    """A chain names an artifact that is not in this workspace (or whose file is gone)."""

    code = "artifact_missing"


class BlobMissing(NirsStoreError, FileNotFoundError):
    """The catalog knows the artifact, but its file is gone."""

    code = "blob_missing"
    exit_code = 4


class BlobCorrupt(NirsStoreError, OSError):
    """The bytes of a file do not hash to the name it carries."""

    code = "blob_corrupt"
    exit_code = 4


class BlobUnreadable(NirsStoreError, OSError):
    """The file is there, but the system refuses to read it; that says nothing about its bytes."""

    code = "blob_unreadable"
    exit_code = 4


class ReplayError(NirsStoreError, RuntimeError):
    """A chain that cannot predict: something it needs is missing or contradictory."""

    code = "replay"
    exit_code = 4


class CodeChanged(ReplayError):
    """A chain uses code outside installed packages that is not what it was when the chain was recorded."""

    code = "code_changed"


class OutlierFound(NirsStoreError, RuntimeError):
    """Samples lie outside the calibration, and the caller asked for an error."""

    code = "outlier"
    exit_code = 11


class StoreBusy(NirsStoreError, TimeoutError):
    """Another process held the catalog for longer than ``lock_timeout``.

    Attributes
    ----------
    host, pid, since
        Who holds it, as far as the holder said; None where unknown.
    """

    code = "store_busy"
    exit_code = 5

    def __init__(
        self,
        message: str,
        *,
        host: str | None = None,
        pid: int | None = None,
        since: datetime | None = None,
    ) -> None:
        super().__init__(message)
        self.host = host
        self.pid = pid
        self.since = since


class WorkspaceElsewhere(NirsStoreError, RuntimeError):
    """Another computer uses the workspace, which is on a network file system.

    Attributes
    ----------
    host, since
        Which computer, and since when, as far as it said; None where unknown.
    """

    code = "workspace_elsewhere"
    exit_code = 5

    def __init__(self, message: str, *, host: str | None = None, since: datetime | None = None) -> None:
        super().__init__(message)
        self.host = host
        self.since = since


class InboxOnly(NirsStoreError, RuntimeError):
    """A query of, or a change in, a store that only records (``inbox=True``)."""

    code = "inbox_only"
    exit_code = 6


class StoreClosed(NirsStoreError, RuntimeError):
    """The store object was closed."""

    code = "store_closed"

    def __init__(self, message: str = "WorkspaceStore is closed") -> None:
        super().__init__(message)


class ReadOnlyStore(NirsStoreError, PermissionError):
    """A write to a store opened read-only, or to a folder that cannot be written."""

    code = "read_only"
    exit_code = 6


class NotAWorkspace(NirsStoreError, ValueError):
    """The path is not a workspace and cannot become one."""

    code = "not_a_workspace"
    exit_code = 7


class ForeignCatalog(NotAWorkspace):
    """``store.duckdb`` exists, but another program wrote it."""

    code = "foreign_catalog"


class SchemaTooNew(NirsStoreError, RuntimeError):
    """The workspace was written by a newer version of this library."""

    code = "schema_too_new"
    exit_code = 7


class MigrationNeeded(NirsStoreError, RuntimeError):
    """A shared workspace is of an older schema version than this nirs_store: ``nirs-store shared migrate``."""

    code = "migration_needed"
    exit_code = 7


class CatalogDamaged(NirsStoreError, RuntimeError):
    """``store.duckdb`` is ours but cannot be opened or read."""

    code = "catalog_damaged"
    exit_code = 4


class WriteFailed(NirsStoreError, OSError):
    """The operating system refused a write (full disk, I/O error, no permission)."""

    code = "write_failed"
    exit_code = 8


class SharedStoreUnreachable(WriteFailed):
    """The server or the object store of a workspace does not answer; unwritten rows are still in memory."""

    code = "shared_store_unreachable"


class ReplicaRefused(CatalogDamaged):
    """The replica of this computer does not belong to the log of its shared workspace."""

    code = "replica_refused"


class SessionEnded(NirsStoreError, RuntimeError):
    """Others took this store object for dead, and what it had claimed may be gone."""

    code = "session_ended"
    exit_code = 9


class SegmentRejected(NirsStoreError, RuntimeError):
    """Committed rows could not be applied to the catalog; they were rejected."""

    code = "segment_rejected"
    exit_code = 9


class TemplateExists(NirsStoreError, FileExistsError):
    """The library already has a template of that name in that category."""

    code = "template_exists"
    exit_code = 2


class TemplateNotFound(NirsStoreError, FileNotFoundError):
    """The library has no template of that name, or there is no such file to import."""

    code = "template_not_found"
    exit_code = 3


class SourceMissing(InvalidInput, FileNotFoundError):
    """The file or folder that was to be stored is not there."""

    code = "source_missing"


class UnknownFile(UnknownId, FileNotFoundError):
    """No stored file has that name, version or alias."""

    code = "unknown_file"

    def __init__(self, identifier: object, message: str) -> None:
        NirsStoreError.__init__(self, message)
        self.kind = "file"
        self.identifier = identifier


class CalibrationNotFound(UnknownId):
    """No calibration has that name, version or alias."""

    code = "calibration_not_found"

    def __init__(self, identifier: object, message: str) -> None:
        NirsStoreError.__init__(self, message)
        self.kind = "calibration"
        self.identifier = identifier


class CalibrationInUse(NirsStoreError, RuntimeError):
    """An alias or a signature needs what was to be deleted, or a rule forbids what was to be changed."""

    code = "calibration_in_use"
    exit_code = 2


class UnknownDataset(UnknownId, FileNotFoundError):
    """No data set or version of that name."""

    code = "unknown_dataset"

    def __init__(self, identifier: object, message: str) -> None:
        NirsStoreError.__init__(self, message)
        self.kind = "dataset"
        self.identifier = identifier


class OverwriteRefused(NirsStoreError, FileExistsError):
    """Production content is never replaced, moved or deleted without ``force=True``."""

    code = "overwrite_refused"
    exit_code = 2


class BundleError(NirsStoreError, ValueError):
    """Base of everything that can be wrong with a ``.n4a`` bundle."""

    code = "bundle"
    exit_code = 10


class BundleInvalid(BundleError):
    """Not a bundle, or a damaged or contradictory one."""

    code = "bundle_invalid"


class BundleMissing(BundleInvalid, FileNotFoundError):
    """There is no bundle at the path."""

    code = "bundle_missing"


class BundleTooNew(BundleError):
    """The bundle's format version is above the one this library reads."""

    code = "bundle_too_new"


class UntrustedBundle(BundleError, PermissionError):
    """The bundle can run code when opened and the caller has not allowed that."""

    code = "bundle_untrusted"


class ForbiddenContent(InvalidInput):
    """Metadata, a note or a tag holds what the workspace's guard refuses to store."""

    code = "forbidden_content"


class LineageCycle(InvalidInput):
    """A link that would make something its own source."""

    code = "lineage_cycle"


class ArchiveInvalid(NirsStoreError, ValueError):
    """Not an archive of a workspace, or an altered, incomplete or oversized one; nothing was changed."""

    code = "archive_invalid"
    exit_code = 10


class BackupInvalid(NirsStoreError, ValueError):
    """Not a backup, or one whose files are missing or do not fit their hashes."""

    code = "backup_invalid"
    exit_code = 10


class CodeChangedWarning(UserWarning):
    """A chain predicts with code that is not what it was when the chain was recorded."""


class OutlierWarning(UserWarning):
    """A sample lies outside the calibration that predicted it, or nothing says whether it does."""


class RecordingWarning(UserWarning):
    """Something about a cross-validation that was recorded, and that its reader should know."""


def _rebuild(cls: type[NirsStoreError], message: str, state: dict[str, object]) -> NirsStoreError:
    """Rebuild an error that crossed a process boundary (its __init__ takes other arguments)."""
    # Of several builtin parents `cls.__new__` is the first one's, which refuses to make what is an OSError as well.
    new = OSError.__new__ if issubclass(cls, OSError) else Exception.__new__
    error = new(cls, message)
    NirsStoreError.__init__(error, message)
    for name, value in state.items():
        setattr(error, name, value)
    return error
