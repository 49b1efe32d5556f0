"""Giving each object of a chain its bytes and its name in the bundle."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

from nirs_store.blobs.serializers import get_serializer
from nirs_store.bundle.artifacts import Blobs
from nirs_store.bundle.layout import Made, Part
from nirs_store.bundle.manifest import Kind, Role
from nirs_store.bundle.skops_payload import skops_payload
from nirs_store.chains.operators import Workbench
from nirs_store.chains.plan import Operator
from nirs_store.ids import sha256_hex

__all__ = ["Packing", "Payload"]

# CRC-32 by SHA-256: what has the one has the other. Of objects that were packed before, some bytes each.
_MOST_CHECKSUMS = 4096
_checksums: dict[str, int] = {}


@dataclass(frozen=True)
class Payload:
    """A member that holds a fitted object."""

    name: str
    role: Role
    data: bytes = field(repr=False)
    sha256: str

    @property
    def crc32(self) -> int:
        """What a ZIP file states beside the size."""
        found = _checksums.get(self.sha256)
        if found is None:
            found = zlib.crc32(self.data)
            if len(_checksums) >= _MOST_CHECKSUMS:
                _checksums.clear()
            _checksums[self.sha256] = found
        return found


class Packing:
    """Gives each object of a layout its bytes and its member name."""

    def __init__(self, blobs: Blobs, bench: Workbench, expressible: bool, kind: Kind) -> None:
        self._blobs = blobs
        self._bench = bench
        self._expressible = expressible
        self._kind = kind
        self.payloads: dict[str, Payload] = {}

    def add(self, part: Part, name: str, role: Role) -> str | None:
        """Take in one object; give its id, or None for one that travels as the name of its class."""
        if self._kind == "skops":
            return self._add_skops(part)
        if isinstance(part, Made):
            data = get_serializer("joblib").dumps(part.value)
        elif part.artifact_id is not None:
            return self._take(
                self._blobs.data(part.artifact_id), self._blobs.sha256(part.artifact_id), name, role
            )
        elif self._expressible:
            data = get_serializer("joblib").dumps(self._bench.open(part)[0])
        else:
            return None
        return self._take(data, sha256_hex(data), name, role)

    def _take(self, data: bytes, digest: str, name: str, role: Role) -> str:
        if not self._expressible:
            name, role = f"blobs/{digest}.joblib", "blob"
        self.payloads.setdefault(name, Payload(name, role, data, digest))
        return digest

    def _add_skops(self, part: Part) -> str:
        assert isinstance(part, Operator)  # nothing is put together for a safe bundle
        # Also what needs no fitting: a class made from its name would be chosen by the bundle's text.
        data = self._blobs.skops(part.artifact_id) if part.artifact_id is not None else None
        if data is None:
            data = skops_payload(self._bench.open(part)[0], part.where)
        digest = sha256_hex(data)
        name = f"blobs/{digest}.skops"
        self.payloads.setdefault(name, Payload(name, "blob", data, digest))
        return digest
