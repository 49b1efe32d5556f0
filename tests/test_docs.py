"""The documentation does what it says: its examples run, its links lead somewhere."""

from __future__ import annotations

import ast
import contextlib
import doctest
import io
import re
import shlex
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from clikit import invoke, program

import nirs_store
from nirs_store import errors
from nirs_store.blobs import serializers
from nirs_store.scaffold import copy_workspace_template, workspace_template

CHECKOUT = Path(nirs_store.__file__).parents[1]
PAGES = [
    page.relative_to(CHECKOUT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "workspace_template/*.md", "nirs_store/data/*.md")
    for page in sorted(CHECKOUT.glob(pattern))
]
_FENCE = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_OUTPUT = doctest.OutputChecker()
# Pages whose shell examples are about the workspace that their programs make.
_SHELL_TOO = ("docs/guide/agent-evaluation.md",)

pytestmark = pytest.mark.skipif(not PAGES, reason="the documentation is in the checkout")


class Block(NamedTuple):
    """A fenced block, the number of its first line, and, under a program, the text it should print."""

    line: int
    code: str
    output: str | None


def text_of(page: str) -> str:
    return (CHECKOUT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[Block]:
    """Give each fenced block of a language; a ``text`` block right below it is what it prints."""
    text = text_of(page)
    fences = list(_FENCE.finditer(text))
    found = []
    for fence, following in zip_longest(fences, fences[1:]):
        if fence["language"] == language:
            near = following and not text[fence.end() : following.start()].strip()
            output = following["code"] if near and following["language"] == "text" else None
            found.append(Block(text.count("\n", 0, fence.start()) + 1, fence["code"], output))
    return found


def with_blocks(language: str) -> list[str]:
    return [page for page in PAGES if blocks(page, language)]


def anchors(page: Path) -> set[str]:
    """Give the names under which the headings of a page can be linked to."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", with_blocks("python"))
def test_the_examples_of_a_page_run_from_top_to_bottom_and_print_what_it_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # A format that a page registers is not to be found by other tests of this process.
    monkeypatch.setattr(serializers, "_registry", dict(serializers._registry))
    if page.startswith("workspace_template/"):
        copy_workspace_template(tmp_path)
    namespace: dict[str, object] = {"__name__": "example"}
    for line, code, output in blocks(page, "python"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # Blank lines in front make a traceback show the line of the page.
            exec(compile("\n" * line + code, str(CHECKOUT / page), "exec"), namespace)
        if output is not None:
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert _OUTPUT.check_output(output, printed.getvalue(), flags), (
                f"{page}, line {line}: says that it prints\n{output}\nbut it prints\n{printed.getvalue()}"
            )
    if page in _SHELL_TOO:
        monkeypatch.setenv("NIRS_STORE_WORKSPACE", "workspace")
        for line, code, _ in blocks(page, "sh"):
            for arguments in calls(code):
                told = invoke(*arguments)
                assert told.exit_code == 0, f"{page}, line {line}: {' '.join(arguments)}: {told.output}"


def calls(code: str) -> Iterator[list[str]]:
    """Give the arguments of each call of nirs-store in a shell example."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        part: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set("();<>|&"):
                while part and "=" in part[0]:  # NO_COLOR=1 nirs-store ...
                    part.pop(0)
                if part[:1] == ["nirs-store"]:
                    yield part[1:]
                elif part[1:3] == ["-m", "nirs_store"]:
                    yield part[3:]
                part = []
            else:
                part.append(word)


def parse(arguments: list[str]) -> None:
    """Let the command line read its arguments as far as before it would do something."""
    command: click.Command | None = program
    context, name = None, "nirs-store"
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        context = click.Context(command, info_name=name, parent=context)
        found, command, arguments = command.resolve_command(context, list(arguments))
        name = found or name
    assert command is not None
    with contextlib.suppress(click.exceptions.Exit):  # --help and --version end here
        command.make_context(name, list(arguments), parent=context)


@pytest.mark.parametrize("page", sorted({*with_blocks("sh"), *with_blocks("bash")}))
def test_the_command_line_accepts_the_shell_examples_of_a_page(
    page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for line, code, _ in blocks(page, "sh") + blocks(page, "bash"):
        for arguments in calls(code):
            try:
                parse(arguments)
            except click.UsageError as error:
                pytest.fail(f"{page}, line {line}: nirs-store {' '.join(arguments)}: {error.message}")


@pytest.mark.parametrize("wrong", ["nirs-store tpo", "nirs-store top --datset x", "true && nirs-store show"])
def test_a_shell_example_with_a_mistake_would_be_found(wrong: str) -> None:
    (arguments,) = calls(wrong)
    with pytest.raises(click.UsageError):
        parse(arguments)


def test_the_page_on_the_command_line_shows_every_command() -> None:
    page = "docs/guide/command-line.md"
    shown = {arguments[0] for _, code, _ in blocks(page, "sh") for arguments in calls(code) if arguments}
    assert set(program.list_commands(click.Context(program))) <= shown


def test_the_quick_start_of_the_readme_is_fifteen_lines() -> None:
    code = blocks("README.md", "python")[0].code
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


def test_the_readme_has_the_two_commands() -> None:
    commands = [block.code.strip() for block in blocks("README.md", "sh")]
    assert commands == [
        'python -m pip install ".[demo]" && nirs-store demo',
        'python -m pip install ".[test]" && python -m pytest',
    ]


def test_the_readme_shows_five_rows_of_the_benchmarks() -> None:
    begin, end = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
    rows = text_of("README.md").partition(begin)[2].partition(end)[0].strip().splitlines()
    assert len(rows) == 2 + 5
    # Every figure of the README is one of the published table.
    assert set(rows) <= set(text_of("benchmarks/results.md").splitlines())


def test_the_page_on_errors_says_of_each_what_it_is() -> None:
    row = re.compile(r"^\| `(\w+)` \| `(\w+)` \| (.*?) \|.* (\d+) \|$", re.MULTILINE)
    told = {
        name: (code, set(re.findall(r"`(\w+)`", parents)), int(exit_code))
        for name, code, parents, exit_code in row.findall(text_of("docs/reference/errors.md"))
    }
    kinds = {name: kind for name in errors.__all__ if hasattr(kind := getattr(errors, name), "code")}
    assert told == {
        name: (
            kind.code,
            {base.__name__ for base in kind.__bases__} - {"NirsStoreError", "Exception"},
            kind.exit_code,
        )
        for name, kind in kinds.items()
    }


def test_the_format_of_the_serializer_page_is_found_once_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "docs/extending/serializers.md"
    (declared,) = blocks(page, "toml")
    format_name, module = re.findall(r'^(\w+) = "(\w+):', declared.code, re.MULTILINE)[0]
    (tmp_path / f"{module}.py").write_text(blocks(page, "python")[0].code, encoding="utf-8")
    installed = tmp_path / "example-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: example\nVersion: 1.0\n", encoding="utf-8"
    )
    entry = re.sub(r'"', "", declared.code.partition("\n")[2])
    (installed / "entry_points.txt").write_text(
        f"[{serializers.ENTRY_POINT_GROUP}]\n{entry}", encoding="utf-8"
    )
    assert serializers.ENTRY_POINT_GROUP in declared.code.partition("\n")[0]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(serializers, "_registry", dict(serializers._registry))
    monkeypatch.delitem(sys.modules, module, raising=False)
    found = serializers.get_serializer(format_name)
    monkeypatch.delitem(sys.modules, module)
    assert found.name == format_name


def test_the_symptoms_of_the_troubleshooting_page_are_messages_of_the_library() -> None:
    quoted = re.findall(r"^\| `([^`|]+)` \|", text_of("docs/guide/troubleshooting.md"), re.MULTILINE)
    assert len(quoted) > 10
    texts = [
        node.value
        for path in Path(nirs_store.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert [symptom for symptom in quoted if not any(symptom in text for text in texts)] == []


# What people type into the search of the documentation.
_SEARCHED = (
    "outlier", "hotelling", "leverage", "loadings", "vip", "latent variables", "nested cross-validation",
    "gridsearchcv", "optuna", "kennard-stone", "opus", "jcamp", "spc", "undo", "troubleshooting",
)  # fmt: skip


@pytest.mark.parametrize("word", _SEARCHED)
def test_a_word_that_people_search_is_in_a_heading_of_the_guide(word: str) -> None:
    headings = [
        line
        for page in PAGES
        if page.startswith("docs/guide/")
        for line in _FENCE.sub("", text_of(page)).splitlines()
        if line.startswith("#")
    ]
    assert any(word in heading.lower() for heading in headings)


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_to_files_and_headings_that_exist(page: str) -> None:
    for target in (match["target"] for match in _LINK.finditer(_FENCE.sub("", text_of(page)))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (CHECKOUT / page).parent / name if name else CHECKOUT / page
        assert linked.exists(), f"{page} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(linked), f"{page} links to {target}, but has no such heading"


def test_the_list_of_tutorials_links_to_each_notebook() -> None:
    listing = CHECKOUT / "docs" / "tutorials" / "index.md"
    linked = {match["target"] for match in _LINK.finditer(listing.read_text(encoding="utf-8"))}
    assert {notebook.name for notebook in listing.parent.glob("*.ipynb")} <= linked


def test_the_note_of_a_new_workspace_names_every_template() -> None:
    note = (workspace_template() / "README.md").read_text(encoding="utf-8")
    for category in (workspace_template() / "library" / "templates").iterdir():
        for template in category.iterdir():
            assert f"`{category.name}/{template.name.removesuffix('.json')}`" in note
