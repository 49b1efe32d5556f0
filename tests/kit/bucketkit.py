"""An S3 server in this process, and a proxy in front of it that can answer badly."""

from __future__ import annotations

import http.client
import itertools
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nirs_store.blobs import bucket as bucket_module
from nirs_store.blobs.bucket import Bucket, parse_place
from nirs_store.blobs.copies import Copies
from nirs_store.blobs.objects import Names, ObjectBlobs
from nirs_store.db.layout import Layout

_numbers = itertools.count()
_started: list[int] = []


def s3_port() -> int:
    """Return the port of the server; start it at the first call."""
    if not _started:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        _started.append(server.get_host_and_port()[1])
        request(_started[0], "PUT", "/lab")
    return _started[0]


def request(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """Send one request without the library."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(method, path, body)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def credentials(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Set credentials and a home folder, and hide those of the user."""
    for name in (
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_ALLOW_HTTP",
        "AWS_SESSION_TOKEN",
    ):
        patch.delenv(name, raising=False)
    patch.setenv("AWS_ACCESS_KEY_ID", "key-for-tests")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-for-tests")
    patch.setenv("AWS_REGION", "us-east-1")
    patch.setenv("NIRS_STORE_CACHE", str(home / "cache"))
    patch.setattr(bucket_module, "FIRST_PAUSE", 0.001)


def address(port: int | None = None) -> str:
    """Return the address of an unused prefix."""
    return f"s3://lab/t{next(_numbers)}?endpoint=http://127.0.0.1:{port or s3_port()}"


def backend(
    root: Path, url: str | None = None, *, patience: float = 5.0, owner: str = "w1", cache: str = "cache"
) -> ObjectBlobs:
    """Make a backend with its own prefix."""
    trash, scratch = root / "journal" / "aside", root / "journal" / "tmp"
    for folder in (trash, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    made = ObjectBlobs(
        Bucket(parse_place(url or address()), patience=patience),
        Names(trash, root / "journal" / "condemned"),
        Copies(root / cache),
        root=root,
        scratch=scratch,
        owner=owner,
    )
    made.claim()
    return made


@contextmanager
def blobs_in_a_bucket() -> Iterator[None]:
    """Keep the blobs of every workspace that is opened in the block in a bucket."""
    places: dict[Path, str] = {}

    def blobs(layout: Layout) -> ObjectBlobs:
        first = layout.root not in places
        made = backend_for(layout, places.setdefault(layout.root, address()), Path(home))
        if first:
            made.claim()
        return made

    found = cached_property(blobs)
    found.__set_name__(Layout, "blobs")
    with (
        tempfile.TemporaryDirectory(prefix="nirs-store-blobs-") as home,
        pytest.MonkeyPatch.context() as patch,
    ):
        credentials(patch, Path(home))
        patch.setattr(Layout, "blobs", found)
        yield


def backend_for(layout: Layout, url: str, home: Path) -> ObjectBlobs:
    """Make the backend of a workspace."""
    return ObjectBlobs(
        Bucket(parse_place(url), patience=5.0),
        Names(layout.aside, layout.condemned),
        Copies(home / "copies"),
        root=layout.root,
        scratch=layout.tmp,
        owner="w1",
    )


# How the proxy answers a request: `send` passes it on and returns status, headers and body.
Send = Callable[[], tuple[int, list[tuple[str, str]], bytes]]
Rule = Callable[["Seen", Send], tuple[int, list[tuple[str, str]], bytes] | None]


class Seen:
    """A request as the proxy saw it."""

    def __init__(self, method: str, path: str, headers: dict[str, str]) -> None:
        self.method = method
        self.path = path
        self.headers = headers

    def __repr__(self) -> str:
        return f"{self.method} {self.path}"


class Proxy:
    """Pass requests on to the server; `rule` may answer instead, or return None to cut the connection."""

    def __init__(self) -> None:
        self.rule: Rule | None = None
        self.seen: list[Seen] = []
        self.port = 0


@contextmanager
def proxy() -> Iterator[Proxy]:
    """Run a proxy in front of the server."""
    state, upstream = Proxy(), s3_port()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            # Copied now: this handler serves other requests later, and a test may still send this one.
            method, path, headers = self.command, self.path, dict(self.headers.items())
            seen = Seen(method, path, headers)
            state.seen.append(seen)

            def send() -> tuple[int, list[tuple[str, str]], bytes]:
                connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=30)
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                found = answer.status, answer.getheaders(), answer.read()
                connection.close()
                return found

            found = send() if state.rule is None else state.rule(seen, send)
            if found is None:
                self.close_connection = True
                return
            status, answered, content = found
            self.send_response_only(status)
            named = {name.lower() for name, _ in answered}
            for name, value in answered:
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            if "content-length" not in named:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
            declared = next((int(v) for n, v in answered if n.lower() == "content-length"), len(content))
            if self.command != "HEAD" and declared != len(content):
                self.close_connection = True

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _handle

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
