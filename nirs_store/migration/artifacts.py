"""The files of nirs4all's artifacts: found, compared with their hash, and stored under it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from nirs_store.blobs.serializers import get_serializer
from nirs_store.bundle.trust import list_pickle
from nirs_store.db.session import Engine
from nirs_store.errors import SerializationError
from nirs_store.ids import now_naive, sha256_hex
from nirs_store.migration.reading import Nirs4allSource
from nirs_store.migration.report import Notes
from nirs_store.migration.rows import Unusable, moment

# What nirs4all calls its formats, and the ending that a file of each has here.
_FORMATS = {
    "joblib": ("joblib", "joblib"),
    "pickle": ("pickle", "pkl"),
    "cloudpickle": ("cloudpickle", "pkl"),
}


class Nirs4allArtifacts:
    """The artifacts of a source by their id there."""

    def __init__(self, source: Nirs4allSource, notes: Notes, *, unpickle: bool = False) -> None:
        self._unpickle = unpickle
        # Parts taken out of a dict: their id, made up here, to the artifact and the key that they come from.
        self._parts: dict[str, tuple[str, str]] = {}
        self._folder = source.root / "artifacts"
        self._notes = notes
        self._rows = {str(row["artifact_id"]): row for row in source.rows("artifacts")}
        self._hashes: dict[str, str | None] = {}
        self._preprocessing: set[str] = set()
        self.used: set[str] = set()

    @property
    def files(self) -> int:
        """How many different files the source's artifacts are, by what its catalog says."""
        return len({str(row.get("content_hash")) for row in self._rows.values()})

    @property
    def unused(self) -> list[str]:
        """Ids that no chain has asked for."""
        return [name for name in self._rows if name not in self.used]

    def resolve(self, artifact_id: str) -> str | None:
        """Return the SHA-256 of an artifact's file, or None when there is no intact one; the reason is noted."""
        self.used.add(artifact_id)
        if artifact_id not in self._hashes:
            try:
                data = self._read(artifact_id)
                self._hashes[artifact_id] = sha256_hex(data)
                if any(name.endswith(".FoldPreprocessedModel") for name in list_pickle(data).classes):
                    self._preprocessing.add(artifact_id)
            except Unusable as reason:
                self._notes.add("artifacts", str(reason), artifact_id)
                self._hashes[artifact_id] = None
        return self._hashes[artifact_id]

    def preprocesses(self, artifact_id: str) -> bool:
        """Whether a resolved artifact is a model of nirs4all's that applies some of the chain's steps itself."""
        return artifact_id in self._preprocessing

    def unwrap(self, artifact_id: str) -> dict[str, str] | None:
        """Take estimator and target transformer out of the dict in which the default engine keeps them."""
        if not self._unpickle or self.resolve(artifact_id) is None:
            return None
        try:
            held = self._load(artifact_id)
        except SerializationError as error:
            self._notes.add("artifacts", f"it cannot be loaded here: {str(error)[:200]}", artifact_id)
            return None
        if not isinstance(held, Mapping) or not hasattr(held.get("estimator"), "predict"):
            return None
        found = {}
        for key, kind in (("estimator", "model"), ("y_transform", "encoder")):
            if held.get(key) is not None:
                name = found[key] = f"{artifact_id}#{key}"
                self._parts[name] = (artifact_id, key)
                made = type(held[key])
                self._rows[name] = {
                    **self._rows[artifact_id],
                    "operator_class": f"{made.__module__}.{made.__qualname__}",
                    "artifact_type": kind,
                    "content_hash": name,
                }
        return found

    def _load(self, artifact_id: str) -> Any:
        return get_serializer("joblib").loads(self._read(artifact_id))

    @contextmanager
    def storing(self, engine: Engine, artifacts: Mapping[str, str]) -> Iterator[list[dict[str, Any]]]:
        """Store files, durably, and hold them against gc until the block has written rows that name them."""
        with ExitStack() as claims:
            rows = []
            for sha, artifact_id in artifacts.items():
                # Claim first, look second, as for every save.
                claims.enter_context(engine.recorder.claiming(sha))
                data = self._read(artifact_id)
                stated = str(self._rows[artifact_id].get("format") or "joblib")
                name, suffix = _FORMATS.get(stated, ("bytes", "bin"))
                info = engine.blobs.put(data, suffix, digest=sha)
                operator_class, artifact_type = self.facts(artifact_id)
                rows.append(
                    {
                        "artifact_id": sha,
                        "artifact_path": info.path,
                        "content_hash": sha,
                        "operator_class": operator_class,
                        "artifact_type": artifact_type,
                        "format": name,
                        "size_bytes": info.size,
                        "created_at": moment(self._rows[artifact_id].get("created_at")) or now_naive(),
                    }
                )
            engine.blobs.wait(list(artifacts))
            yield rows

    def facts(self, artifact_id: str) -> tuple[str, str]:
        """Class and type of an artifact."""
        row = self._rows[artifact_id]
        return str(row.get("operator_class") or ""), str(row.get("artifact_type") or "")

    def _read(self, artifact_id: str) -> bytes:
        if artifact_id in self._parts:
            whole, key = self._parts[artifact_id]
            return get_serializer("joblib").dumps(self._load(whole)[key])
        row = self._rows.get(artifact_id)
        if row is None:
            raise Unusable("a chain names it, but the catalog has no row of it")
        base, relative = self._folder.resolve(), str(row.get("artifact_path") or "")
        path = (base / relative).resolve()
        if not relative or not path.is_relative_to(base):
            raise Unusable("its path leaves the workspace")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Unusable("its file is gone or cannot be read") from error
        promised = str(row.get("content_hash") or "").removeprefix("sha256:").lower()
        if promised != sha256_hex(data):
            raise Unusable("its file does not have the SHA-256 that the catalog says")
        return data
