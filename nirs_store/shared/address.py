"""Where a shared workspace is: the address of its server, its name, and where this computer keeps a replica."""

from __future__ import annotations

import os
import re
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from nirs_store.addresses import SharedPlace, without_secrets
from nirs_store.db.layout import network_filesystem
from nirs_store.errors import InvalidInput, did_you_mean

# Options of ours in an address; all others are libpq's.
_OWN = ("workspace", "replica", "patience", "pooler")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")
_PATIENCE = 300.0


@dataclass(frozen=True)
class Address(SharedPlace):
    """A shared workspace as a caller named it; can be pickled, and then leaves the password behind."""

    server: tuple[tuple[str, str], ...]
    """What libpq is told, without a password."""
    workspace: str
    blobs: str | None = None
    replica: Path | None = None
    patience: float = _PATIENCE
    pooler: bool = False
    password: str | None = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.server, self.workspace, self.blobs, self.replica, self.patience, self.pooler)
        return (Address, parts)

    def __str__(self) -> str:
        params = dict(self.server)
        where = params.pop("host", "") or params.pop("hostaddr", "")
        port = params.pop("port", "")
        user = params.pop("user", "")
        text = f"{user}@{where}" if user else where
        text = f"{text}:{port}" if port else text
        query = urlencode(
            {**params, "workspace": self.workspace} if "service" in params else {"workspace": self.workspace}
        )
        return f"postgresql://{text}/{params.get('dbname', '')}?{query}"

    @property
    def name(self) -> str:
        """What a page calls the workspace."""
        return self.workspace

    def libpq(self) -> dict[str, str]:
        """Parameters of a connection."""
        secret = {} if self.password is None else {"password": self.password}
        return {**dict(self.server), **secret}


def parse(text: str | SharedPlace, *, blobs: str | os.PathLike[str] | None = None) -> Address:
    """Read an address such as ``postgresql://lab.example/nirs?workspace=corn``; one that was read stays as it is."""
    if isinstance(text, Address):
        return text
    if not isinstance(text, str):
        raise TypeError(f"no address: {type(text).__name__}")
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    parts = urlsplit(text.strip())
    own: dict[str, str] = {}
    rest = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in _OWN:
            own[name] = value
        else:
            rest.append((name, value))
    masked = without_secrets(text)
    name = own.get("workspace", "")
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{masked}: expected an address with the name of a workspace, as in ?workspace=corn (letters, digits, "
            f"'.', '_', '-', spaces), found {name!r}. Nothing was opened."
        )
    query = "&".join(f"{key}={quote(value, safe='/')}" for key, value in rest)
    try:
        found = conninfo_to_dict(urlunsplit(("postgresql", parts.netloc, parts.path, query, "")))
    except psycopg.ProgrammingError as error:
        known = [
            *_OWN,
            "sslmode",
            "sslrootcert",
            "service",
            "connect_timeout",
            "application_name",
            "passfile",
        ]
        advice = "".join({did_you_mean(key, known) for key, _ in rest})
        raise InvalidInput(f"{masked}: libpq refuses it: {error}.{advice} Nothing was opened.") from error
    params = {key: str(value) for key, value in found.items() if value not in (None, "")}
    password = params.pop("password", None)
    return Address(
        tuple(sorted(params.items())),
        name,
        None if blobs is None else os.fspath(blobs),
        Path(own["replica"]).expanduser().absolute() if own.get("replica") else None,
        _seconds(own.get("patience"), masked),
        _pooler(own.get("pooler"), masked),
        password,
    )


def _seconds(text: str | None, address: str) -> float:
    if text is None:
        return _PATIENCE
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e6:
        raise InvalidInput(f"{address}: patience: expected seconds, found {text!r}. Nothing was opened.")
    return found


def _pooler(text: str | None, address: str) -> bool:
    if text not in (None, "session"):
        raise InvalidInput(
            f"{address}: pooler: expected 'session', found {text!r}. A pooler that hands a connection on after each "
            "transaction loses the locks that say who lives. Nothing was opened."
        )
    return text is not None


def replica_folder(address: Address, workspace_id: str) -> Path:
    """Return where this computer keeps its replica: not on a file system that others share."""
    if address.replica is not None:
        folder = address.replica
        kind = network_filesystem(folder)
        if kind is not None:
            raise InvalidInput(
                f"replica: {folder} lies on a network file system ({kind}), where locks are not kept. Nothing was "
                "made. Name a folder on a disk of this computer."
            )
        return folder
    folder = replicas_folder()
    if not os.environ.get("NIRS_STORE_REPLICAS") and network_filesystem(folder) is not None:
        raise InvalidInput(
            f"This computer would keep its replica in {folder}, which lies on a network file system. Nothing was made. "
            "Name a folder on a local disk: replica=... in the address, or the variable NIRS_STORE_REPLICAS."
        )
    return folder / workspace_id


def replicas_folder() -> Path:
    """Return the folder in which this computer keeps its replicas, each under the id of its workspace."""
    base = os.environ.get("NIRS_STORE_REPLICAS")
    if base:
        return Path(base).expanduser().absolute()
    # The computer's name too: home folders are shared in clusters, and known as local ones in containers.
    host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname()) or "host"
    return _cache() / "nirs_store" / "replicas" / host


def _cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
