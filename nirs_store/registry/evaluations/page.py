"""A page of sentences and tables, as Markdown and as HTML; every name in it is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.display import cell_text
from nirs_store.display import table as html_table
from nirs_store.registry.evaluations.recording import one_of

__all__ = ["Section", "Summary"]

_MARKS = re.compile(r"([\\`*_{}\[\]()#!|<>~])")
# What would begin a list.
_BULLET = re.compile(r"^([-+]|\d+(?=[.)]))(?=\W?(?:\s|$))")


@dataclass(frozen=True)
class Section:
    """A heading, sentences (each with the names in it kept apart), and a table."""

    title: str
    sentences: tuple[tuple[str, ...], ...] = ()
    head: tuple[str, ...] = ()
    lines: tuple[tuple[Any, ...], ...] = ()
    listed: bool = False


@dataclass(frozen=True, repr=False)
class Summary:
    """What an evaluation means, in a page.

    Attributes
    ----------
    suite, metric : str
    recommendations : tuple of str
        What to do, the most important first, as plain text.
    """

    suite: str
    metric: str
    recommendations: tuple[str, ...]
    sections: tuple[Section, ...]

    def to_markdown(self) -> str:
        """The page as Markdown; names cannot end a cell, start markup or become HTML."""
        parts = [f"# Evaluation of {_markdown(self.suite)}"]
        for section in self.sections:
            parts.append(f"## {section.title}")
            sentences = ["".join(_alternate(each, _markdown)) for each in section.sentences]
            if sentences:
                parts.append(
                    "\n".join(f"- {each}" for each in sentences) if section.listed else " ".join(sentences)
                )
            if section.head:
                top = [section.head, *[tuple(cell_text(c) for c in line) for line in section.lines]]
                cells = [f"| {' | '.join(_markdown(str(cell)) for cell in line)} |" for line in top]
                cells.insert(1, f"| {' | '.join('---' for _ in section.head)} |")
                parts.append("\n".join(cells))
        return "\n\n".join(parts) + "\n"

    def to_html(self, *, whole: bool = True) -> str:
        """The page as HTML, every text escaped; with `whole` a document of its own, else a piece."""
        parts = [f"<h1>Evaluation of {html.escape(self.suite)}</h1>"]
        for section in self.sections:
            parts.append(f"<h2>{html.escape(section.title)}</h2>")
            sentences = ["".join(_alternate(each, html.escape)) for each in section.sentences]
            if section.listed and sentences:
                parts.append("<ul>" + "".join(f"<li>{each}</li>" for each in sentences) + "</ul>")
            elif sentences:
                parts.append(f"<p>{' '.join(sentences)}</p>")
            if section.head:
                parts.append(html_table(section.head, section.lines))
        body = "\n".join(parts)
        if not whole:
            return body
        title = html.escape(f"Evaluation of {self.suite}")
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>\n'
            "<style>body{font-family:sans-serif;max-width:50em;margin:2em auto;padding:0 1em}"
            "td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ddd}</style></head>\n"
            f"<body>\n{body}\n</body>\n</html>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Write the page; ``.md`` or ``.html`` says the form.

        Raises
        ------
        InvalidInput
            Another ending.
        """
        target = Path(path)
        one_of("suffix", target.suffix.lower(), (".md", ".html"))
        ensure_dir(target.absolute().parent)
        text = self.to_markdown() if target.suffix.lower() == ".md" else self.to_html()
        write_file(target.absolute(), text.encode())
        return target

    def _repr_html_(self) -> str:
        return self.to_html(whole=False)

    def __str__(self) -> str:
        return self.to_markdown()

    def __repr__(self) -> str:
        return f"<Summary of {self.suite!r} by {self.metric!r}: {len(self.recommendations)} recommendations>"


def _markdown(text: str) -> str:
    marked = _MARKS.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")
    return _BULLET.sub(lambda m: f"\\{m[1]}" if m[1] in "-+" else m[1] + "\\", marked)


def _alternate(parts: Sequence[str], escape: Any) -> list[str]:
    """Every second part is a name or a value that somebody else chose."""
    return [escape(part) if index % 2 else part for index, part in enumerate(parts)]
