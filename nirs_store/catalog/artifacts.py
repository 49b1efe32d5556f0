"""Artifacts: blobs with a row, and the references that keep them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nirs_store.blobs.serializers import get_serializer
from nirs_store.catalog import queries
from nirs_store.catalog.buffer import Buffer, now_naive
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.layout import Layout
from nirs_store.catalog.values import as_long, as_text
from nirs_store.errors import ArtifactMissing, BlobCorrupt, BlobMissing, InvalidInput, UnknownId
from nirs_store.ids import new_id, sha256_hex

__all__ = [
    "add_blob_row",
    "artifact_path",
    "content_key",
    "get_artifact",
    "get_to_know",
    "is_settled",
    "load_artifact",
    "load_with_row",
    "on_disk",
    "put_back",
    "read_artifact",
    "read_hashed",
    "register_existing",
    "require_artifact",
    "save_artifact",
]


# Formats whose files have another ending than their name.
_FORMATS = {"pkl": "pickle", "bin": "bytes"}


def save_artifact(
    engine: Engine,
    obj: Any,
    operator_class: str,
    artifact_type: str,
    format: str,
    pipeline_id: str | None,
) -> str:
    """Serialise, hash, store once, and give this session a reference."""
    engine.check_writable(closely=False)
    as_text(operator_class, "operator_class")
    as_text(artifact_type, "artifact_type")
    serializer = get_serializer(format)
    data = serializer.dumps(obj)
    return save_bytes(engine, data, serializer.suffix, operator_class, artifact_type, format, pipeline_id)


def save_bytes(
    engine: Engine,
    data: bytes,
    suffix: str,
    operator_class: str,
    artifact_type: str,
    format: str,
    pipeline_id: str | None,
) -> str:
    """Store bytes that are serialised already."""
    artifact_id = sha256_hex(data)
    # The session's row comes before any claim of its: see Engine.recording.
    with engine.recording():
        pass
    suffix, format = _stored_as(engine, artifact_id, suffix, format)
    # Claim first, look second: a gc that did not see the claim has moved the file away by now,
    # and the look finds it gone and writes it again.
    with engine.recorder.claiming(artifact_id):
        info = engine.blobs.put(data, suffix, digest=artifact_id)
        known = {
            "artifact_path": info.path,
            "content_hash": artifact_id,
            "operator_class": operator_class,
            "artifact_type": artifact_type,
            "format": format,
            "size_bytes": info.size,
        }
        with engine.recording() as buffer:
            _add_rows(engine, buffer, artifact_id, known, pipeline_id)
            engine.known.add("artifact", artifact_id, known)
    return artifact_id


def put_back(engine: Engine, rows: Mapping[str, Mapping[str, Any]], data: Mapping[str, bytes]) -> None:
    """Write the lost or damaged files of artifacts anew, from bytes by their hash.

    For a caller who holds the exclusive lease and found the rows under it: what keeps these artifacts stays, so
    there is nothing to claim and no row to write.

    Raises
    ------
    WriteFailed, ReadOnlyStore
    """
    # A registered file is the caller's own, and no blob.
    own = {ident: path for ident, row in rows.items() if (path := Path(row["artifact_path"])).stem == ident}
    for ident, path in own.items():
        engine.blobs.put(data[ident], path.suffix, digest=ident)
    engine.blobs.wait(own)


def _stored_as(engine: Engine, artifact_id: str, suffix: str, format: str) -> tuple[str, str]:
    """The ending and format under which these bytes are stored already, or those asked for.

    Two formats can give the same bytes. There must be one file of them, the one that the row names: a
    second would heal nothing and belong to nobody.

    Raises
    ------
    InvalidInput
        The row would load them as something else: as bare bytes, or as an object where bytes are meant.
    """
    known = engine.known.get("artifact", artifact_id) or on_disk(engine.layout, artifact_id)
    if known is not None and (known["format"] == "bytes") != (format == "bytes"):
        known = _row_or_memory(engine, artifact_id)
        other = known is not None and (known["format"] == "bytes") != (format == "bytes")
        # A file that was lost is brought back by its bytes, whatever they load as.
        if known is not None and other and engine.blobs.is_coming_or_there(known["artifact_path"]):
            _refuse_other_kind(artifact_id, str(known["format"]), format)
    if known is None:
        return suffix, format
    path = Path(known["artifact_path"])
    if path.stem != artifact_id or path.suffix == f".{suffix}":
        return suffix, format
    return path.suffix, str(known["format"])


def _row_or_memory(engine: Engine, artifact_id: str) -> dict[str, Any] | None:
    # What this process remembers may be older than a deletion by another one, and the ending of a file tells less
    # than its row. While the catalog is busy, what was remembered counts.
    remembered = engine.known.get("artifact", artifact_id)
    if _in_transaction(engine, artifact_id) is not None:
        return remembered and dict(remembered)
    answered, row = engine.look_up(lambda con: queries.note_of(con, "artifact", artifact_id))
    return row if answered else remembered and dict(remembered)


def _refuse_other_kind(artifact_id: str, stored: str, format: str) -> None:
    found, asked = ("bare bytes", "an object") if stored == "bytes" else ("an object", "bare bytes")
    raise InvalidInput(
        f"format: these bytes are to be stored as {format!r}, which loads them as {asked}, but artifact "
        f"{artifact_id[:12]} has the same bytes as {stored!r} already, and loads as {found}. Nothing was stored. "
        f"Save with format={stored!r}, or in a format that gives other bytes."
    )


def add_blob_row(buffer: Buffer, artifact_id: str, known: dict[str, Any]) -> None:
    """Add an artifact's row. It travels with every reference; the first one to arrive stays."""
    buffer.blobs.add(artifact_id)
    buffer.add("blobs", {"artifact_id": artifact_id, **known, "created_at": now_naive()})


def _add_rows(
    engine: Engine, buffer: Buffer, artifact_id: str, known: dict[str, Any], pipeline_id: str | None
) -> None:
    add_blob_row(buffer, artifact_id, known)
    buffer.add(
        "artifact_refs",
        {
            "ref_id": new_id(),
            "artifact_id": artifact_id,
            "owner_kind": "session",
            "owner_id": engine.session_id,
            "pipeline_id": pipeline_id,
            "operator_class": known["operator_class"],
            "artifact_type": known["artifact_type"],
            "created_at": now_naive(),
        },
    )


def register_existing(
    engine: Engine,
    artifact_id: str,
    path: str | Path,
    content_hash: str,
    operator_class: str,
    artifact_type: str,
    format: str,
    size_bytes: int,
) -> str:
    """Register a file of this workspace under an id of the caller's."""
    engine.check_writable()
    as_text(artifact_id, "artifact_id")
    if not artifact_id:
        raise InvalidInput("artifact_id: expected text, found an empty string. Nothing was registered.")
    as_text(operator_class, "operator_class")
    as_text(artifact_type, "artifact_type")
    get_serializer(format)
    digest = as_text(content_hash, "content_hash").removeprefix("sha256:")
    expected = as_long(size_bytes, "size_bytes")
    if expected is None:
        raise InvalidInput("size_bytes: expected a whole number, found None. Nothing was registered.")
    relative = Path(path)
    if relative.is_absolute():
        try:
            relative = relative.resolve().relative_to(engine.layout.root.resolve())
        except ValueError:
            relative = Path(path)  # resolve() below refuses it and says why
    file = engine.blobs.resolve(relative.as_posix())
    if file.is_relative_to(engine.layout.journal.resolve()) or file == engine.layout.catalog.resolve():
        raise InvalidInput(
            f"path: {relative} is part of the store's own machinery and cannot be an artifact."
        )
    text = relative.as_posix()
    with engine.recording():
        pass
    # Claimed by its path too, which need not be made of the id; then looked at (see save_bytes).
    with engine.recorder.claiming(artifact_id, text):
        known = _checked_file(engine, artifact_id, text, digest, expected)
        known |= {"operator_class": operator_class, "artifact_type": artifact_type, "format": format}
        with engine.recording() as buffer:
            _add_rows(engine, buffer, artifact_id, known, None)
            engine.known.add("artifact", artifact_id, known)
    return artifact_id


def _checked_file(engine: Engine, artifact_id: str, text: str, digest: str, expected: int) -> dict[str, Any]:
    size = engine.blobs.verify(text, digest)
    if size != expected:
        raise InvalidInput(f"size_bytes: {text} has {size} bytes, not {expected}. Nothing was registered.")
    if not engine.blobs.exists(text):
        raise BlobMissing(f"{text} is being removed by a gc. Nothing was registered; write it again.")
    existing = _lookup(engine, artifact_id)
    if existing is not None and existing["content_hash"] != digest:
        existing = _lookup_anew(engine, artifact_id)
    if existing is not None and existing["content_hash"] != digest:
        raise InvalidInput(
            f"artifact_id: {artifact_id!r} names other content already ({existing['artifact_path']}). "
            "Nothing was registered."
        )
    return {"artifact_path": text, "content_hash": digest, "size_bytes": size}


def require_artifact(engine: Engine, artifact_id: str) -> dict[str, Any]:
    """Check that a chain can name an artifact, which the caller has claimed; returns what its row says.

    Raises
    ------
    ArtifactMissing
    """
    known = engine.known.get("artifact", artifact_id)
    if known is not None:
        if engine.blobs.is_coming_or_there(known["artifact_path"]):
            return dict(known)
        # What this process remembers may be older than a deletion by another one.
        engine.known.forget("artifact", artifact_id)
    known = _in_transaction(engine, artifact_id)
    if known is None:
        answered, known = engine.look_up(lambda con: queries.note_of(con, "artifact", artifact_id))
        if not answered:
            # The catalog is busy. Ids made by save_artifact are hashes, so the file tells.
            known = on_disk(engine.layout, artifact_id)
        if known is None:
            raise ArtifactMissing(
                "artifact", artifact_id, "Save it with save_artifact first. Nothing was recorded."
            )
        engine.known.add("artifact", artifact_id, known)
    if not engine.blobs.is_coming_or_there(known["artifact_path"]):
        engine.known.forget("artifact", artifact_id)
        raise ArtifactMissing(
            "artifact",
            artifact_id,
            f"Its file {known['artifact_path']} is gone; save the object again. Nothing was recorded.",
        )
    return dict(known)


def _in_transaction(engine: Engine, artifact_id: str) -> dict[str, Any] | None:
    row = engine.recorder.find("blobs", artifact_id)
    return row and {name: row[name] for name in row if name not in ("artifact_id", "created_at")}


def on_disk(layout: Layout, artifact_id: str) -> dict[str, Any] | None:
    """What a blob's row says, as far as its file tells; None when there is none, or the id is no hash."""
    if len(artifact_id) != 64 or not set(artifact_id) <= set("0123456789abcdef"):
        return None
    folder = layout.artifacts / artifact_id[:2]
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    for name in names:
        if not name.startswith(f"{artifact_id}."):
            continue
        path = folder / name
        relative = path.relative_to(layout.root).as_posix()
        return {
            "artifact_path": relative,
            "content_hash": artifact_id,
            "operator_class": "",
            "artifact_type": "",
            "format": _FORMATS.get(path.suffix[1:], path.suffix[1:]),
            "size_bytes": path.stat().st_size,
        }
    return None


def _lookup(engine: Engine, artifact_id: str) -> dict[str, Any] | None:
    known = engine.known.get("artifact", artifact_id) if isinstance(artifact_id, str) else None
    if known is None:
        known = _in_transaction(engine, artifact_id)
    if known is not None:
        return dict(known)
    found = engine.query(lambda con: queries.note_of(con, "artifact", artifact_id))
    if found is not None:
        engine.known.add("artifact", artifact_id, found)
    return found


def _lookup_anew(engine: Engine, artifact_id: str) -> dict[str, Any] | None:
    # What this process remembers may be older than a deletion by another one.
    engine.known.forget("artifact", artifact_id)
    return _lookup(engine, artifact_id)


def is_settled(artifact_id: str, known: Mapping[str, Any] | None) -> bool:
    """Whether what is known of an artifact holds for ever: its id is the hash of its content.

    An id of a caller's own can be deleted and registered anew with other content, by another process too.
    """
    return known is not None and known["content_hash"] == artifact_id


def content_key(artifact_id: str, known: Mapping[str, Any]) -> str:
    """Name what an artifact holds, for a cache of loaded objects: never two contents by one name.

    The id itself where it is the hash of the content, as nearly always.
    """
    if is_settled(artifact_id, known):
        return artifact_id
    return f"{known['content_hash']} {known['format']}"


def get_to_know(engine: Engine, artifact_ids: Iterable[str]) -> dict[str, str]:
    """Ask for all of these that are not known for sure in one question, so that loading each asks nothing.

    Importing what an object needs takes longer than a connection lingers: the next one's question would open the
    catalog anew.

    Returns
    -------
    dict
        `content_key` of those whose ids are a caller's own.
    """
    notes = {ident: engine.known.get("artifact", ident) for ident in artifact_ids}
    strangers = [ident for ident, known in notes.items() if not is_settled(ident, known)]
    if not strangers:
        return {}
    for ident, row in engine.query(lambda con: queries.blob_rows(con, strangers)).items():
        notes[ident] = {name: row[name] for name in queries.BLOB_NOTE}
        engine.known.add("artifact", ident, notes[ident])
    keys = {ident: content_key(ident, known) for ident in strangers if (known := notes[ident])}
    return {ident: key for ident, key in keys.items() if key != ident}


def get_artifact(engine: Engine, artifact_id: str) -> dict[str, Any] | None:
    """The artifact's row with its reference count."""
    return engine.query(lambda con: queries.get_artifact(con, artifact_id))


def _require_row(engine: Engine, artifact_id: str) -> dict[str, Any]:
    # A chain is loaded an object at a time, each in a fraction of a millisecond.
    engine.check_open(closely=False)
    known = _lookup(engine, artifact_id)
    if known is None:
        raise UnknownId("artifact", artifact_id)
    return known


def read_artifact(engine: Engine, artifact_id: str) -> bytes:
    """The bytes of an artifact, checked against their hash."""
    return read_hashed(engine, artifact_id)[0]


def read_hashed(engine: Engine, artifact_id: str) -> tuple[bytes, str]:
    """The bytes of an artifact, and the hash that they were checked against."""
    data, known = _read(engine, artifact_id)
    return data, str(known["content_hash"])


def _read(engine: Engine, artifact_id: str) -> tuple[bytes, dict[str, Any]]:
    """The bytes of an artifact, and the row that they fit."""
    known = _require_row(engine, artifact_id)
    try:
        return engine.blobs.read(known["artifact_path"], known["content_hash"]), known
    except BlobMissing as error:
        known = _moved_on(engine, artifact_id, known, error)
    except BlobCorrupt as error:
        if is_settled(artifact_id, known):
            raise
        # Under a caller's own id the file may rightly hold something else by now.
        known = _moved_on(engine, artifact_id, known, error)
    return engine.blobs.read(known["artifact_path"], known["content_hash"]), known


def _moved_on(
    engine: Engine, artifact_id: str, before: Mapping[str, Any], error: BlobMissing | BlobCorrupt
) -> dict[str, Any]:
    """The row of an artifact whose file is not as the row known before says; it is asked for anew.

    Raises
    ------
    UnknownId
        The artifact was deleted.
    BlobMissing, BlobCorrupt
        The row is the same: what is wrong is the file.
    """
    found = _lookup_anew(engine, artifact_id)
    if found is None:
        raise UnknownId("artifact", artifact_id, "It was deleted.") from error
    if all(found[name] == before[name] for name in ("artifact_path", "content_hash")):
        raise error
    return found


def load_artifact(engine: Engine, artifact_id: str) -> Any:
    """Load an artifact anew; the caller may change what it gets."""
    return load_with_row(engine, artifact_id)[0]


def load_with_row(engine: Engine, artifact_id: str) -> tuple[Any, dict[str, Any]]:
    """Load an artifact anew, and give what its row says."""
    data, known = _read(engine, artifact_id)
    return get_serializer(known["format"]).loads(data), known


def artifact_path(engine: Engine, artifact_id: str) -> Path:
    """Path of an artifact's file."""
    known = _require_row(engine, artifact_id)
    try:
        return engine.blobs.path_of(known["artifact_path"])
    except BlobMissing as error:
        known = _moved_on(engine, artifact_id, known, error)
    return engine.blobs.path_of(known["artifact_path"])
