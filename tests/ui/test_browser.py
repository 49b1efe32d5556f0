"""The page in a real browser: no errors, nothing cut off, and what the script adds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from uikit import addresses

from nirs_store import WorkspaceStore
from nirs_store.ui import server
from nirs_store.ui.app import all_screens
from nirs_store.ui.export import export_pages

sync_api = pytest.importorskip("playwright.sync_api", reason="needs: python -m pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, e.g. apt-get install chromium")
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


class Tab:
    """A tab that remembers errors and requests to other hosts."""

    def __init__(self, browser: Any, url: str, width: int = 1280) -> None:
        self.url, self.width, self.wrong = url.rstrip("/"), width, []
        self.context = browser.new_context(viewport={"width": width, "height": 800})
        self.page = self.context.new_page()
        self.page.on(
            "console", lambda said: said.type in ("error", "warning") and self.wrong.append(said.text)
        )
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda asked: asked.url.startswith(self.url) or self.wrong.append(asked.url))

    def open(self, path: str) -> str:
        self.page.goto(self.url + path)
        return str(self.page.content())

    def check(self, where: str) -> None:
        assert self.wrong == [], where
        assert self.page.evaluate("document.documentElement.scrollWidth") <= self.width, where
        cut = self.page.evaluate(
            """() => [...document.querySelectorAll("h1, h2, p, dd, .card, button, label, figcaption")]
               .filter(each => each.offsetParent && each.scrollWidth > each.clientWidth + 1 && each.clientWidth)
               .map(each => each.textContent.slice(0, 60))"""
        )
        assert cut == [], where


@pytest.fixture
def opened(recorded: Path, browser: Any, tmp_path: Path) -> Iterator[Tab]:
    shutil.copytree(recorded, tmp_path / "workspace")
    with WorkspaceStore(tmp_path / "workspace") as store, server.start(store) as page:
        tab = Tab(browser, page.url)
        tab.store = store  # type: ignore[attr-defined]
        yield tab
        tab.context.close()


def walk(tab: Tab) -> None:
    paths = [screen.path for screen in all_screens() if screen.label]
    for path in ("/chains", "/runs"):
        found = sorted(a for a in addresses(tab.open(path)) if a.startswith(f"{path}/") and "?" not in a)
        paths += found[:1]
    for path in paths:
        tab.open(path)
        tab.check(f"{path} at {tab.width}")


@pytest.mark.parametrize("width", WIDTHS)
def test_no_screen_has_errors_or_is_cut_off(browser: Any, recorded: Path, width: int) -> None:
    with WorkspaceStore.to_look_at(recorded) as store, server.start(store) as page:
        tab = Tab(browser, page.url, width)
        walk(tab)
        tab.context.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_names_of_any_kind_break_no_screen(browser: Any, hostile: Path, width: int) -> None:
    with WorkspaceStore.to_look_at(hostile) as store, server.start(store) as page:
        tab = Tab(browser, page.url, width)
        tab.page.on("dialog", lambda _: tab.wrong.append("a script of a name ran"))
        walk(tab)
        tab.context.close()


def test_a_filter_acts_while_typing_and_the_address_follows(opened: Tab) -> None:
    opened.open("/chains")
    page = opened.page
    page.evaluate("window.same = true")
    page.fill("main input[name=q]", "lv=2")
    page.wait_for_url("**/chains?*q=lv%3D2*")
    sync_api.expect(page.locator("main tbody tr")).to_have_count(1)
    assert page.evaluate("window.same"), "the page was not loaded again"
    assert page.evaluate("document.activeElement.name") == "q"
    page.go_back()
    sync_api.expect(page.locator("main tbody tr")).to_have_count(3)
    opened.check("filter")


def test_ticked_chains_are_compared(opened: Tab) -> None:
    opened.open("/chains")
    for box in opened.page.locator("input[name=id]").all()[:2]:
        box.check()
    opened.page.click("text=Compare the ticked chains")
    sync_api.expect(opened.page.locator("h1")).to_have_text("Compare 2 chains")
    opened.check("compare")


def test_a_file_is_predicted_as_soon_as_it_is_chosen(opened: Tab, spectra: Path, chain_id: str) -> None:
    opened.open(f"/chains/{chain_id}")
    opened.page.set_input_files("input[type=file]", spectra)
    opened.page.wait_for_url("**/predicted/*")
    sync_api.expect(opened.page.locator("main tbody tr").first).to_contain_text("new0")
    opened.check("predicted")


def test_a_mark_says_what_it_is_and_is_marked_in_the_other_figures(opened: Tab, chain_id: str) -> None:
    opened.open(f"/chains/{chain_id}")
    opened.page.locator(".mark.cv[data-key=corn7]").first.hover(force=True)
    sync_api.expect(opened.page.locator("#tip")).to_contain_text("corn7")
    assert opened.page.locator(".mark.same").count() >= 2


def test_the_overview_follows_a_recording(opened: Tab) -> None:
    opened.open("/")
    store: WorkspaceStore = opened.store  # type: ignore[attr-defined]
    with store.run("being recorded", datasets=["corn"]) as run, run.pipeline("first", dataset_name="corn"):
        store.flush()
        sync_api.expect(opened.page.locator("#live")).to_contain_text("being recorded", timeout=20_000)
    sync_api.expect(opened.page.locator("#live")).not_to_contain_text("being recorded", timeout=20_000)
    opened.check("live")


def test_exported_pages_open_from_the_disk(browser: Any, recorded: Path, tmp_path: Path) -> None:
    with WorkspaceStore.to_look_at(recorded) as store:
        export_pages(store, tmp_path / "pages")
    tab = Tab(browser, (tmp_path / "pages").as_uri())
    for path in ("/index.html", "/chains.html", "/runs.html"):
        tab.open(path)
        tab.check(path)
    tab.context.close()
