"""Where a shared workspace is: the address of its server, its name, and where this computer keeps a replica."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unicodedata import normalize
from urllib.parse import quote, unquote, urlencode

from nirs_store.addresses import SharedPlace, is_secret, without_secrets
from nirs_store.blobs.bucket import parse_place
from nirs_store.blobs.copies import user_cache
from nirs_store.db.layout import network_filesystem
from nirs_store.display import printable
from nirs_store.errors import InvalidInput, did_you_mean

# Options of ours in an address; all others are libpq's.
_OWN = ("workspace", "replica", "patience", "pooler")
# Letters and digits of any script: a lab may call its workspace Maïs. No parentheses: see `moving._hidden`.
_NAME = re.compile(r"[^\W_][\w. -]{0,99}")
_PATIENCE = 300.0
_ADDRESS = re.compile(r"postgres(?:ql)?://([^/?#]*)/?([^/?#]*)(?:\?([^#]*))?", re.IGNORECASE)
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.%A-Za-z]+)\]|([^:\[\]]*))(?::([0-9]*))?")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class Address(SharedPlace):
    """A shared workspace as a caller named it; a pickle of it has no passwords."""

    server: tuple[tuple[str, str], ...]
    """Parameters for libpq, without secrets."""
    workspace: str
    blobs: str | None = None
    replica: Path | None = None
    patience: float = _PATIENCE
    pooler: bool = False
    secrets: tuple[tuple[str, str], ...] = field(default=(), repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.server, self.workspace, self.blobs, self.replica, self.patience, self.pooler)
        return (Address, parts)

    def __str__(self) -> str:
        params = dict(self.server)
        hosts, ports = params.get("host", "").split(","), params.get("port", "").split(",")
        shown = {name: params[name] for name in ("service",) if name in params}
        where = ""
        if any(host.startswith(("/", "@")) for host in hosts):
            # The folder of a socket cannot come before the path.
            shown |= {name: params[name] for name in ("host", "port") if name in params}
        else:
            ports = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
            where = ",".join(
                (f"[{host.replace('%', '%25')}]" if ":" in host else quote(host))
                + (f":{port}" if port else "")
                for host, port in zip(hosts, ports, strict=True)
            )
        if "user" in params:
            where = f"{quote(params['user'], safe='')}@{where}"
        query = urlencode({**shown, "workspace": self.workspace}, quote_via=quote, safe="/,")
        return f"postgresql://{where}/{quote(params.get('dbname', ''), safe='')}?{query}"

    @property
    def name(self) -> str:
        """The name of the workspace, which the page shows."""
        return self.workspace

    def libpq(self) -> dict[str, str]:
        """Return the parameters of a connection."""
        return dict(self.server + self.secrets)


def parse(text: str | SharedPlace, *, blobs: str | os.PathLike[str] | None = None) -> Address:
    """Read an address such as ``postgresql://lab.example/nirs?workspace=corn``; an `Address` is returned unchanged."""
    if isinstance(text, Address):
        return text
    if not isinstance(text, str):
        raise TypeError(f"expected an address, found {type(text).__name__}")
    masked = _masked(text)
    params, own = _parameters(text.strip(), masked)
    # One keyboard sends é as one character, another as two.
    name = normalize("NFC", own.get("workspace", ""))
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{masked}: expected an address with the name of a workspace, as in ?workspace=corn (up to 100 letters, "
            f"digits, '.', '_', '-', spaces), found {name[:100]!r}. Nothing was opened."
        )
    from psycopg import pq

    known = {option.keyword.decode(): option.dispchar == b"*" for option in pq.Conninfo.get_defaults()}
    unknown = [key for key in params if key not in known]
    if unknown:
        advice = did_you_mean(unknown[0], [*_OWN, *known])
        raise InvalidInput(f"{masked}: unknown option {unknown[0][:100]!r}.{advice} Nothing was opened.")
    secret = {key: known[key] or is_secret(key) for key in params}
    return Address(
        tuple(sorted(item for item in params.items() if not secret[item[0]])),
        name,
        None if blobs is None else str(parse_place(blobs)),
        Path(own["replica"]).expanduser().absolute() if own.get("replica") else None,
        _seconds(own.get("patience"), masked),
        _pooler(own.get("pooler"), masked),
        tuple(sorted(item for item in params.items() if secret[item[0]])),
    )


def _masked(text: str) -> str:
    # A password with '/', '?' or '#' ends where the last '@' is, whatever a parser would say.
    return printable(without_secrets(re.sub(r"://.*@", "://***@", text.strip(), flags=re.DOTALL)))


def _parameters(text: str, masked: str) -> tuple[dict[str, str], dict[str, str]]:
    """Split an address into parameters of libpq and ours; libpq's own words would repeat passwords."""

    def refuse(reason: str) -> InvalidInput:
        return InvalidInput(f"{masked}: {reason}. Nothing was opened.")

    found = _ADDRESS.fullmatch(text)
    if found is None or "@" in found[2]:
        raise refuse(
            "expected postgresql://user@host:port/database?workspace=name. Write '#', '?', '/' and '@' in a user name, "
            "a password or a database as %23, %3F, %2F and %40"
        )
    pairs = [part.partition("=")[::2] for part in (found[3] or "").split("&") if part]
    if not all(re.fullmatch(r"[A-Za-z_]+", key) for key, _ in pairs):
        raise refuse("expected name=value, joined by '&', after the '?'")
    user, _, hosts = found[1].rpartition("@")
    name, _, password = user.partition(":")
    places = [_HOST.fullmatch(place) for place in hosts.split(",")] if hosts else []
    if not all(places) or any(place and place[3] and not 0 < int(place[3]) < 65536 for place in places):
        raise refuse("expected the name of a host, or [::1], and a port from 1 to 65535 after a colon")
    parts = [(place[1] or place[2] or "", place[3] or "") for place in places if place]
    pairs += [("user", name), ("password", password), ("dbname", found[2])]
    ports = ",".join(port for _, port in parts)
    pairs += [("host", ",".join(host for host, _ in parts)), ("port", ports if ports.strip(",") else "")]
    params: dict[str, str] = {}
    own: dict[str, str] = {}
    for key, value in pairs:
        if not value:
            continue
        if _BAD_PERCENT.search(key + value):
            raise refuse("a percent sign must be written as %25")
        try:
            value = unquote(value.replace("+", "%20") if key == "workspace" else value, errors="strict")
        except UnicodeDecodeError:
            raise refuse("the bytes written with percent signs are not UTF-8") from None
        if not value.isprintable():
            raise refuse("it has control characters")
        target = own if key in _OWN else params
        if key in target:
            raise refuse(f"{key!r} is given twice")
        target[key] = value
    return params, own


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
            "transaction loses the locks that say which sessions are alive. Nothing was opened."
        )
    return text is not None


def replica_folder(address: Address, workspace_id: str) -> Path:
    """Return where this computer keeps its replica: not on a file system that others share."""
    if address.replica is not None:
        folder = address.replica
        kind = network_filesystem(folder)
        if kind is not None:
            raise InvalidInput(
                f"replica: {folder} is on a network file system ({kind}), which does not keep locks. Nothing was "
                "made. Name a folder on a disk of this computer."
            )
        return folder
    folder = replicas_folder()
    if network_filesystem(folder) is not None:
        raise InvalidInput(
            f"This computer would keep its replica in {folder}, which is on a network file system. Nothing was made. "
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
    return user_cache() / "replicas" / host
