"""What a version is made of, as hashes: its chain, its artifacts, its domain."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.db.audit_chain import payload_of
from nirs_store.db.database import Connection
from nirs_store.domain import DOMAIN, domain_id
from nirs_store.records import queries

# Columns that came later are not hashed: what was signed stays signed.
_HASHED = (
    "chain_id", "pipeline_id", "steps", "model_step_idx", "model_class", "preprocessings", "fold_strategy",
    "fold_artifacts", "shared_artifacts", "branch_path", "source_index", "fold_weights", "target", "target_unit",
)  # fmt: skip


@dataclass(frozen=True)
class Contents:
    """What a version is made of, as hashes: the chain, its artifacts, its domain (None without one)."""

    chain: str
    artifacts: str
    domain: str | None

    @property
    def digest(self) -> str:
        """Return one hash of them all."""
        return digest_of(asdict(self))


def user_name() -> str:
    """Return the name of the operating system's user."""
    return str(payload_of("")["user"]) or "unknown"


def digest_of(value: Any) -> str:
    """Return the SHA-256 of plain data in one spelling."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _named(chain: Mapping[str, Any]) -> list[str]:
    """List the artifacts that a chain names, its domain among them."""
    ids = chain_artifact_ids(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"])
    domain = domain_id(chain["metadata"])
    return sorted({*ids, *([domain] if domain else [])})


def artifacts_of(con: Connection, chain_id: str) -> list[str]:
    """List the artifacts of a chain; none where it is gone."""
    chain = queries.get_chain(con, chain_id)
    return [] if chain is None else _named(chain)


def contents_of(con: Connection, chain_id: str) -> Contents | None:
    """Hash a chain, its artifacts and its domain as they are now; None where the chain is gone."""
    chain = queries.get_chain(con, chain_id)
    if chain is None:
        return None
    metadata = dict(chain["metadata"] or {})
    domain = domain_id(metadata)
    metadata.pop(DOMAIN, None)
    wanted = _named(chain)
    rows = con.execute(
        "SELECT artifact_id, content_hash FROM blobs WHERE artifact_id IN (SELECT unnest(?::VARCHAR[]))",
        [wanted],
    ).fetchall()
    held = {str(row[0]): str(row[1]) for row in rows}
    grid = chain["wavelengths"]
    described = {
        **{name: chain[name] for name in _HASHED},
        "metadata": metadata,
        "wavelengths": None if grid is None else hashlib.sha256(grid.astype("<f8").tobytes()).hexdigest(),
        "created_at": None if chain["created_at"] is None else chain["created_at"].isoformat(),
    }
    return Contents(
        digest_of(described),
        digest_of([[each, held.get(each)] for each in wanted if each != domain]),
        None if domain is None else digest_of([domain, held.get(domain)]),
    )
