"""Sharing without a server: a report in one file, and the pages as files that open from the disk."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit

from markupsafe import Markup

from nirs_store.blobs.durable import write_file
from nirs_store.errors import InvalidInput, NirsStoreError
from nirs_store.ui.app import STATIC, all_screens, document, render
from nirs_store.ui.frame import Request, Screen, View
from nirs_store.ui.screens.chain import inside

if TYPE_CHECKING:
    from nirs_store.store import WorkspaceStore

_ASSETS = ("page.css", "page.js", "icon.svg")
#: So many pages of each kind of thing; the best and newest come first.
_MOST = 200
_ROWS = 500
_REPORTED = 3
#: Where the style and script of exported pages come from: the folder, on a disk or on a server.
_BESIDE = ("'self' file:", "'self' file:", "; img-src 'self' file:")
_HREF = re.compile(r' (?:href|src)="(/[^"]*)"')
_MAIN = re.compile(r"<main[^>]*>(.*)</main>", re.DOTALL)
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge",
             "microsoft-edge")  # fmt: skip


def _matching(screens: Sequence[Screen], path: str) -> tuple[Screen, dict[str, str]] | None:
    for screen in screens:
        if screen.method == "GET":
            found = re.fullmatch(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(screen.path)), path)
            if found is not None:
                return screen, found.groupdict()
    return None


def _page(store: WorkspaceStore, screens: Sequence[Screen], address: str) -> str | None:
    """Return one screen as a document without forms; None where there is no such screen."""
    split = urlsplit(address)
    match = _matching(screens, unquote(split.path))
    if match is None:
        return None
    screen, parts = match
    query = {"size": [str(_ROWS)], **parse_qs(split.query)}
    request = Request(
        store,
        split.path,
        parts,
        query,
        folder=store._engine.settings.shared or store.workspace_path,
        static=True,
    )
    view = screen.show(request)
    return document(request, view, screens) if isinstance(view, View) else None


def export_pages(
    store: WorkspaceStore, folder: Path, say: Callable[[str], None] = lambda _: None
) -> list[Path]:
    """Write the pages into an empty folder: lists of up to 500 rows, and up to 200 chains, runs and pipelines."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} is not an empty folder; name a new one. Nothing was written.")
    screens = all_screens()
    waiting = ["/", *(screen.path for screen in screens if screen.label)]
    pages: dict[str, str] = {}
    kinds: Counter[str] = Counter()
    while waiting:
        address = waiting.pop(0)
        # Other orders and filters of a list are left out: a file cannot answer them.
        kind = "/".join(address.split("/")[:2])
        if address in pages or "?" in address or kinds[kind] > _MOST:
            continue
        with contextlib.suppress(NirsStoreError):
            if html := _page(store, screens, address):
                kinds[kind] += 1
                pages[address] = html
                waiting += _HREF.findall(html)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _ASSETS:
        shutil.copy(STATIC / name, folder / name)
    written = []
    for address, html in pages.items():
        path = folder / _file_name(address)
        html = html.replace("<head>", f"<head>\n{_policy(*_BESIDE)}", 1)
        write_file(path, _HREF.sub(lambda found: _linked(found[1], pages), html).encode())
        written.append(path)
    say(f"{len(written)} pages in {folder}; open {folder / 'index.html'}")
    return written


def _file_name(address: str) -> str:
    """Return the name of a page's file: plain signs, and a hash where the address has others."""
    plain = re.sub(r"[^\w@.-]", "-", unquote(address).strip("/"), flags=re.ASCII)[:100] or "index"
    same = plain == (address.strip("/").replace("/", "-") or "index")
    return f"{plain}.html" if same else f"{plain}-{hashlib.sha256(address.encode()).hexdigest()[:8]}.html"


def _linked(address: str, pages: dict[str, str]) -> str:
    """Return the link to a page that was written, and none where it was not."""
    if address.startswith("/static/"):
        name = address.removeprefix("/static/").partition("?")[0]
        return f' src="{name}"' if name.endswith(".js") else f' href="{name}"'
    plain = address.partition("#")[0]
    return f' href="{_file_name(plain)}"' if plain in pages else ""


def write_report(store: WorkspaceStore, kind: str, identifier: str, path: Path) -> Path:
    """Write a run with its best chains, a chain, or a calibration with its dossier as one file without network."""
    # Of a chain recorded from a stored data set, the models are loaded for the figures of what is inside them.
    screens, shown, more = all_screens(), identifier, list[str]()
    addresses = [f"/{kind}s/{identifier}"]
    if kind == "calibration":
        addresses = [f"/calibrations/_{end}?name={quote(identifier, safe='')}" for end in ("", "/dossier")]
    elif kind == "run":
        shown = store.show_run(identifier).name
        best = store.list_chains(limit=_REPORTED, run_id=identifier, scores=False)
        addresses += [f"/chains/{each}" for each in best["chain_id"].to_list()]
    elif kind == "chain":
        chain = store.show_chain(identifier)
        shown = chain.name
        if chain.metadata.get("dataset_version_id"):
            # The spectra are at hand, and the command was given by who trusts the store: models are loaded.
            asked = Request(
                store,
                addresses[0],
                {"chain_id": identifier},
                {},
                folder=store._engine.settings.shared or store.workspace_path,
                static=True,
            )
            more = [document(asked, inside(asked), screens)]
    pages = [*(_page(store, screens, address) or "" for address in addresses), *more]
    # What the rest of the workspace holds is not in this file.
    parts = [Markup(_HREF.sub("", found[1])) for found in map(_MAIN.search, pages) if found]
    html = render(
        "report.html",
        parts=parts,
        shown=shown,
        folder=(store._engine.settings.shared or store.workspace_path).name,
        head=_inline(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, html.encode())
    return path


def _inline() -> Markup:
    """Return the style and script of a file of its own, and a policy that allows these two alone."""
    css, js = ((STATIC / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    style, script = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, js))
    policy = _policy(f"'sha256-{style}'", f"'sha256-{script}'")
    return Markup(f'{policy}\n<style>{css}</style>\n<script type="module">{js}</script>')


def _policy(style: str, script: str, more: str = "") -> str:
    """Return the policy of a file, which allows a style and a script and nothing else."""
    content = f"default-src 'none'; style-src {style}; script-src {script}{more}"
    return f'<meta http-equiv="Content-Security-Policy" content="{content}">'


def write_pdf(report: Path, path: Path) -> Path:
    """Print a report with a browser of this machine."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        raise InvalidInput(
            "A PDF needs Chromium, Chrome or Edge, and none was found. Print the HTML file instead."
        )
    # Chromium refuses to work with its sandbox for the administrator, as in containers.
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with tempfile.TemporaryDirectory(prefix="nirs_store-") as profile:
        call = [browser, "--headless", "--disable-gpu", "--no-pdf-header-footer", f"--user-data-dir={profile}",
                f"--print-to-pdf={path.resolve()}", report.resolve().as_uri(),
                *(["--no-sandbox"] if is_root else [])]  # fmt: skip
        done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode or not path.exists():
        raise InvalidInput(
            f"{Path(browser).name} could not print {report.name}: {done.stderr.strip()[-300:]}"
        )
    return path
