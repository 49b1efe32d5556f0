"""The documentation does what it says: its examples run, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nirs_store
from nirs_store.scaffold import workspace_template

CHECKOUT = Path(nirs_store.__file__).parents[1]
PAGES = [
    page.relative_to(CHECKOUT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "workspace_template/*.md", "nirs_store/data/*.md")
    for page in sorted(CHECKOUT.glob(pattern))
]
_FENCE = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")

pytestmark = pytest.mark.skipif(not PAGES, reason="the documentation is in the checkout")


def blocks(page: str, language: str) -> list[tuple[int, str]]:
    """Give each fenced block of a language with the number of its first line."""
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, match.start()) + 1, match["code"])
        for match in _FENCE.finditer(text)
        if match["language"] == language
    ]


def anchors(page: Path) -> set[str]:
    """Give the names under which the headings of a page can be linked to."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_examples_of_a_page_run_from_top_to_bottom(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if page.startswith("workspace_template/"):
        from nirs_store.scaffold import copy_workspace_template

        copy_workspace_template(tmp_path)
    namespace: dict[str, object] = {"__name__": "example"}
    for line, code in blocks(page, "python"):
        # Blank lines in front make a traceback show the line of the page.
        exec(compile("\n" * line + code, str(CHECKOUT / page), "exec"), namespace)


def test_the_quick_start_of_the_readme_is_fifteen_lines() -> None:
    _, code = blocks("README.md", "python")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


def test_the_readme_has_the_two_commands() -> None:
    commands = [code.strip() for _, code in blocks("README.md", "sh")]
    assert commands == [
        'python -m pip install ".[demo]" && nirs-store demo',
        'python -m pip install ".[test]" && python -m pytest',
    ]


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_to_files_and_headings_that_exist(page: str) -> None:
    text = _FENCE.sub("", (CHECKOUT / page).read_text(encoding="utf-8"))
    for target in (match["target"] for match in _LINK.finditer(text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (CHECKOUT / page).parent / name if name else CHECKOUT / page
        assert linked.exists(), f"{page} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(linked), f"{page} links to {target}, but has no such heading"


def test_the_note_of_a_new_workspace_names_every_template() -> None:
    note = (workspace_template() / "README.md").read_text(encoding="utf-8")
    for category in (workspace_template() / "library" / "templates").iterdir():
        for template in category.iterdir():
            assert f"`{category.name}/{template.name.removesuffix('.json')}`" in note
