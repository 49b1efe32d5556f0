"""The server of the page: routes made from the screens, one way from a request to an answer, one way for errors."""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nirs_store.addresses import SharedPlace
from nirs_store.errors import (
    CalibrationInUse,
    InvalidInput,
    NirsStoreError,
    NotAWorkspace,
    ReadOnlyStore,
    StoreBusy,
    StoreClosed,
    UnknownId,
)
from nirs_store.store import WorkspaceStore
from nirs_store.ui.frame import MOST_UPLOADED, Download, Kept, Redirect, Request, Screen, Upload, View, stamp
from nirs_store.ui.guard import HEADERS, Guard, Refused, cookie_name, is_foreign, without_token
from nirs_store.ui.words import as_json, filters

#: In the order of the navigation. One file per screen, each with its SCREENS.
_MODULES = ("overview", "leaderboard", "pivot", "chain", "predict", "compare", "calibrations",
            "calibration_changes", "datasets", "runs", "records", "changes", "sql", "health")  # fmt: skip
STATIC = Path(__file__).parent / "static"
_MOST_FILES = 64
_ONLY_SHOWN = (
    "This page only shows the workspace; nothing was changed. Start it with: nirs-store ui --allow-changes"
)
#: Queries that are answered at once; each may take a core and much memory.
_MOST_ASIDE, _MEMORY = 4, "1GB"
#: Answers that are given again, and how large one may be.
_MOST_KEPT, _MOST_KEPT_BYTES = 48, 1 << 20
_STATUS = {UnknownId: 404, ReadOnlyStore: 403, InvalidInput: 400, StoreBusy: 503, CalibrationInUse: 409}


def all_screens() -> list[Screen]:
    """Return every screen, in the order of the navigation."""
    found: list[Screen] = []
    for name in _MODULES:
        found += import_module(f"nirs_store.ui.screens.{name}").SCREENS
    return found


class Desk:
    """The workspace of a server, opened when it is first asked for."""

    def __init__(
        self,
        folder: Path | SharedPlace,
        *,
        may_change: bool = False,
        store: WorkspaceStore | None = None,
        fresh: bool = True,
    ) -> None:
        self.folder: Any = folder
        self._fresh = fresh
        self.may_change = may_change
        # A page that only shows asks a store that cannot change the workspace, whatever the given one can.
        self._given = self._own = store if may_change else None
        self._recording = store
        self.kept = Kept()
        self._mutex = threading.Lock()
        self._places, self._pool = threading.BoundedSemaphore(_MOST_ASIDE), list[WorkspaceStore]()

    def usual(self) -> WorkspaceStore:
        """Return the open workspace as it is now, for one answer after the other."""
        self._commit()
        return self.store()

    def _commit(self) -> None:
        # What the given store has recorded and not committed yet; another store would not see it.
        if self._recording is not None and not self.may_change:
            with contextlib.suppress(StoreClosed, ReadOnlyStore):
                self._recording.flush()

    @contextlib.contextmanager
    def lent(self) -> Iterator[WorkspaceStore]:
        """Give a store of its own to an answer that may take long, which so keeps no other one waiting."""
        if not self._places.acquire(blocking=False):
            raise StoreBusy(
                f"{_MOST_ASIDE} queries are being answered; nothing was run. Ask again when one has ended."
            )
        try:
            self._commit()
            with self._mutex:
                store = self._pool.pop() if self._pool else None
            store = store or WorkspaceStore.to_look_at(self.folder, memory_limit=_MEMORY, fresh=self._fresh)
            try:
                yield store
            finally:
                with self._mutex:
                    self._pool.append(store)
        finally:
            self._places.release()

    def store(self) -> WorkspaceStore:
        """Return the open workspace."""
        with self._mutex:
            if self._own is None:
                change = partial(WorkspaceStore, create=False, retention=False)
                self._own = (change if self.may_change else WorkspaceStore.to_look_at)(
                    self.folder, fresh=self._fresh
                )
            return self._own

    def close(self) -> None:
        """Close the workspace, unless it was given."""
        with self._mutex:
            while self._pool:
                self._pool.pop().close()
            if self._own is not None and self._given is None:
                self._own.close()
            self._own = self._given


# -- From a request to an answer.


class _Shield:
    """Asks the guard before anything else, bounds what is sent, and puts the headers on every answer."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = HTTPConnection(scope)
        left = MOST_UPLOADED

        async def bounded() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"More than {MOST_UPLOADED >> 20} MB were sent; nothing was done.")
            return message

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                more = HEADERS if b"cache-control" in given else HEADERS | {"Cache-Control": "no-store"}
                message["headers"] = [
                    *message["headers"],
                    *((k.lower().encode(), v.encode()) for k, v in more.items()),
                ]
            await send(message)

        try:
            entered = self._guard.check(
                asked.headers, asked.cookies, asked.query_params.get("token", ""), scope["method"]
            )
        except Refused as refused:
            await _page_of_error(refused.status, str(refused))(scope, receive, headed)
            return
        if entered:
            answer = Response(
                status_code=303,
                headers={"Location": without_token(scope["path"], asked.query_params.multi_items())},
            )
            name = cookie_name(asked.headers.get("host", ""))
            answer.set_cookie(name, self._guard.session, httponly=True, samesite="strict", path="/")
            await answer(scope, receive, headed)
            return
        await self._app(scope, bounded, headed)


class _Answers:
    """Carries out screens for one desk."""

    def __init__(self, desk: Desk, guard: Guard, screens: Sequence[Screen]) -> None:
        self.desk, self.guard, self.screens = desk, guard, screens
        # One answer after the other: the store takes one question at a time anyhow, and what it warns of is collected.
        self._turn = threading.Lock()
        self._kept: OrderedDict[tuple[str, ...], tuple[bytes, int, str]] = OrderedDict()

    def route(self, screen: Screen) -> Callable[[HttpRequest], Any]:
        """Return the endpoint of a screen."""

        async def endpoint(asked: HttpRequest) -> Response:
            if screen.changes and not self.desk.may_change:
                # Before the body is read: it may hold 64 MB.
                return self._failed(ReadOnlyStore(_ONLY_SHOWN), _as_data(asked))
            with tempfile.TemporaryDirectory(prefix="nirs_store-page-") as scratch:
                form: dict[str, list[str]] = {}
                files: list[Upload] = []
                if screen.method == "POST":
                    async with asked.form(
                        max_files=_MOST_FILES, max_fields=200, max_part_size=1 << 20
                    ) as sent:
                        # Before anything of the body is used; it is bounded, and on the disk where it is large.
                        try:
                            self.guard.check_form(str(sent.get("form_token") or ""))
                        except Refused as refused:
                            return _page_of_error(refused.status, str(refused))
                        for name, value in sent.multi_items():
                            if isinstance(value, UploadFile):
                                files += await run_in_threadpool(_kept, value, Path(scratch), len(files))
                            else:
                                form.setdefault(name, []).append(value)
                return await run_in_threadpool(self._answer, screen, asked, form, files)

        return endpoint

    def _answer(
        self, screen: Screen, asked: HttpRequest, form: dict[str, list[str]], files: list[Upload]
    ) -> Response:
        query = {name: asked.query_params.getlist(name) for name in asked.query_params}
        form_wanted = query.pop("format", [""])[0] or _as_data(asked)
        caught: list[warnings.WarningMessage] = []
        with contextlib.ExitStack() as until:
            if not screen.aside:
                # What a store warns of is collected for the whole process, so not where others are answered meanwhile.
                until.enter_context(self._turn)
                caught = until.enter_context(warnings.catch_warnings(record=True, action="always"))
            try:
                store = until.enter_context(self.desk.lent()) if screen.aside else self.desk.usual()
                key = (str(asked.url), form_wanted, stamp(store)) if screen.keeps else ()
                if key and key in self._kept:
                    self._kept.move_to_end(key)
                    return _fresh(self._kept[key])
                request = Request(
                    store, asked.scope["path"], dict(asked.path_params), query, form, files, self.desk.may_change,
                    self.desk.folder, foreign=is_foreign(asked.headers), kept=self.desk.kept,
                )  # fmt: skip
                found = screen.show(request)
                if isinstance(found, Redirect):
                    return RedirectResponse(found.path, 303)
                if isinstance(found, Download):
                    return _sent(found.content, "application/octet-stream", found.name)
                if form_wanted == "json":
                    return self._keep(key, (as_json(_data_of(found)), found.status, "application/json"))
                if form_wanted:
                    if found.table is None:
                        raise InvalidInput("format: this screen has no table to download.")
                    return _sent(*found.table.download(form_wanted), f"{found.table.name}.{form_wanted}")
                messages = [str(each.message) for each in caught if issubclass(each.category, UserWarning)]
                html = document(request, found, self.screens, messages, self.guard.form_token)
                return self._keep(key, (html.encode(), found.status, "text/html"))
            except NirsStoreError as error:
                return self._failed(error, form_wanted, files)

    def _keep(self, key: tuple[str, ...], answer: tuple[bytes, int, str]) -> Response:
        if key and len(answer[0]) < _MOST_KEPT_BYTES:
            self._kept[key] = answer
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return _fresh(answer)

    def _failed(self, error: NirsStoreError, form_wanted: str, files: Sequence[Upload] = ()) -> Response:
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
        words = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        for each in files:  # where a file was put for a moment helps no one
            words = words.replace(str(each.path), each.name)
        if form_wanted == "json":
            plain = {"error": error.code, "message": words}
            return Response(as_json(plain), status, media_type="application/json")
        if isinstance(error, NotAWorkspace):
            begin = render("begin.html", folder=str(self.desk.folder), words=words)
            return HTMLResponse(begin, 404)
        return _page_of_error(status, words)


def _as_data(asked: HttpRequest) -> str:
    return "json" if "application/json" in asked.headers.get("accept", "") else ""


def _fresh(answer: tuple[bytes, int, str]) -> Response:
    # A new object each time: the middleware writes into its headers.
    return Response(answer[0], answer[1], media_type=answer[2])


def _data_of(view: View) -> Any:
    if view.data is not None:
        return view.data
    return view.table.data() if view.table is not None else view.values


def _sent(content: bytes, media_type: str, name: str) -> Response:
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[-120:]
    headers = {"Content-Disposition": f'attachment; filename="{safe}"'}
    return Response(content, media_type=media_type, headers=headers)


def _kept(sent: UploadFile, scratch: Path, number: int) -> list[Upload]:
    name = Path(sent.filename or "").name
    if not name:
        return []
    # Under its name, as far as any disk takes it: readers name samples and findings by it.
    path = scratch / str(number) / (re.sub(r"[^\w.() -]", "_", name)[-60:].strip(". ") or "file")
    path.parent.mkdir()
    with path.open("wb") as target:
        while piece := sent.file.read(1 << 20):
            target.write(piece)
    return [Upload(name, path)]


def _page_of_error(status: int, words: str) -> Response:
    return HTMLResponse(render("error.html", status=status, words=words), status)


# -- Templates.


@cache
def _templates() -> Environment:
    found = Environment(trim_blocks=True, lstrip_blocks=True, autoescape=True, undefined=StrictUndefined)
    found.loader = PackageLoader("nirs_store.ui")
    found.filters |= filters()
    found.globals["version"] = version("nirs-store")
    return found


def render(template: str, **values: Any) -> str:
    """Fill a template; every value is escaped."""
    return _templates().get_template(template).render(**values)


def document(
    request: Request,
    view: View,
    screens: Sequence[Screen],
    messages: Sequence[str] = (),
    form_token: str = "",
) -> str:
    """Return a view as a whole document."""
    more = {"navigation": [screen for screen in screens if screen.label], "messages": dict.fromkeys(messages)}
    return render("base.html", view=view, request=request, form_token=form_token, **more, **view.values)


def make_app(desk: Desk, guard: Guard) -> Starlette:
    """Return the page as an ASGI application."""
    screens = all_screens()
    answers = _Answers(desk, guard, screens)

    async def refused(_: HttpRequest, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        words = {404: "There is no such page.", 405: "This address does not take that."}.get(status)
        return _page_of_error(status, words or str(getattr(error, "detail", error)))

    async def gone(_: HttpRequest, error: Exception) -> Response:
        return Response(status_code=400)  # the sender has left and does not read this

    async def broken(_: HttpRequest, error: Exception) -> Response:
        return _page_of_error(
            500, f"This screen has a fault ({type(error).__name__}); the terminal shows where."
        )

    return Starlette(
        routes=[
            *(Route(screen.path, answers.route(screen), methods=[screen.method]) for screen in screens),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(_Shield, guard=guard),
            Middleware(GZipMiddleware, minimum_size=2000, compresslevel=3),
        ],
        exception_handlers={HTTPException: refused, ClientDisconnect: gone, Exception: broken},
    )
