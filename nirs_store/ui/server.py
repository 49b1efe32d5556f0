"""Start the page: find a port, print the address, open the browser, end cleanly."""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from nirs_store.addresses import SharedPlace, is_shared
from nirs_store.errors import InvalidInput

if TYPE_CHECKING:
    import uvicorn

    from nirs_store.store import WorkspaceStore

PORT = 8423
_TRIED = 20
_LEAST_TOKEN = 12


def listen(host: str, port: int | None) -> socket.socket:
    """Return a listening socket: at the port, or at the first free one from `PORT` on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for tried in [port] if port is not None else range(PORT, PORT + _TRIED):
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host.strip("[]"), tried))
            found.listen(128)
        except OSError as error:
            found.close()
            if port is None and error.errno == errno.EADDRINUSE:
                continue
            raise InvalidInput(
                f"Cannot listen at {host}:{tried}: {error.strerror or error}. Name another with --port or --host."
            ) from error
        return found
    raise InvalidInput(f"The ports {PORT} to {PORT + _TRIED - 1} are taken; name another one with --port.")


@contextlib.contextmanager
def needed() -> Iterator[None]:
    """Say how to install what the page needs, where an import within fails."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise InvalidInput(
            f'The page needs more packages ({missing}). Install them with: python -m pip install "nirs-store[ui]"'
        ) from missing


def _token(host: str, token: str | None) -> str:
    from nirs_store.ui.guard import is_local

    if token is not None and len(token) < _LEAST_TOKEN:
        raise InvalidInput(f"token: expected at least {_LEAST_TOKEN} characters, found {len(token)}.")
    return token or ("" if is_local(host) else secrets.token_urlsafe(24))


class Running:
    """A page that is being served by a thread of this process, at the address `url`."""

    def __init__(self, url: str, stop: Callable[[], None]) -> None:
        self.url, self._stop = url, stop

    def close(self) -> None:
        """End it; a second call does nothing."""
        self._stop()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<page at {self.url}>"

    def _repr_html_(self) -> str:
        from nirs_store.display import escape

        return f'<a href="{escape(self.url)}" target="_blank" rel="noopener">{escape(self.url)}</a>'


@contextlib.contextmanager
def _prepared(
    folder: Path | SharedPlace,
    host: str,
    port: int | None,
    token: str | None,
    may_change: bool,
    store: WorkspaceStore | None,
    fresh: bool = True,
) -> Iterator[tuple[uvicorn.Server, socket.socket, str]]:
    with needed():
        import uvicorn

        from nirs_store.ui.app import Desk, make_app
    from nirs_store.ui.guard import Guard

    guard = Guard(host, _token(host, token))
    desk = Desk(folder, may_change=may_change, store=store, fresh=fresh)
    heard = listen(host, port)
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host.strip("[]")
    shown = f"[{shown}]" if ":" in shown else shown
    url = f"http://{shown}:{heard.getsockname()[1]}/" + (f"?token={guard.token}" if guard.token else "")
    config = uvicorn.Config(
        make_app(desk, guard),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
    )
    try:
        yield uvicorn.Server(config), heard, url
    finally:
        heard.close()
        desk.close()


def _place(folder: str | Path) -> Path | SharedPlace:
    if not is_shared(folder):
        return Path(folder)
    from nirs_store.shared.address import parse

    return parse(str(folder))


def serve(
    folder: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    may_change: bool = False,
    browser: bool = True,
    fresh: bool = True,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the page until Ctrl-C; refuse a taken port, a short token, or missing packages of the extra ``ui``."""
    place = _place(folder)
    if may_change and not fresh:
        raise InvalidInput(
            "--offline and --allow-changes do not go together: a replica alone cannot be changed."
        )
    with _prepared(place, host, port, token, may_change, None, fresh) as (server, heard, url):
        say(f"The page of {place.resolve() if isinstance(place, Path) else place} is at {url}")
        say(("Changes are allowed." if may_change else "It is read-only.") + " Ctrl-C ends it.")
        if "?token=" in url:
            say("Elsewhere, use this machine's name in the address. The connection is not encrypted.")
        if browser:
            threading.Timer(0.3, webbrowser.open, [url]).start()
        with contextlib.suppress(KeyboardInterrupt):
            server.run([heard])


def start(store: WorkspaceStore, *, port: int | None = None, may_change: bool = False) -> Running:
    """Serve the page of an open store from a thread; see `WorkspaceStore.ui`."""
    ready: Future[tuple[uvicorn.Server, str]] = Future()
    ended = threading.Event()

    def run() -> None:
        place = store._engine.settings.shared or store.workspace_path
        prepared = _prepared(place, "127.0.0.1", port, None, may_change, store, store._engine.settings.fresh)
        try:
            with prepared as (server, heard, url):
                ready.set_result((server, url))
                server.run([heard])
        except BaseException as error:  # noqa: BLE001 - raised again where it was asked
            if not ready.done():
                ready.set_exception(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="nirs_store page", daemon=True).start()
    server, url = ready.result()

    def stop() -> None:
        server.should_exit = True
        ended.wait(10)

    return Running(url, stop)
