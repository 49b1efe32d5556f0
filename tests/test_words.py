"""Pages, code, help texts and messages use the field's words, in plain American English."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from clikit import program

import nirs_store

CHECKOUT = Path(nirs_store.__file__).parents[1]
PAGES = [
    page.relative_to(CHECKOUT).as_posix()
    for pattern in (
        "README.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs/**/*.md",
        "docs/**/*.ipynb",
    )
    for page in sorted(CHECKOUT.glob(pattern))
    if page.name != "changelog.md"
]
MODULES = [path.relative_to(CHECKOUT).as_posix() for path in sorted((CHECKOUT / "nirs_store").rglob("*.py"))]

# Whole words in any case, and what to write instead.
INSTEAD = {
    r"anew": "again",
    r"(let|lets|letting) go": "release, delete",
    r"stands(?! for)": "is, is listed",
    r"beside": "next to, while",
    r"nobody|somebody": "no process, another process, a person",
    r"whoever|whomever": "the agent by name",
    r"all the same": "still",
    r"from the side": "the source by name",
    r"(is|are|be) had": "has",
    r"(?<!there )(is|are) no(?! (longer|more|less|fewer))(?= \w)": "is not a",
    r"(an?|one) (array|bar|byte|column|commit|dict|entry|estimator|evaluation|file|finding|kind|label|line|list|name"
    r"|page|result|row|score|table|value) an? \w+": "one ... per ...",
    r"say where it belongs": "must be added to",
    r"leases?": "lock",
    r"doomed|untidied": "pending delete, uncompacted",
    r"(set|sets|put|keep|kept|left|stay|stays|stepped) (\w+ )?aside": "rejected, pending delete, reserved",
    r"keepers?|upkeep": "background flusher, maintenance",
    r"(keep|keeps|kept) back": "reserve",
    r"mend|mends|mended|mending": "repair",
    r"takeovers?|claims in hand": "reference transfer, reservations",
    r"behaviours?|colours?|licence|misspelt|neighbours?|centred|favours?": "American spelling",
    r"(recogni|normali|seriali|summari|organi|studenti)s(e|es|ed|ing|ation)": "American spelling",
}
BANNED = {re.compile(rf"\b(?:{words})\b", re.IGNORECASE): instead for words, instead in INSTEAD.items()}
# A sentence that begins like this hides its subject; a question may.
BANNED[re.compile(r"(?:^|[.!:] +|\| )What (?:is|are|was|were)\b[^.?!|]*(?![^.?!|]*\?)", re.MULTILINE)] = (
    "the subject"
)
# Names that programs use: an option, a column of a table.
NAMES = re.compile(
    r"--colour-by|studentised(_residuals)?(?=[,`])|\bcolour_by\b|record\(beside=|`beside`|['\"]centred['\"]"
)


def found_in(text: str) -> list[str]:
    """List the banned words of a text with what to write instead."""
    text = NAMES.sub("", text)
    return [
        f"{hit[0].strip()!r}: {instead}" for words, instead in BANNED.items() for hit in words.finditer(text)
    ]


def prose(page: str) -> str:
    """Return a page without code, but with the comments of its code; headings and link targets are names."""
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    if page.endswith(".ipynb"):
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")

    def comments(fence: re.Match[str]) -> str:
        return "\n".join(re.findall(r"(?:^|\s)# (.*)$", fence[0], re.MULTILINE))

    text = re.sub(r"^```.*?^```$", comments, text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`\n]*`|\]\([^)]*\)|^#.*$|\[What is[^\]]*\]", "", text, flags=re.MULTILINE)
    return re.sub(r"(?<=\S)\n(?=\w)", " ", text)


def help_texts(command: click.Command, path: str = "nirs-store") -> Iterator[tuple[str, str]]:
    """Yield each help text of a command and of those below it, with its place."""
    yield path, " ".join(filter(None, [command.help, command.short_help, command.epilog]))
    for parameter in command.params:
        metavar = parameter.metavar or ""
        yield f"{path} {parameter.name}", f"{metavar} {getattr(parameter, 'help', None) or ''}"
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from help_texts(child, f"{path} {name}")


def texts(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the texts below a node, docstrings apart, with their lines; an f-string is one text."""
    if isinstance(node, ast.JoinedStr):
        parts = [str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values]
        yield node.lineno, "".join(parts)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, node.value
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
            yield from texts(child)


def docstrings_and_comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of a module and its comments, which join where they follow each other, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, node.value.value
    comments, last = "", 0
    for number, line in enumerate(source.splitlines(), 1):
        if found := re.search(r"(?:^|  )\s*#:? (.*)$", line):
            if comments and number != last + 1:
                yield last, comments
                comments = ""
            comments, last = f"{comments} {found[1]}".strip(), number
    yield last, comments


@pytest.mark.parametrize("page", PAGES)
def test_a_page_uses_plain_words(page: str) -> None:
    assert found_in(prose(page)) == []


def test_help_texts_use_plain_words() -> None:
    wrong = {place: words for place, text in help_texts(program) if (words := found_in(text))}
    assert wrong == {}


def test_messages_use_plain_words() -> None:
    wrong = {
        f"{module}:{line}": words
        for module in MODULES
        for line, text in texts(ast.parse((CHECKOUT / module).read_text(encoding="utf-8")))
        if " " in text
        and not re.match(r"\s*(SELECT|WITH|CREATE TABLE)\b", text)
        and (words := found_in(text))
    }
    assert wrong == {}


def test_docstrings_and_comments_use_plain_words() -> None:
    wrong = {
        f"{module}:{line}": words
        for module in MODULES
        for line, text in docstrings_and_comments((CHECKOUT / module).read_text(encoding="utf-8"))
        if (words := found_in(text))
    }
    assert wrong == {}


def test_docstrings_and_comments_are_read_with_their_lines() -> None:
    source = '"""Module."""\nx = 1  # a value\n\n# It is\n# anew.\ndef f():\n    """Function."""\n'
    assert sorted(docstrings_and_comments(source)) == [
        (1, "Module."), (2, "a value"), (5, "It is anew."), (7, "Function."),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "Whoever opens it waits.",
        "It is no bundle.",
        "A row a pipeline.",
        "It was written. What is deleted is gone.",
        "The lease is held.",
        "The colour of a line.",
    ],
)
def test_a_banned_word_would_be_found(text: str) -> None:
    assert found_in(text)


@pytest.mark.parametrize(
    "text", ["There is no server.", "What is a chain?", "It is no longer there.", "Besides, it stands for X."]
)
def test_plain_words_are_not_banned(text: str) -> None:
    assert not found_in(text)
