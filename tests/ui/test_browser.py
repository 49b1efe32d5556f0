"""The page in a real browser: no errors, nothing cut off, and what the script adds."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from uikit import addresses

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
from nirs_store.ui import server
from nirs_store.ui.app import all_screens
from nirs_store.ui.export import export_pages, write_report

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


#: What a person who cannot see, or cannot point, needs of every screen; looked for where axe-core is not installed.
BARRIERS = """() => {
    const wrong = [], say = (what, each) => wrong.push(what + ": " + each.outerHTML.slice(0, 120));
    const named = each => each.getAttribute("aria-label") || each.title || each.labels?.length || each.textContent.trim();
    for (const each of document.querySelectorAll("input:not([type=hidden]), select, textarea, button, a[href], summary"))
        if (!named(each) && !each.querySelector("svg a, .mark") && !each.closest("svg")) say("no name", each);
    for (const each of document.querySelectorAll("svg.figure, img")) if (!each.getAttribute("aria-label") && !each.alt) say("no words", each);
    for (const each of document.querySelectorAll("[tabindex]")) if (each.tabIndex > 0) say("own order", each);
    const ids = [...document.querySelectorAll("[id]")].map(each => each.id);
    ids.filter((each, i) => ids.indexOf(each) !== i).forEach(each => wrong.push("id twice: " + each));
    if (document.querySelectorAll("h1").length !== 1) wrong.push("not one h1");
    if (!document.documentElement.lang || !document.title) wrong.push("no language or title");
    return wrong;
}"""
#: Words whose contrast with what lies under them is below 4.5, by the formula of WCAG 2.
FAINT = """() => {
    const pen = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const parts = color => { pen.clearRect(0, 0, 1, 1); pen.fillStyle = color; pen.fillRect(0, 0, 1, 1); return pen.getImageData(0, 0, 1, 1).data; };
    const light = c => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => { const v = c[i] / 255; return sum + w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); }, 0);
    const under = each => { for (let at = each; at; at = at.parentElement) { const c = parts(getComputedStyle(at).backgroundColor); if (c[3] === 255) return c; } return parts("Canvas"); };
    const found = new Set();
    for (const each of document.querySelectorAll("body *")) {
        const own = [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
        if (!own || ["SCRIPT", "OPTION", "TITLE", "title"].includes(each.tagName) || !each.getClientRects().length || each.closest(".unseen, .skip")) continue;
        const style = getComputedStyle(each);
        const a = light(parts(each.closest("svg") ? style.fill : style.color)), b = light(under(each));
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) found.add(`${ratio.toFixed(2)} ${each.tagName}.${each.getAttribute("class")} ${each.textContent.trim().slice(0, 30)}`);
    }
    return [...found];
}"""
CUT = """() => [...document.querySelectorAll("h1, h2, p, dd, .card, button, label, figcaption")]
    .filter(each => each.offsetParent && each.scrollWidth > each.clientWidth + 1 && each.clientWidth)
    .map(each => each.textContent.slice(0, 60))"""


class Tab:
    """A tab that remembers errors and requests to other hosts."""

    def __init__(self, browser: Any, url: str, width: int = 1280, scheme: str = "light") -> None:
        self.url, self.width, self.wrong = url.rstrip("/"), width, []
        self.context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.on(
            "console", lambda said: said.type in ("error", "warning") and self.wrong.append(said.text)
        )
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda _: self.wrong.append("a script of a name ran"))
        self.page.on("request", lambda asked: asked.url.startswith(self.url) or self.wrong.append(asked.url))

    def open(self, path: str) -> str:
        self.page.goto(self.url + path)
        return str(self.page.content())

    def check(self, where: str) -> None:
        assert self.wrong == [], where
        assert self.page.evaluate("document.documentElement.scrollWidth") <= self.width, where
        assert self.page.evaluate(CUT) == [], where
        assert self.page.evaluate(BARRIERS) == [], where


@pytest.fixture
def opened(recorded: Path, browser: Any, tmp_path: Path) -> Iterator[Tab]:
    shutil.copytree(recorded, tmp_path / "workspace")
    with WorkspaceStore(tmp_path / "workspace") as store, server.start(store) as page:
        tab = Tab(browser, page.url)
        tab.store = store  # type: ignore[attr-defined]
        yield tab
        tab.context.close()


def walk(tab: Tab, most: int = 1) -> Iterator[str]:
    """Open the screens that the navigation and links lead to, so many of each kind, and check each."""
    shown = {screen.path for screen in all_screens() if screen.method == "GET"}
    # Parts of the overview, which take the place of the links to them.
    waiting, seen, kinds = ["/", "/alarms", "/findings", "/now"], set[str](), dict[str, int]()
    while waiting:
        path = waiting.pop(0)
        plain = path.partition("?")[0]
        kind = next((each for each in shown if re.fullmatch(re.sub(r"{\w+}", "[^/]+", each), plain)), "")
        if path in seen or not kind or "format=" in path or kinds.get(kind, 0) >= most:
            continue
        kinds[kind] = kinds.get(kind, 0) + 1
        seen.add(path)
        waiting += sorted(addresses(tab.open(path)), key=lambda each: ("?" in each, each))
        tab.check(f"{path} at {tab.width}")
        yield path


@pytest.mark.parametrize("width", WIDTHS)
def test_no_screen_has_errors_or_is_cut_off(browser: Any, serving: Path, width: int) -> None:
    with WorkspaceStore.to_look_at(serving) as store, server.start(store) as page:
        tab = Tab(browser, page.url, width)
        seen = [path.split("/")[1].partition("?")[0] for path in walk(tab)]
        tab.context.close()
    assert {"", "chains", "runs", "calibrations", "datasets", "alarms", "sql", "health", "lineage"} <= set(
        seen
    )


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["hostile", "empty"])
def test_names_of_any_kind_and_none_at_all_break_no_screen(
    browser: Any, kind: str, width: int, request: pytest.FixtureRequest
) -> None:
    with WorkspaceStore.to_look_at(request.getfixturevalue(kind)) as store, server.start(store) as page:
        tab = Tab(browser, page.url, width)
        assert len(list(walk(tab, most=3))) >= 18
        tab.context.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_screen_can_be_read_by_everybody(
    browser: Any, serving: Path, tmp_path: Path, scheme: str
) -> None:
    """Contrast in both color schemes, with the forms of ``--allow-changes``; and axe-core where it is installed."""
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        Axe = None
    shutil.copytree(serving, tmp_path / "workspace")
    found: dict[str, Any] = {}
    with WorkspaceStore(tmp_path / "workspace") as store, server.start(store, may_change=True) as page:
        tab = Tab(browser, page.url, scheme=scheme)
        for path in walk(tab):
            if faint := tab.page.evaluate(FAINT):
                found[path] = faint
            if Axe is not None and (broken := Axe().run(tab.page).response["violations"]):
                found[f"{path}, axe"] = [(each["id"], each["nodes"][0]["html"][:200]) for each in broken]
        tab.context.close()
    assert found == {}


def test_the_keyboard_reaches_everything_and_is_seen(browser: Any, serving: Path) -> None:
    with WorkspaceStore.to_look_at(serving) as store, server.start(store) as page:
        tab = Tab(browser, page.url)
        for path in ("/chains", "/calibrations/protein"):
            tab.open(path)
            tab.page.keyboard.press("Tab")
            sync_api.expect(tab.page.locator(":focus")).to_have_text("Skip to the content")
            tab.page.keyboard.press("Enter")
            assert tab.page.evaluate("location.hash") == "#main"
            tab.open(path)
            wanted = tab.page.evaluate(
                """() => [...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, summary, [tabindex='0']")]
                   .filter(each => each.checkVisibility() && (!each.closest("details:not([open])") || each.tagName === "SUMMARY")).length"""
            )
            reached = 0
            for _ in range(3 * wanted):
                tab.page.keyboard.press("Tab")
                state = tab.page.evaluate(
                    """() => { const each = document.activeElement, again = each === window.last;
                       const seen = each === document.body || (each.dataset.was && !again);
                       window.last = each; each.dataset.was = "1";
                       return [seen, getComputedStyle(each).outlineStyle, each.outerHTML.slice(0, 99), again]; }"""
                )
                if state[0]:
                    break
                # A date has three fields, which are one element.
                reached += not state[3]
                assert state[1] != "none", state[2]
            assert reached >= wanted, path
        tab.context.close()


def test_paper_shows_figures_and_tables_and_nothing_to_click(
    browser: Any, serving: Path, tmp_path: Path
) -> None:
    with WorkspaceStore.to_look_at(serving) as store, server.start(store) as page:
        tab = Tab(browser, page.url, scheme="dark")
        tab.page.emulate_media(media="print")
        for path in ("/", "/calibrations/protein", "/datasets/protein"):
            tab.open(path)
            for gone in ("nav", "form", "button", ".pager", ".skip"):
                for each in tab.page.locator(gone).all():
                    assert not each.is_visible(), (path, gone)
            assert tab.page.locator("svg.figure").first.is_visible()
            assert (
                tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
            )
            assert tab.page.evaluate(FAINT) == [], path
        assert tab.page.pdf().startswith(b"%PDF")
        tab.context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_parts_of_a_report_follow_each_other(
    browser: Any, serving: Path, tmp_path: Path, width: int
) -> None:
    with WorkspaceStore.to_look_at(serving) as store:
        for kind, name in (
            ("run", str(store.list_runs()["run_id"][0])),
            ("calibration", "protein@production"),
        ):
            write_report(store, kind, name, tmp_path / f"{kind}.html")
    tab = Tab(browser, tmp_path.as_uri(), width)
    for kind in ("run", "calibration"):
        tab.open(f"/{kind}.html")
        places = [each.bounding_box() for each in tab.page.locator("article").all()]
        assert len(places) > 1
        for above, below in itertools.pairwise(places):
            assert above
            assert below
            assert above["y"] + above["height"] <= below["y"]
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.wrong == []
    tab.context.close()


def test_references_dropped_on_a_calibration_are_shown_and_added(
    browser: Any, serving: Path, tmp_path: Path
) -> None:
    shutil.copytree(serving, tmp_path / "workspace")
    (tmp_path / "lab.csv").write_text("sample_id,value\nprotein measured 95,12.5\n", encoding="utf-8")
    with WorkspaceStore(tmp_path / "workspace") as store, server.start(store, may_change=True) as page:
        tab = Tab(browser, page.url)
        tab.open("/calibrations/protein")
        tab.page.fill(".drop input[name=lab]", "north")
        tab.page.set_input_files("input[type=file]", tmp_path / "lab.csv")
        tab.page.click("text=Add 1 value")
        tab.page.wait_for_url("**/calibrations/protein")
        tab.check("references")
        tab.context.close()
        assert store.references.list("protein measured 95").select("value", "lab").rows() == [(12.5, "north")]


RECORDER = """
import sys
import numpy as np
from nirs_store import WorkspaceStore
with WorkspaceStore(sys.argv[1]) as store, store.run("by another process", datasets=["corn"]) as run:
    for number, _ in enumerate(sys.stdin):
        with run.pipeline(f"number {number}", dataset_name="corn"):
            store.flush()
"""


@pytest.mark.slow
def test_a_recording_of_another_process_is_followed_and_outlived(
    browser: Any, recorded: Path, tmp_path: Path
) -> None:
    shutil.copytree(recorded, tmp_path / "workspace")
    with WorkspaceStore.to_look_at(tmp_path / "workspace") as store, server.start(store) as page:
        tab = Tab(browser, page.url)
        tab.open("/")
        command = [sys.executable, "-c", RECORDER, str(tmp_path / "workspace")]
        writer = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0)
        assert writer.stdin is not None
        try:
            for done in (1, 2, 3):
                writer.stdin.write(b"\n")
                live = tab.page.locator("#live")
                sync_api.expect(live).to_contain_text(
                    f"by another process: {done} of {done} p", timeout=60_000
                )
        finally:
            writer.kill()
            writer.wait()
        tab.open("/runs")
        tab.check("/runs after the writer was killed")
        tab.page.click("text=by another process")
        sync_api.expect(tab.page.locator("h1")).to_have_text("by another process")
        tab.check("the run whose writer was killed")
        tab.open("/")
        tab.check("/ after the writer was killed")
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


def test_what_was_downloaded_can_be_downloaded_again(opened: Tab, chain_id: str) -> None:
    opened.open(f"/chains/{chain_id}")
    for _ in range(2):
        with opened.page.expect_download():
            opened.page.click("text=Predictions (Parquet)")
    sync_api.expect(opened.page.locator("button:disabled")).to_have_count(0)


@pytest.mark.parametrize(("path", "width", "seen"), [("/", 1280, "Flags"), ("/chains", 390, "RMSECV ▴")])
def test_what_a_list_is_read_for_is_in_sight(
    browser: Any, recorded: Path, tmp_path: Path, path: str, width: int, seen: str
) -> None:
    shutil.copytree(recorded, tmp_path / "workspace")
    with WorkspaceStore(tmp_path / "workspace") as store, server.start(store) as page:
        made = load_tecator()
        steps = make_pipeline(*(StandardScaler() for _ in range(4)), PLSRegression(2))
        record_cross_validation(store, steps, made.X[:30], made.fat[:30], cv=KFold(3), dataset_name="corn")
        tab = Tab(browser, page.url, width)
        tab.open(path)
        for heading in tab.page.locator("th", has_text=seen).all():
            box = heading.bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= width, tab.page.locator("main").inner_text()
        tab.context.close()


def test_a_file_is_predicted_as_soon_as_it_is_chosen(opened: Tab, spectra: Path, chain_id: str) -> None:
    opened.open(f"/chains/{chain_id}")
    opened.page.set_input_files("input[type=file]", spectra)
    # Not before somebody has said that the models may be opened.
    assert opened.page.url.endswith(chain_id)
    assert opened.page.evaluate("document.querySelector('.drop').matches(':invalid')")
    opened.page.check(".drop input[name=trust]")
    opened.page.click(".drop button.main")
    opened.page.wait_for_url("**/predicted/*")
    sync_api.expect(opened.page.locator("main tbody tr").first).to_contain_text("new0")
    opened.check("predicted")


def test_a_mark_says_what_it_is_and_is_marked_in_the_other_figures(opened: Tab, chain_id: str) -> None:
    opened.open(f"/chains/{chain_id}")
    # The review comes later and moves the figures away from under the pointer.
    sync_api.expect(opened.page.locator("#review[data-later]")).to_have_count(0, timeout=20_000)
    opened.page.locator(".mark.cv[data-key=corn7]").first.hover(force=True)
    sync_api.expect(opened.page.locator("#tip")).to_contain_text("corn7")
    assert opened.page.locator(".mark.same").count() >= 2


def test_the_overview_follows_a_recording(opened: Tab) -> None:
    opened.open("/")
    store: WorkspaceStore = opened.store  # type: ignore[attr-defined]
    with store.run("being recorded", datasets=["corn"]) as run, run.pipeline("first", dataset_name="corn"):
        store.flush()
        sync_api.expect(opened.page.locator("#live")).to_contain_text("being recorded", timeout=60_000)
    # On a busy machine the page asks less often.
    sync_api.expect(opened.page.locator("#live")).not_to_contain_text("being recorded", timeout=60_000)
    opened.check("live")


def test_exported_pages_open_from_the_disk(browser: Any, recorded: Path, tmp_path: Path) -> None:
    with WorkspaceStore.to_look_at(recorded) as store:
        export_pages(store, tmp_path / "pages")
    tab = Tab(browser, (tmp_path / "pages").as_uri())
    for path in ("/index.html", "/chains.html", "/runs.html", "/calibrations.html"):
        tab.open(path)
        tab.check(path)
    tab.context.close()
