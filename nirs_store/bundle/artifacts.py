"""The artifacts of one chain on their way into a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nirs_store.blobs.serializers import get_serializer
from nirs_store.bundle.source import ChainSource, HashingSource
from nirs_store.errors import ArtifactMissing, BlobCorrupt, UnknownId
from nirs_store.ids import sha256_hex

__all__ = ["Blobs"]

# joblib.load reads all three: what it writes itself, and plain pickles.
_READ_BY_JOBLIB = frozenset({"joblib", "pickle", "cloudpickle"})


class Blobs:
    """The artifacts of one chain: each read once from the source, its hash compared, loaded when needed."""

    def __init__(self, source: ChainSource, chain_id: str) -> None:
        self._source = source
        # Looked at once: to find whether an object keeps a protocol takes as long as reading a small file.
        self._hashing = source if isinstance(source, HashingSource) else None
        self._chain_id = chain_id
        self._raw: dict[str, tuple[bytes, str]] = {}
        self._data: dict[str, bytes] = {}
        self._hashes: dict[str, str] = {}
        self._objects: dict[str, Any] = {}

    def data(self, artifact_id: str) -> bytes:
        """Give bytes that joblib can load.

        Raises
        ------
        ArtifactMissing
            The source does not know the artifact.
        BlobCorrupt
            Its bytes are not those that its record promises; also whatever the source itself raises.
        """
        if artifact_id not in self._data:
            raw, format = self._read(artifact_id)
            if format not in _READ_BY_JOBLIB:
                raw = get_serializer("joblib").dumps(get_serializer(format).loads(raw))
            self._data[artifact_id] = raw
        return self._data[artifact_id]

    def sha256(self, artifact_id: str) -> str:
        """Give the SHA-256 of `data`."""
        data = self.data(artifact_id)
        if artifact_id not in self._hashes:
            self._hashes[artifact_id] = sha256_hex(data)
        return self._hashes[artifact_id]

    def skops(self, artifact_id: str) -> bytes | None:
        """Give the stored bytes if they are a skops payload, else None; errors as for `data`."""
        raw, format = self._read(artifact_id)
        return raw if format == "skops" else None

    def _read(self, artifact_id: str) -> tuple[bytes, str]:
        if artifact_id not in self._raw:
            record = self._record(artifact_id)
            try:
                raw, found = self._hashed(artifact_id)
            except ArtifactMissing:
                raise
            except UnknownId as error:
                raise self._missing(artifact_id) from error
            promised = str(record.get("content_hash") or "").removeprefix("sha256:").lower()
            if len(promised) == 64 and promised != found:
                raise BlobCorrupt(
                    f"The artifact {artifact_id!r} of chain {self._chain_id!r} has the hash "
                    f"{found}, its record says {promised}. Nothing was written. Repair the workspace, or "
                    "save the object again."
                )
            format = str(record.get("format", "joblib"))
            if format in _READ_BY_JOBLIB:
                self._hashes[artifact_id] = found
            self._raw[artifact_id] = raw, format
        return self._raw[artifact_id]

    def _hashed(self, artifact_id: str) -> tuple[bytes, str]:
        if self._hashing is not None:
            return self._hashing.read_hashed(artifact_id)
        raw = bytes(self._source.read_artifact(artifact_id))
        return raw, sha256_hex(raw)

    def load(self, artifact_id: str) -> Any:
        """Give the object itself, loaded from the bytes that travel."""
        if artifact_id not in self._objects:
            self._objects[artifact_id] = get_serializer("joblib").loads(self.data(artifact_id))
        return self._objects[artifact_id]

    def _record(self, artifact_id: str) -> Mapping[str, Any]:
        try:
            record = self._source.get_artifact(artifact_id)
        except ArtifactMissing:
            raise
        except UnknownId:
            record = None
        if record is None:
            raise self._missing(artifact_id)
        return record

    def _missing(self, artifact_id: str) -> ArtifactMissing:
        return ArtifactMissing(
            "artifact", artifact_id, f"Chain {self._chain_id!r} names it; without it nothing was written."
        )
