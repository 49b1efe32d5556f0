"""The dossier of a version as a value: its parts, a page of HTML, a PDF, or JSON."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from nirs_store.addresses import refuse_address, user_path
from nirs_store.blobs.durable import write_file
from nirs_store.display import cell_text, counted, escape
from nirs_store.errors import InvalidInput, WriteFailed, quoted

_BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "msedge",
    "microsoft-edge",
)
_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
_SECONDS = 120
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#1c1c1c;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #bbb}
table{border-collapse:collapse;margin:.6rem 0;width:100%}
th,td{text-align:left;vertical-align:top;padding:.2rem .6rem .2rem 0;border-bottom:1px solid #e3e3e3;
 overflow-wrap:anywhere}
caption{text-align:left;font-weight:600;padding:.4rem 0}
tbody th{font-weight:400;color:#555;width:17rem}
.missing{background:#fff3d6;color:#7a4b00;font-weight:600}.hint{font-weight:400;color:#7a5c20}
.note{color:#444}figure{margin:1rem 0;break-inside:avoid}img{max-width:100%}
@media print{body{margin:0;max-width:none;font-size:11px}h2{break-after:avoid}tr{break-inside:avoid}}
"""


class Item(NamedTuple):
    """A line: what is asked, what is known (None: missing), and how to supply it."""

    label: str
    value: Any
    hint: str = ""


class Table(NamedTuple):
    """A table with a heading."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Part:
    """One part of the page."""

    title: str
    items: tuple[Item, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    # Caption and SVG.
    figures: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Dossier:
    """What a validation asks for about one version.

    Attributes
    ----------
    calibration : str
        Such as ``fat@v3``.
    made_at : datetime
    parts : tuple of Part
        ``title``, ``items`` (``label``, ``value``, ``hint``), ``tables``, ``notes``, ``figures``.
    missing : tuple of str
        Unknown items, as ``part: item``.
    """

    calibration: str
    made_at: datetime
    parts: tuple[Part, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Return what is asked for and not known."""
        return tuple(
            f"{part.title}: {item.label}" for part in self.parts for item in part.items if item.value is None
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, without figures."""
        return {
            "calibration": self.calibration,
            "made_at": self.made_at.isoformat(),
            "missing": list(self.missing),
            "parts": [
                {
                    "title": part.title,
                    "items": [item._asdict() for item in part.items],
                    "tables": [
                        {"caption": t.caption, "head": list(t.head), "rows": [list(row) for row in t.rows]}
                        for t in part.tables
                    ],
                    "notes": list(part.notes),
                    "figures": [caption for caption, _ in part.figures],
                }
                for part in self.parts
            ],
        }

    def to_html(self) -> str:
        """Return one page of HTML that needs nothing else: no scripts, no links to other files."""
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        title = escape(f"Dossier of {self.calibration}")
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
            f"<body>{self._repr_html_()}</body></html>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Write ``.html``, ``.pdf`` (where Chromium, Chrome or Edge is installed) or ``.json``; return the path.

        Raises
        ------
        InvalidInput
            Another suffix, or no browser that prints.
        WriteFailed, ReadOnlyStore
        """
        if not isinstance(path, (str, os.PathLike)):
            raise InvalidInput(
                f"path: expected the name of a file, found {quoted(path)}. Nothing was written."
            )
        refuse_address(path, "path")
        target = user_path(path).absolute()
        suffix = target.suffix.lower()
        if suffix == ".pdf":
            data = _printed(self.to_html())
        elif suffix == ".json":
            data = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, default=str).encode()
        elif suffix in (".html", ".htm"):
            data = self.to_html().encode()
        else:
            raise InvalidInput(
                f"path: a dossier is written as .html, .pdf or .json; found {quoted(target.name)}. Nothing was written."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, data)
        return target

    def __repr__(self) -> str:
        missing = f"{counted(len(self.missing), 'item')} missing"
        return f"<Dossier of {self.calibration}: {counted(len(self.parts), 'part')}, {missing}>"

    def _repr_html_(self) -> str:
        missing = self.missing
        listed = "<p>Nothing that this page asks for is missing.</p>"
        if missing:
            told = f"{counted(len(missing), 'item')} missing: {escape('; '.join(missing))}."
            listed = f'<p class="missing">{told}</p>'
        when = f"<p class='note'>{self.made_at:%Y-%m-%d %H:%M} UTC</p>"
        parts = "".join(map(_part, self.parts))
        return f"<h1>Dossier of {escape(self.calibration)}</h1>{when}{listed}{parts}"


def _part(part: Part) -> str:
    rows = "".join(
        f"<tr><th>{escape(item.label)}</th>"
        + (
            f'<td class="missing">missing <span class="hint">{escape(item.hint)}</span></td></tr>'
            if item.value is None
            else f"<td>{escape(_words(item.value))}</td></tr>"
        )
        for item in part.items
    )
    return (
        f"<h2>{escape(part.title)}</h2>"
        + (f"<table><tbody>{rows}</tbody></table>" if rows else "")
        + "".join(f"<p class='note'>{escape(note)}</p>" for note in part.notes)
        + "".join(map(_table, part.tables))
        + "".join(
            f'<figure><img alt="{escape(caption)}" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
            for caption, svg in part.figures
        )
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.head)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(_words(cell))}</td>' for cell in row)}</tr>" for row in table.rows
    )
    title = f"<caption>{escape(table.caption)}</caption>"
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _printed(html: str) -> bytes:
    """Print a page with a browser that is installed."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    browser = found or next((place for place in _PLACES if Path(place).is_file()), None)
    if browser is None:
        raise InvalidInput(
            "path: a PDF needs Chromium, Chrome or Edge, and none was found. Nothing was written. Write .html, "
            "and print it from a browser."
        )
    with tempfile.TemporaryDirectory(prefix="nirs-store-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "page.html").write_text(html, encoding="utf-8")
        # A browser refuses its sandbox to root; the page is ours, and holds no scripts.
        alone = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        arguments = [
            "--headless", "--disable-gpu", *alone, f"--user-data-dir={folder / 'profile'}", "--no-pdf-header-footer",
            f"--print-to-pdf={folder / 'page.pdf'}", (folder / "page.html").as_uri(),
        ]  # fmt: skip
        try:
            subprocess.run([browser, *arguments], capture_output=True, timeout=_SECONDS, check=True)
            return (folder / "page.pdf").read_bytes()
        except (OSError, subprocess.SubprocessError) as error:
            raise WriteFailed(
                f"{browser} could not print the page: {error}. Nothing was written. Write .html, and print it from a "
                "browser."
            ) from error


def _words(value: Any) -> str:
    """Put a value into the words of the page."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        return cell_text(plain(list(value)), 5)
    return cell_text(value, 5)


def plain(value: Any) -> Any:
    """Put intervals, lists and mappings into words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(each)}" for key, each in value.items()) or None
    if isinstance(value, list) and len(value) == 2 and all(type(each) in (int, float) for each in value):
        return f"{value[0]:g} to {value[1]:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else value
