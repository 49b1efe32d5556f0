"""Looking up what came into a workspace as a bundle."""

from __future__ import annotations

from dataclasses import dataclass

from nirs_store.catalog.access import Connection

__all__ = ["ImportedBundle", "find_import"]


@dataclass(frozen=True)
class ImportedBundle:
    """A bundle that is in the workspace.

    Attributes
    ----------
    run_id, pipeline_id, chain_id : str
        Where it is; `WorkspaceStore.replay_chain` takes the chain.
    content_hash : str
        SHA-256 over its objects and its chain.
    added : bool
        False when the same content had been imported before, and nothing was added. Files of its objects that were
        lost or damaged since then are back.
    """

    run_id: str
    pipeline_id: str
    chain_id: str
    content_hash: str
    added: bool

    def __repr__(self) -> str:
        state = "imported" if self.added else "was there already"
        return f"<ImportedBundle: {state}; run_id={self.run_id!r}, chain_id={self.chain_id!r}>"


def find_import(con: Connection, content_hash: str) -> tuple[str, str, str] | None:
    """Give run, pipeline and chain of the oldest import of a content that is still there, or None."""
    found = con.execute(
        "SELECT r.run_id, p.pipeline_id, c.chain_id FROM runs r "
        "JOIN pipelines p ON p.run_id = r.run_id JOIN chains c ON c.pipeline_id = p.pipeline_id "
        "WHERE r.status = 'completed' AND json_extract_string(r.config, '$.imported.content_hash') = ? "
        "ORDER BY r.created_at, r.run_id, c.chain_id LIMIT 1",
        [content_hash],
    ).fetchone()
    return None if found is None else (str(found[0]), str(found[1]), str(found[2]))
