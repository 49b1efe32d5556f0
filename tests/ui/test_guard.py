"""Who may ask the page, and that nothing is changed by whoever may only look."""

from __future__ import annotations

import asyncio
import hashlib
import html
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold
from uikit import HOSTILE, Page, addresses

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
from nirs_store.errors import InvalidInput
from nirs_store.ui import app, server
from nirs_store.ui.app import make_app
from nirs_store.ui.guard import Guard, cookie_name, is_local

TOKEN = "a token of some length"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.5", "", "localhost@evil.example"]
)
def test_another_host_name_is_refused(page: Page, host: str) -> None:
    answer = page.get("/", headers={"Host": host})
    assert answer.status_code == 421
    assert "corn" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9", "[::1]:8423"])
def test_names_of_this_machine_are_answered(page: Page, host: str) -> None:
    assert page.get("/", headers={"Host": host}).status_code == 200


def test_a_page_for_others_takes_their_numbers_and_no_foreign_name(recorded: Path, open_page: Any) -> None:
    page = open_page(recorded, guard=Guard("0.0.0.0", TOKEN))
    ask = {"Authorization": f"Bearer {TOKEN}"}
    assert page.get("/", headers={"Host": "192.168.1.7:8423", **ask}).status_code == 200
    assert page.get("/", headers={"Host": "evil.example", **ask}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_what_another_page_sends_is_refused(page: Page, chain_id: str, headers: dict[str, str]) -> None:
    assert page.get("/", headers=headers).status_code == 403
    assert page.post(f"/chains/{chain_id}/export", {"kind": "script"}, headers=headers).status_code == 403


def test_a_link_from_elsewhere_may_be_followed(page: Page) -> None:
    assert (
        page.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}).status_code
        == 200
    )


@pytest.mark.parametrize("brought", ["", "x", "a token of some lengt", TOKEN + "x", "é"])
def test_without_the_token_nothing_is_told(recorded: Path, open_page: Any, brought: str) -> None:
    page = open_page(recorded, guard=Guard(token=TOKEN))
    for path in ("/", "/chains?format=json", "/static/page.css"):
        page.client.cookies.set(cookie_name("127.0.0.1:8423"), "x")
        answer = page.get(path, params={"token": brought} if brought else {})
        assert answer.status_code == 401
        assert "corn" not in answer.text


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_get(
    recorded: Path, open_page: Any
) -> None:
    page = open_page(recorded, guard=Guard(token=TOKEN))
    answer = page.get("/chains", params={"token": TOKEN, "q": "pls"}, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/chains?q=pls"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie
    assert page.get("/chains").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["//evil.example/", "///evil.example", "/\\evil.example", "//evil.example/%2f..", "/%5cevil.example/a"],
)
def test_the_token_leads_to_no_other_server(recorded: Path, open_page: Any, path: str) -> None:
    page = open_page(recorded, guard=Guard(token=TOKEN))
    url = f"http://127.0.0.1:8423{path}?token={TOKEN}&q=1"
    target = page.client.get(url, follow_redirects=False).headers["location"]
    assert re.match(r"/[^/\\]", target)
    assert target.endswith("?q=1")
    assert urljoin("http://127.0.0.1:8423/", target).startswith("http://127.0.0.1:8423/")


def test_pages_at_two_ports_keep_their_cookies_apart(recorded: Path, open_page: Any) -> None:
    page = open_page(recorded, guard=Guard(token=TOKEN))
    names = set()
    for host in ("127.0.0.1:8423", "127.0.0.1:8424", "localhost"):
        answer = page.get("/", params={"token": TOKEN}, headers={"Host": host}, follow_redirects=False)
        names.add(answer.headers["set-cookie"].partition("=")[0])
    assert len(names) == 3


def test_a_change_is_refused_before_what_was_sent_is_read(page: Page) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("starlette.requests.Request.form", None)
        answer = page.post("/gc", files={"file": ("a.bin", b"0" * 100_000)})
    assert (answer.status_code, "--allow-changes" in answer.text) == (403, True)


def test_a_file_without_the_token_of_the_page_is_not_kept(
    page: Page, chain_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_kept", None)
    path, files = f"/chains/{chain_id}/predict", {"spectra": ("a.csv", b"0" * 100_000)}
    assert page.post(path, {"form_token": "wrong"}, files=files).status_code == 403


@pytest.mark.parametrize("token", [None, "", "wrong"])
def test_a_form_without_the_token_of_the_page_does_nothing(
    page: Page, chain_id: str, token: str | None
) -> None:
    data = {"kind": "script"} | ({} if token is None else {"form_token": token})
    answer = page.client.post(f"/chains/{chain_id}/export", data=data)
    assert answer.status_code == 403
    assert "nothing was done" in answer.text


@pytest.mark.parametrize("path", ["/", "/chains", "/static/page.css", "/nothing/here", "/chains/unknown"])
def test_every_answer_forbids_scripts_and_requests_to_elsewhere(page: Page, path: str) -> None:
    policy = dict(
        part.strip().split(" ", 1) for part in page.get(path).headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert page.get(path).headers["x-content-type-options"] == "nosniff"


def test_the_documents_hold_no_script_and_no_style_of_their_own(page: Page, chain_id: str) -> None:
    for path in ("/", "/chains", f"/chains/{chain_id}"):
        text = page.html(path)
        assert text.count("<script") == 1
        for forbidden in (" style=", "<style", "http://", "https://"):
            assert forbidden not in text


def test_a_body_that_is_too_large_is_refused(
    page: Page, chain_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MOST_UPLOADED", 10_000)
    answer = page.post(f"/chains/{chain_id}/predict", files={"spectra": ("big.csv", b"1,2\n" * 10_000)})
    assert answer.status_code == 413


def test_whoever_leaves_while_sending_a_file_causes_no_error(page: Page, chain_id: str) -> None:
    parts = iter(
        [{"type": "http.request", "body": b"--b\r\n", "more_body": True}, {"type": "http.disconnect"}]
    )
    scope = {
        "type": "http", "method": "POST", "path": f"/chains/{chain_id}/predict", "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"multipart/form-data; boundary=b")],
    }  # fmt: skip

    async def receive() -> Any:
        return next(parts)

    async def send(_: Any) -> None:
        pass

    asyncio.run(make_app(page.desk, page.guard)(scope, receive, send))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(page: Page, method: str) -> None:
    assert page.client.request(method, "/chains").status_code == 405


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("example.org", False),
    ],
)
def test_a_token_is_made_where_others_can_reach_the_page(host: str, local: bool) -> None:
    assert is_local(host) is local
    assert (server._token(host, None) == "") is local
    with pytest.raises(InvalidInput, match="at least"):
        server._token(host, "short")


# -- A page that only shows.


def snapshot(folder: Path) -> dict[str, str]:
    """Return every file with a hash of its bytes; who holds the lock is no content."""
    passing = ("holder", "lock")
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in passing
    }


def walk(page: Page) -> dict[str, Any]:
    """Follow the links of the page, one of each kind, and return the answer of each address."""
    seen: dict[str, Any] = {}
    waiting, kinds = ["/"], set[str]()
    while waiting:
        address = waiting.pop(0)
        path, _, query = address.partition("?")
        names = "&".join(sorted({part.partition("=")[0] for part in query.split("&")}))
        kind = f"{re.sub(r'[0-9a-f-]{36}', 'ID', path)}?{names}"
        if kind in kinds:
            continue
        kinds.add(kind)
        answer = seen[address] = page.get(address)
        # Orders and filters of a list lead to each other without end.
        if not query and answer.headers.get("content-type", "").startswith("text/html"):
            waiting += sorted(addresses(answer.text))
    return seen


def posts() -> list[str]:
    return [screen.path for screen in app.all_screens() if screen.method == "POST"]


@pytest.mark.parametrize("given", [False, True])
def test_no_request_changes_a_byte_where_the_page_only_shows(
    serving: Path, tmp_path: Path, open_page: Callable[..., Page], spectra: Path, given: bool
) -> None:
    folder = tmp_path / "workspace"
    shutil.copytree(serving, folder)
    with WorkspaceStore(folder) as store:
        run_id, chain_id = store.list_runs()["run_id"][0], store.list_chains(limit=1)["chain_id"][0]
    # A store that may write, open in the same process, is what `store.ui()` gives.
    store = WorkspaceStore(folder) if given else None
    if store is not None:
        store.list_runs()
    before = snapshot(folder)
    page = open_page(folder, store=store)
    seen = walk(page)
    assert any(path.startswith("/calibrations/") for path in seen)
    for path in posts():
        for kind, identifier in (("chain", chain_id), ("run", run_id)):
            target = path.format(chain_id=chain_id, run_id=run_id, key="x", calibration="_", reference="_")
            what = "n4a" if path.endswith("/export") else kind
            data = {"kind": what, "id": identifier, "tags": "new", "note": "new", "confirm": "1", "sure": "1"}
            data |= {"name": "protein", "alias": "production", "version": "1", "sample": "s", "value": "1"}
            page.post(target, data, files={"spectra": ("new.csv", spectra.read_bytes())})
    page.desk.close()
    assert snapshot(folder) == before
    if store is not None:
        assert store.list_runs().height
        store.close()


def test_what_the_given_store_has_just_recorded_is_shown(
    recorded: Path, tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    shutil.copytree(recorded, tmp_path / "workspace")
    with WorkspaceStore(tmp_path / "workspace") as store:
        page = open_page(tmp_path / "workspace", store=store)
        page.html("/")
        with store.run("just now", datasets=["corn"]):
            pass
        rows = {row["name"]: row["status"] for row in page.json("/runs")["rows"]}
        assert rows["just now"] == "completed"
        with store.run("and now", datasets=["corn"]):
            pass
        found = page.json("/sql?query=SELECT status FROM runs WHERE name = 'and now'")
        assert found["rows"] == [{"status": "completed"}]
    assert page.get("/runs").status_code == 200


def test_a_folder_that_may_not_be_written_is_shown(
    recorded: Path, tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    folder = tmp_path / "workspace"
    shutil.copytree(recorded, folder)
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        page = open_page(folder)
        assert "corn" in page.html("/")
        page.desk.close()
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o700)


def test_every_link_of_a_recorded_workspace_leads_somewhere(page: Page) -> None:
    seen = walk(page)
    assert len(seen) > 20
    assert {path: each.status_code for path, each in seen.items() if each.status_code != 200} == {}


def test_names_that_are_markup_stay_text_on_every_screen(
    hostile: Path, open_page: Callable[..., Page]
) -> None:
    page = open_page(hostile)
    seen = walk(page)
    assert {path: each.status_code for path, each in seen.items() if each.status_code != 200} == {}
    for answer in seen.values():
        if not answer.headers["content-type"].startswith("text/html"):
            continue
        assert "<script>alert" not in answer.text
        assert "<img" not in answer.text
        shown = html.unescape(re.sub(r"(?s)<pre>.*?</pre>|<[^>]*>", " ", answer.text))
        assert "<script>" in shown or "n" * 20 not in shown
        assert not {"\x1b", "\u202e"} & set(shown)
        # The whole name is never shown, whatever its length; what was recorded as a document is.
        assert "n" * 2100 not in shown
    assert HOSTILE[:20] in page.json("/chains")["rows"][0]["dataset_name"]


@pytest.mark.skipif(os.name == "nt", reason="the folder of the test is made for POSIX")
def test_a_pickle_is_not_opened_to_show_a_page(
    page: Page, chain_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a stored object was opened")

    page.desk.store()
    monkeypatch.setattr("nirs_store.blobs.serializers.loads", refuse, raising=False)
    monkeypatch.setattr("pickle.load", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    monkeypatch.setattr("joblib.load", refuse)
    monkeypatch.setattr(type(page.desk.store()), "load_artifact", refuse)
    assert {each.status_code for each in walk(page).values()} == {200}


@pytest.mark.parametrize("action", ["predict", "inside", "export:safe", "export:n4a", "export:script"])
def test_pickles_are_opened_only_after_somebody_has_said_so(
    page: Page, chain_id: str, spectra: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    asked = page.html(f"/chains/{chain_id}")
    assert asked.count('name="trust" value="1" required') == 3
    opened = []
    monkeypatch.setattr("nirs_store.records.artifacts.load_held", lambda *_: opened.append(1))
    name, _, kind = action.partition(":")
    files = {"spectra": ("new.csv", spectra.read_bytes())} if name == "predict" else None
    for trust in ("", "0", "yes"):
        answer = page.post(f"/chains/{chain_id}/{name}", {"kind": kind, "trust": trust}, files=files)
        assert (answer.status_code, "runs code" in answer.text) == (400, True)
    assert not opened


def test_without_pickles_nobody_is_asked(
    tmp_path: Path, open_page: Callable[..., Page], spectra: Path
) -> None:
    with WorkspaceStore(tmp_path / "workspace") as store:
        made = load_tecator()
        chain_id = record_cross_validation(
            store,
            PLSRegression(2),
            made.X[::4, ::5],
            made.fat[::4],
            wavelengths=made.wavelengths[::5],
            cv=KFold(3),
            dataset_name="corn",
            artifact_format="skops",
        ).chain_id
    page = open_page(tmp_path / "workspace")
    assert 'name="trust"' not in page.html(f"/chains/{chain_id}")
    files = {"spectra": ("new.csv", spectra.read_bytes())}
    assert page.post(f"/chains/{chain_id}/predict", {"trust": ""}, files=files).status_code == 200


def test_a_port_that_is_taken_is_passed_over_or_named() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        with pytest.raises(InvalidInput, match="--port"):
            server.listen("127.0.0.1", port)
    with server.listen("127.0.0.1", None) as first, server.listen("127.0.0.1", None) as second:
        assert first.getsockname()[1] != second.getsockname()[1]
