"""What an export needs of a store: a few look-ups, so that this room knows no catalog."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

__all__ = ["ChainSource", "HashingSource"]


@runtime_checkable
class ChainSource(Protocol):
    """Whoever can name chains and hand out the bytes of their artifacts.

    `WorkspaceStore` is one; a test may be a dict with three methods.
    """

    def get_chain(self, chain_id: str) -> dict[str, Any] | None:
        """Give a stored chain, or None when there is none of that id."""
        ...

    def get_artifact(self, artifact_id: str) -> dict[str, Any] | None:
        """Give the record of an artifact (at least its ``format`` and ``operator_class``), or None."""
        ...

    def read_artifact(self, artifact_id: str) -> bytes:
        """Give the stored bytes of an artifact after their hash was verified.

        Raises
        ------
        UnknownId, BlobMissing, BlobCorrupt
            The id is not known, its file is gone, or its bytes do not hash to their name.
        """
        ...


@runtime_checkable
class HashingSource(ChainSource, Protocol):
    """One that says which hash it has found the bytes to have, so that nobody needs to hash them again."""

    def read_hashed(self, artifact_id: str) -> tuple[bytes, str]:
        """Give the bytes as `read_artifact` does, and their SHA-256.

        It was computed in this process, of the same unchanged file.
        """
        ...
