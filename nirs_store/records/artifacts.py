"""Artifacts: blobs with a row, and the references that keep them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

from nirs_store.blobs.backend import BLOBS, BlobBackend
from nirs_store.blobs.code import CODE, Held, Reliance, describe_code, reliance_of
from nirs_store.blobs.durable import Draft
from nirs_store.blobs.serializers import get_serializer
from nirs_store.blobs.store import token_of
from nirs_store.db.database import Connection
from nirs_store.db.recorder import Buffer
from nirs_store.db.schema import column_names
from nirs_store.db.session import Engine
from nirs_store.db.sql import number
from nirs_store.db.table import Table, checked, fetch
from nirs_store.errors import ArtifactMissing, BlobCorrupt, BlobMissing, InvalidInput, UnknownId
from nirs_store.ids import new_id, now_naive, sha256_hex
from nirs_store.records import queries
from nirs_store.values import as_long, as_text, with_zone

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
    """Serialize, hash, store once, and give this session a reference."""
    engine.check_writable(closely=False)
    as_text(operator_class, "operator_class")
    as_text(artifact_type, "artifact_type")
    serializer = get_serializer(format)
    data = serializer.dumps(obj)
    artifact_id = save_bytes(
        engine, data, serializer.suffix, operator_class, artifact_type, format, pipeline_id
    )
    if found := reliance_of(obj, data):
        # The chain that names the artifact says what code it relies on.
        engine.id_cache.add(CODE, artifact_id, found)
    return artifact_id


def code_of(engine: Engine, artifact_ids: Iterable[str]) -> dict[str, Any] | None:
    """Describe the code of artifacts that this session saved; None for installed packages alone."""
    found = [known for ident in artifact_ids if (known := engine.id_cache.get(CODE, ident))]
    return describe_code(Reliance.joined(found))


def save_bytes(
    engine: Engine,
    data: bytes,
    suffix: str,
    operator_class: str,
    artifact_type: str,
    format: str,
    pipeline_id: str | None,
) -> str:
    """Store bytes that are serialized already."""
    artifact_id = sha256_hex(data)
    # The session's row comes before any claim of its: see Engine.recording.
    with engine.recording():
        pass
    remembered = engine.id_cache.get("artifact", artifact_id)
    there = engine.blobs.asking(lambda: remembered or on_disk(engine.layout.blobs, artifact_id))
    # Claim first, look second: a gc that did not see the claim has moved the file away by now,
    # and the look of `put` finds it gone and writes it again.
    with engine.recorder.claiming(artifact_id):
        found = there()
        suffix, format = _stored_as(engine, artifact_id, found, suffix, format)
        info = engine.blobs.put(data, suffix, digest=artifact_id, absent=found is None)
        known = _note(info.path, artifact_id, operator_class, artifact_type, format, info.size)
        _record(engine, artifact_id, known, pipeline_id)
    return artifact_id


def put_back(engine: Engine, rows: Mapping[str, Mapping[str, Any]], data: Mapping[str, bytes]) -> None:
    """Write the lost or damaged files of artifacts again, from bytes by their hash."""
    # For a caller who holds the exclusive lock and found the rows under it: what keeps these artifacts stays, so there
    # is nothing to claim and no row to write.
    # A registered file is the caller's own, and no blob.
    own = {ident: path for ident, row in rows.items() if (path := Path(row["artifact_path"])).stem == ident}
    for ident, path in own.items():
        engine.blobs.put(data[ident], path.suffix, digest=ident)
    engine.blobs.wait(own)


def _stored_as(
    engine: Engine, artifact_id: str, known: Mapping[str, Any] | None, suffix: str, format: str
) -> tuple[str, str]:
    """Return the ending and format under which bytes that are known are stored already, or those asked for."""
    # Two formats can give the same bytes. There must be one file of them, the one that the row names: a second would
    # heal nothing and have no owner.
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
    remembered = engine.id_cache.get("artifact", artifact_id)
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
    buffer.blobs |= {artifact_id, token_of(known["artifact_path"])[0]}
    buffer.add("blobs", {"artifact_id": artifact_id, **known, "created_at": now_naive()})


def _record(engine: Engine, artifact_id: str, known: dict[str, Any], pipeline_id: str | None) -> None:
    """Record an artifact with a reference of this session's, and remember what its row says."""
    about = {name: known[name] for name in ("operator_class", "artifact_type")}
    with engine.recording() as buffer:
        add_reference(buffer, artifact_id, known, "session", engine.session_id, pipeline_id, **about)
        engine.id_cache.add("artifact", artifact_id, known)


def add_reference(
    buffer: Buffer,
    artifact_id: str,
    known: dict[str, Any],
    owner_kind: str,
    owner_id: str,
    pipeline_id: str | None,
    **about: Any,
) -> None:
    """Add a reference to an artifact, and its row."""
    add_blob_row(buffer, artifact_id, known)
    row = {
        "ref_id": new_id(),
        "artifact_id": artifact_id,
        "owner_kind": owner_kind,
        "owner_id": owner_id,
        "pipeline_id": pipeline_id,
        "created_at": now_naive(),
    }
    buffer.add("artifact_refs", {**row, **about})


def add_reference_transfer(engine: Engine, buffer: Buffer, artifact_id: str) -> None:
    """Let an owner take over this session's reference to an artifact."""
    row = {"takeover_id": new_id(), "session_id": engine.session_id, "artifact_id": artifact_id}
    buffer.add("takeovers", row)


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
    # Blobs may lie elsewhere than the workspace. Anything else is refused below, which says why.
    for root in (engine.layout.blobs.address(""), engine.layout.root):
        if relative.is_absolute() and relative.resolve().is_relative_to(Path(root).resolve()):
            relative = relative.resolve().relative_to(Path(root).resolve())
    text = relative.as_posix()
    # Refuses what leads out of the workspace, or into the store's own machinery.
    engine.layout.blobs.stat(text)
    with engine.recording():
        pass
    # Claimed by its path too, which need not be made of the id; then looked at (see save_bytes).
    with engine.recorder.claiming(artifact_id, token_of(text)[0]):
        _check_file(engine, artifact_id, text, digest, expected)
        known = _note(text, digest, operator_class, artifact_type, format, expected)
        _record(engine, artifact_id, known, None)
    return artifact_id


def _note(*values: Any) -> dict[str, Any]:
    """Return what is noted of a blob, of its values in the order of `BLOB_NOTE`."""
    return dict(zip(queries.BLOB_NOTE, values, strict=True))


def _check_file(engine: Engine, artifact_id: str, text: str, digest: str, expected: int) -> None:
    if not engine.blobs.is_current(text):
        raise InvalidInput(
            f"path: a garbage collection of this shared workspace has deleted {text}, and a deletion that arrives late "
            "would hit a new file of that name. Nothing was registered. Write the file under another name, and "
            "register that."
        )
    size = engine.blobs.verify(text, digest)
    if size != expected:
        raise InvalidInput(f"size_bytes: {text} has {size} bytes, not {expected}. Nothing was registered.")
    if not engine.blobs.exists(text):
        raise BlobMissing(f"{text} is being removed by a gc. Nothing was registered; write it again.")
    existing = _lookup(engine, artifact_id)
    if existing is not None and existing["content_hash"] != digest:
        existing = _lookup(engine, artifact_id, again=True)
    if existing is not None and existing["content_hash"] != digest:
        raise InvalidInput(
            f"artifact_id: {artifact_id!r} names other content already ({existing['artifact_path']}). "
            "Nothing was registered."
        )


def claim_artifact(engine: Engine, claims: ExitStack, artifact_id: str) -> dict[str, Any]:
    """Claim an artifact until `claims` end, and check that a chain can name it; returns what its row says."""
    claims.enter_context(engine.recorder.claiming(artifact_id))
    known = require_artifact(engine, artifact_id)
    token, _ = token_of(known["artifact_path"])
    if token == artifact_id:
        return known
    # The row that is known may be one that a gc has deleted; whether it gave up the file, the claim of the path says.
    claims.enter_context(engine.recorder.claiming(token))
    return require_artifact(engine, artifact_id)


def require_artifact(engine: Engine, artifact_id: str) -> dict[str, Any]:
    """Check that a chain can name an artifact, which the caller has claimed; returns what its row says."""
    known = engine.id_cache.get("artifact", artifact_id)
    if known is not None:
        # A look at an object store takes a round trip for each artifact of a chain.
        held = engine.layout.blobs.far and engine.recorder.holds(artifact_id)
        if held or engine.blobs.is_coming_or_there(known["artifact_path"]):
            return dict(known)
        # What this process remembers may be older than a deletion by another one.
        engine.id_cache.forget("artifact", artifact_id)
    known = _in_transaction(engine, artifact_id)
    if known is None:
        answered, known = engine.look_up(lambda con: queries.note_of(con, "artifact", artifact_id))
        if not answered:
            # The catalog is busy. Ids made by save_artifact are hashes, so the file tells.
            known = on_disk(engine.layout.blobs, artifact_id)
        if known is None:
            raise ArtifactMissing(
                "artifact", artifact_id, "Save it with save_artifact first. Nothing was recorded."
            )
        engine.id_cache.add("artifact", artifact_id, known)
    if not engine.blobs.is_coming_or_there(known["artifact_path"]):
        engine.id_cache.forget("artifact", artifact_id)
        raise ArtifactMissing(
            "artifact",
            artifact_id,
            f"Its file {known['artifact_path']} is gone; save the object again. Nothing was recorded.",
        )
    return dict(known)


def _in_transaction(engine: Engine, artifact_id: str) -> dict[str, Any] | None:
    row = engine.recorder.find("blobs", artifact_id)
    return row and {name: row[name] for name in row if name not in ("artifact_id", "created_at")}


def on_disk(blobs: BlobBackend, artifact_id: str) -> dict[str, Any] | None:
    """Return what a blob's row says, as far as its file tells; None when there is none, or the id is not a hash."""
    if len(artifact_id) != 64 or not set(artifact_id) <= set("0123456789abcdef"):
        return None
    for key, found in blobs.scan(f"{BLOBS}{artifact_id[:2]}/{artifact_id}."):
        suffix = key.rpartition(".")[2]
        return _note(key, artifact_id, "", "", _FORMATS.get(suffix, suffix), found.size)
    return None


def adopt(con: Connection, engine: Engine, drafts: Sequence[tuple[Draft, str, str]]) -> None:
    """Let drafts (with an ending and an artifact type each) take their names among the blobs, and record the blobs."""
    there = Table(con, "blobs").where(artifact_id={draft.digest for draft, *_ in drafts})
    paths = {blob["artifact_id"]: str(blob["artifact_path"]) for blob in there}
    placed: dict[str, tuple[Draft, str]] = {}
    kinds: dict[str, str] = {}
    for draft, ending, kind in drafts:
        if draft.digest not in placed:
            # The same bytes may be there under another ending; there must be one file of them.
            known = on_disk(engine.layout.blobs, draft.digest)
            path = known["artifact_path"] if known else paths.get(draft.digest, "")
            placed[draft.digest] = draft, PurePosixPath(path).suffix.lstrip(".") or ending
            kinds[draft.digest] = kind
    blobs = [
        {
            "artifact_id": info.artifact_id,
            "created_at": now_naive(),
            **_note(info.path, info.artifact_id, "", kinds[info.artifact_id], "bytes", info.size),
        }
        for info in (engine.blobs.adopt(list(placed.values())) if placed else ())
    ]
    Table(con, "blobs").insert(blobs, "OR IGNORE")


def hold(
    con: Connection, owner_kind: str, held: Iterable[tuple[str, str, str]], operator_class: str | None = None
) -> None:
    """Let owners hold blobs: the id of the owner, the blob and its artifact type, each."""
    same = {"owner_kind": owner_kind, "operator_class": operator_class, "created_at": now_naive()}
    rows = [
        {"ref_id": new_id(), "owner_id": owner_id, "artifact_id": artifact_id, "artifact_type": kind, **same}
        for owner_id, artifact_id, kind in held
    ]
    Table(con, "artifact_refs").insert(rows)


def _lookup(engine: Engine, artifact_id: str, *, again: bool = False) -> dict[str, Any] | None:
    """Return what an artifact's row says, as it is remembered or, `again`, as it is now."""
    if again:
        # What this process remembers may be older than a deletion by another one.
        engine.id_cache.forget("artifact", artifact_id)
    known = engine.id_cache.get("artifact", artifact_id) if isinstance(artifact_id, str) else None
    if known is None:
        known = _in_transaction(engine, artifact_id)
    if known is not None:
        return dict(known)
    found = engine.query(lambda con: queries.note_of(con, "artifact", artifact_id))
    if found is not None:
        engine.id_cache.add("artifact", artifact_id, found)
    return found


def is_settled(artifact_id: str, known: Mapping[str, Any] | None) -> bool:
    """Whether what is known of an artifact holds for ever: its id is the hash of its content."""
    # An id of a caller's own can be deleted and registered again with other content, by another process too.
    return known is not None and known["content_hash"] == artifact_id


def content_key(artifact_id: str, known: Mapping[str, Any]) -> str:
    """Name what an artifact holds, for a cache of loaded objects: never two contents by one name."""
    # The id itself where it is the hash of the content, as nearly always.
    if is_settled(artifact_id, known):
        return artifact_id
    return f"{known['content_hash']} {known['format']}"


def get_to_know(engine: Engine, artifact_ids: Iterable[str]) -> dict[str, str]:
    """Ask for all of these that are not known for sure in one question, so that loading each asks nothing."""
    # Importing what an object needs takes longer than a connection lingers: the next one's question would open the
    # catalog again.
    notes = {ident: engine.id_cache.get("artifact", ident) for ident in artifact_ids}
    missing = [ident for ident, known in notes.items() if not is_settled(ident, known)]
    if not missing:
        return {}
    for ident, row in engine.query(lambda con: queries.blob_rows(con, missing)).items():
        notes[ident] = {name: row[name] for name in queries.BLOB_NOTE}
        engine.id_cache.add("artifact", ident, notes[ident])
    keys = {ident: content_key(ident, known) for ident in missing if (known := notes[ident])}
    return {ident: key for ident, key in keys.items() if key != ident}


def _require_row(engine: Engine, artifact_id: str) -> dict[str, Any]:
    # A chain is loaded an object at a time, each in a fraction of a millisecond.
    engine.check_open(closely=False)
    known = _lookup(engine, artifact_id)
    if known is None:
        raise UnknownId("artifact", artifact_id)
    return known


def read_artifact(engine: Engine, artifact_id: str) -> bytes:
    """Return the bytes of an artifact, checked against their hash."""
    return _read(engine, artifact_id)[0]


def _read(engine: Engine, artifact_id: str) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of an artifact, and the row that they fit."""
    known = _require_row(engine, artifact_id)
    try:
        return engine.blobs.read(known["artifact_path"], known["content_hash"]), known
    except (BlobMissing, BlobCorrupt) as error:
        # Under a caller's own id the file may rightly hold something else by now.
        if isinstance(error, BlobCorrupt) and is_settled(artifact_id, known):
            raise
        known = _moved_on(engine, artifact_id, known, error)
    return engine.blobs.read(known["artifact_path"], known["content_hash"]), known


def _moved_on(
    engine: Engine, artifact_id: str, before: Mapping[str, Any], error: BlobMissing | BlobCorrupt
) -> dict[str, Any]:
    """Query the row of an artifact again whose file is not as the known row says."""
    found = _lookup(engine, artifact_id, again=True)
    if found is None:
        raise UnknownId("artifact", artifact_id, "It was deleted.") from error
    if all(found[name] == before[name] for name in ("artifact_path", "content_hash")):
        raise error
    return found


def load_artifact(engine: Engine, artifact_id: str) -> Any:
    """Load an artifact again; the caller may change what it gets."""
    return load_held(engine, artifact_id)[0].value


def load_held(engine: Engine, artifact_id: str) -> tuple[Held, dict[str, Any]]:
    """Load an artifact again for a cache, and give what its row says."""
    data, known = _read(engine, artifact_id)
    return Held(get_serializer(known["format"]).loads(data), data), known


def artifact_path(engine: Engine, artifact_id: str, *, verified: bool = False) -> Path:
    """Path of an artifact's file, on request compared with its hash now or before in this process."""
    known = _require_row(engine, artifact_id)
    try:
        return _path_of(engine, known, verified)
    except BlobMissing as error:
        known = _moved_on(engine, artifact_id, known, error)
    return _path_of(engine, known, verified)


def _path_of(engine: Engine, known: Mapping[str, Any], verified: bool) -> Path:
    return engine.blobs.path_of(known["artifact_path"], known["content_hash"] if verified else None)


# -- Records of the artifact layer: writing them into the journal, and asking for them.


RECORD = "record"

Link = Mapping[str, Any]
"""kind, target_id, artifact_id, feature_index."""


def known_record(engine: Engine, record_id: str, *, ask: bool) -> dict[str, Any] | None:
    """Return what this process knows of a record: artifact_id, pipeline_id, chain_path."""
    # With `ask` the catalog is asked for what is not known here, for a second at most.
    known = engine.id_cache.get(RECORD, record_id)
    if known is None:
        row = engine.recorder.find("artifact_records", record_id)
        known = row and {name: row[name] for name in ("artifact_id", "pipeline_id", "chain_path")}
    if known is None and ask:
        _, known = engine.look_up(lambda con: queries.note_of(con, RECORD, record_id))
        if known is not None:
            engine.id_cache.add(RECORD, record_id, known)
    return None if known is None else dict(known)


def save_record(engine: Engine, values: Mapping[str, Any], links: Sequence[Link]) -> None:
    """Record one artifact's place; takes over this session's reference to it."""
    record_id = as_text(values["record_id"], "artifact_id")
    row = checked("artifact_records", {**values, "created_at": now_naive()})
    with ExitStack() as claims:
        held = {
            artifact_id: claim_artifact(engine, claims, artifact_id)
            for artifact_id in dict.fromkeys([row["artifact_id"], *(link["artifact_id"] for link in links)])
        }
        with engine.recording() as buffer:
            buffer.add("artifact_records", row)
            for position, link in enumerate(links):
                _add_link(buffer, record_id, row["pipeline_id"], position, link)
            for artifact_id, known in held.items():
                add_reference(buffer, artifact_id, known, RECORD, record_id, row["pipeline_id"])
            add_reference_transfer(engine, buffer, row["artifact_id"])
            note = {name: row[name] for name in ("artifact_id", "pipeline_id", "chain_path")}
            engine.id_cache.add(RECORD, record_id, note)


def add_link(engine: Engine, record_id: str, pipeline_id: str, position: int, link: Link) -> None:
    """Record one more dependency of a record."""
    with ExitStack() as claims:
        known = claim_artifact(engine, claims, link["artifact_id"])
        with engine.recording() as buffer:
            _add_link(buffer, record_id, pipeline_id, position, link)
            add_reference(buffer, link["artifact_id"], known, RECORD, record_id, pipeline_id)


def _add_link(buffer: Buffer, record_id: str, pipeline_id: str, position: int, link: Link) -> None:
    buffer.add(
        "artifact_links",
        {
            # Said twice, by two processes or in two commits, it is still one link.
            "link_id": f"{record_id} {link['kind']} {link['target_id']}",
            "record_id": record_id,
            "pipeline_id": pipeline_id,
            "kind": link["kind"],
            "position": position,
            "target_id": link["target_id"],
            "artifact_id": link["artifact_id"],
            "feature_index": link.get("feature_index"),
        },
    )


# -- asking ------------------------------------------------------------------------------------

_OF_CHAINS = {
    "dataset_name": "p.dataset_name = $dataset_name",
    "pipeline_id": "c.pipeline_id = $pipeline_id",
    "run_id": "p.run_id = $run_id",
    "chain_id": "c.chain_id = $chain_id",
}
_COLUMNS = ", ".join(f"r.{name}" for name in column_names("artifact_records"))
_FILTERS = {
    "dataset_name": "p.dataset_name = $dataset_name",
    "pipeline_id": "r.pipeline_id = $pipeline_id",
    "run_id": "p.run_id = $run_id",
    "custom_name": "r.custom_name = $custom_name",
    "step_index": "r.step_index = $step_index",
    "record_ids": "list_contains($record_ids, r.record_id)",
    "artifact_ids": "list_contains($artifact_ids, r.artifact_id)",
    "input_data_hashes": "list_contains($input_data_hashes, r.input_data_hash)",
    "dataset_hash": "r.dataset_hash = $dataset_hash",
}


def fetch_records(con: Connection, **wanted: Any) -> list[dict[str, Any]]:
    """Return records that fit all filters, in the order in which they were made, each with its file and links."""
    params = {name: value for name, value in wanted.items() if value is not None}
    where = " AND ".join(_FILTERS[name] for name in params) or "TRUE"
    rows = fetch(
        con,
        f"SELECT {_COLUMNS}, b.artifact_path, b.content_hash, b.format, b.size_bytes, p.dataset_name "
        "FROM artifact_records r LEFT JOIN blobs b USING (artifact_id) LEFT JOIN pipelines p USING (pipeline_id) "
        f"WHERE {where} ORDER BY r.created_at, r.record_id",
        params,
    )
    links: dict[str, list[dict[str, Any]]] = {}
    of_rows = {row["record_id"] for row in rows}
    for link in Table(con, "artifact_links").where("record_id, position, link_id", record_id=of_rows):
        links.setdefault(link["record_id"], []).append(link)
    for row in rows:
        row["created_at"] = with_zone(row["created_at"])
        row["links"] = links.get(row["record_id"], [])
    return rows


def dependents_outside(con: Connection, pipeline_ids: Sequence[str]) -> list[tuple[str, str]]:
    """Meta-models of other pipelines whose sources are in these: (meta-model, source)."""
    return [
        (str(record), str(target))
        for record, target in con.execute(
            "SELECT DISTINCT record_id, target_id FROM artifact_links WHERE kind = 'source' "
            "AND NOT list_contains($ids, pipeline_id) AND list_contains($ids, split_part(target_id, '$', 1)) "
            "ORDER BY ALL",
            {"ids": list(pipeline_ids)},
        ).fetchall()
    ]


def forget_inputs(con: Connection, dataset_name: str) -> int:
    """Forget what the artifacts of a data set were fitted on; gives how many had said it."""
    return number(
        con,
        "UPDATE artifact_records SET input_data_hash = NULL WHERE input_data_hash IS NOT NULL AND pipeline_id IN "
        "(SELECT pipeline_id FROM pipelines WHERE dataset_name = ?)",
        [dataset_name],
    )


def fetch_chains(con: Connection, **wanted: Any) -> list[dict[str, Any]]:
    """Chains of a pipeline, run or data set in the order of their making, JSON decoded, with what they name."""
    params = {name: value for name, value in wanted.items() if value is not None}
    where = " AND ".join(_OF_CHAINS[name] for name in params) or "TRUE"
    rows = fetch(
        con,
        "SELECT c.chain_id, c.pipeline_id, c.steps, c.fold_artifacts, c.shared_artifacts, c.branch_path, c.metadata, "
        "c.model_step_idx, c.model_class, c.source_index, c.created_at, p.dataset_name, p.dataset_hash FROM chains c "
        f"LEFT JOIN pipelines p USING (pipeline_id) WHERE {where} ORDER BY c.created_at, c.chain_id",
        params,
    )
    for row in rows:
        row["created_at"] = with_zone(row["created_at"])
    return rows
