"""What an address may ask for: every parameter of every screen with values that nobody expects."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from uikit import Page

from nirs_store import WorkspaceStore
from nirs_store.ui.app import all_screens
from nirs_store.ui.frame import Request

_ODD = (["zzz"], ["-1", "zzz"], ["9" * 30], ["\x00²"], ["", ""])
_SCREENS = [screen for screen in all_screens() if screen.method == "GET"]
_FORMS = [screen for screen in all_screens() if screen.method == "POST"]


@pytest.fixture(scope="module")
def parts(serving: Path) -> dict[str, str]:
    """What the places of the addresses are filled with."""
    with WorkspaceStore(serving, read_only=True, create=False) as store:
        chain = store.show_chain(store.list_chains(limit=1)["chain_id"][0])
        return {
            "chain_id": chain.chain_id,
            "run_id": chain.run_id,
            "pipeline_id": chain.pipeline_id,
            "prediction_id": store.sql("SELECT prediction_id FROM predictions LIMIT 1").item(),
            "calibration": "protein",
            "reference": "protein@v2",
            "key": "nothing",
        }


def _read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return a set that collects the parameters which screens read."""
    names: set[str] = set()
    for method in ("text", "texts"):
        plain = getattr(Request, method)

        def noting(self: Request, name: str, *more: Any, plain: Any = plain) -> Any:
            names.add(name)
            return plain(self, name, *more)

        monkeypatch.setattr(Request, method, noting)
    return names


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "every"])
@pytest.mark.parametrize("screen", _SCREENS, ids=lambda screen: screen.path)
def test_a_screen_takes_any_value_in_its_address(
    screen: Any, serving: Path, parts: dict[str, str], open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch,
    every: bool,
) -> None:  # fmt: skip
    page, path = open_page(serving), screen.path.format(**parts)
    names = _read(monkeypatch)
    page.get(path)
    # The tables of a screen differ in the prefix of their parameters alone.
    kinds = {re.sub(r"^[a-z]+_(?=(q|sort|down|size|page|show)$)", "", name): name for name in sorted(names)}
    for place, name in enumerate([*kinds.values(), "format"]):
        for values in _ODD if every else (_ODD[place % len(_ODD)], _ODD[(place + 2) % len(_ODD)]):
            answer = page.get(f"{path}?{urlencode({name: values}, doseq=True)}")
            assert answer.status_code in (200, 400, 404), (name, values)
            if answer.status_code == 400:
                assert "That does not fit" in answer.text
                assert "Traceback" not in answer.text


def test_what_was_read_covers_what_the_addresses_of_the_page_hold(
    serving: Path, parts: dict[str, str], open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = _read(monkeypatch)
    page = open_page(serving)
    for screen in _SCREENS:
        page.get(screen.path.format(**parts))
    assert names >= {
        "page",
        "size",
        "sort",
        "show",
        "q",
        "metric",
        "rows",
        "id",
        "query",
        "color",
        "against",
        "since",
    }


@pytest.mark.parametrize("screen", _FORMS, ids=lambda screen: screen.path)
def test_a_form_takes_any_value_in_its_fields(
    screen: Any, serving: Path, tmp_path: Path, parts: dict[str, str], open_page: Callable[..., Page],
    monkeypatch: pytest.MonkeyPatch, spectra: Path,
) -> None:  # fmt: skip
    shutil.copytree(serving, tmp_path / "workspace")
    page, path = open_page(tmp_path / "workspace", may_change=True), screen.path.format(**parts)
    names = _read(monkeypatch)
    page.post(path, {"name": "protein"}, follow_redirects=False)
    for name in sorted(names - {"sure"}):
        for values in _ODD:
            answer = page.post(path, {"name": "protein", name: values}, follow_redirects=False)
            assert answer.status_code in (200, 303, 400, 404, 409), (name, values)
