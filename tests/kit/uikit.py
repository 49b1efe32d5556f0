"""A client of the page, and workspaces to show."""

from __future__ import annotations

import html as markup
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold
from starlette.testclient import TestClient

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
from nirs_store.ui.app import Desk, make_app
from nirs_store.ui.guard import Guard

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\x1b[2J\u202e" + "n" * 10_000


class Page:
    """A client of the page, and what it needs to send a form."""

    def __init__(
        self,
        folder: Path,
        *,
        may_change: bool = False,
        guard: Guard | None = None,
        store: WorkspaceStore | None = None,
    ) -> None:
        self.folder, self.guard = folder, guard or Guard()
        self.desk = Desk(folder, may_change=may_change, store=store)
        self.client = TestClient(make_app(self.desk, self.guard), base_url="http://127.0.0.1:8423")

    def get(self, path: str, **options: Any) -> Any:
        return self.client.get(path, **options)

    def html(self, path: str) -> str:
        answer = self.get(path)
        assert answer.status_code == 200, answer.text[:2000]
        return str(answer.text)

    def json(self, path: str) -> Any:
        answer = self.get(path, headers={"Accept": "application/json"})
        assert answer.status_code == 200, answer.text[:2000]
        return answer.json()

    def post(self, path: str, data: dict[str, Any] | None = None, **options: Any) -> Any:
        given = {"form_token": self.guard.form_token, "trust": "1", **(data or {})}
        return self.client.post(path, data=given, **options)


def record(folder: Path, name: str = "corn", *, note: str = "") -> None:
    """Record three chains of one run on a part of real spectra."""
    spectra = load_tecator()
    X, y = spectra.X[::4, ::5], spectra.fat[::4]
    with WorkspaceStore(folder) as store, store.run(name, {"seed": 1}, [name]) as run:
        for components in (1, 2, 3):
            record_cross_validation(
                store, PLSRegression(components), X[:40], y[:40], X_test=X[40:], y_test=y[40:], cv=KFold(3),
                dataset_name=name, run_id=run.run_id, wavelengths=spectra.wavelengths[::5], wavelength_unit="nm",
                target=name, target_unit="%", sample_ids=[f"{name[:20]}{i}" for i in range(40)],
            )  # fmt: skip
        store.tag_run(run.run_id, name[:200])
        store.annotate_run(run.run_id, note or name)


def fields(text: str) -> dict[str, str]:
    """Return what the form of a confirmation sends."""
    main = text.partition("<main")[2]
    return {name: markup.unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', main)}


def addresses(html: str) -> set[str]:
    """Return the addresses within the page that a document leads to."""
    found = re.findall(r'href="(/[^"#]*)', html)
    return {each.replace("&amp;", "&") for each in found if not each.startswith("/static")}


def put_into_service(store: WorkspaceStore, name: str, *, drift: float = 0.0) -> None:
    """Add a data set in two versions, a calibration in two versions, and a log with references over eight months."""
    spectra = load_tecator()
    X, y, grid = spectra.X[::2, ::4], spectra.fat[::2].copy(), spectra.wavelengths[::4]
    ids = [f"{name[:20]}{i}" for i in range(60)]
    label = "".join(sign for sign in name if sign.isprintable())[:100]
    kind = ["lean" if value < 12 else "fatty" for value in y]
    about = {"wavelengths": grid, "unit": "nm", "ids": ids[:60]}
    for values, note in (
        (np.where(np.arange(60) == 3, 99.0, y[:60]), "as measured"),
        (y[:60], "sample 3 corrected"),
    ):
        store.datasets.add(
            label,
            X[:60],
            references={label: values, "kind": kind[:60]},
            note=note,
            units={label: "%"},
            **about,
        )
    with store.run(f"calibrations of {name[:40]}", datasets=[label]) as run:
        for components in (2, 5):
            chain = record_cross_validation(
                store, PLSRegression(components), cv=KFold(3), run_id=run.run_id, dataset=f"{label}@v2", target=label,
                target_unit="%",
            ).chain_id  # fmt: skip
            version = store.calibrations.register(
                label, chain, note=f"{components} latent variables", author=label[:60]
            )
    store.calibrations.set_alias(label, "production", 1, reason="the first", user="anna")
    store.calibrations.set_alias(label, "production", version, reason=name[:200], user="anna")
    store.calibrations.sign(label, meaning="approval", signer="anna")
    begin = datetime(2026, 1, 5, tzinfo=UTC)
    for batch in range(8):
        some = np.arange(60 + 5 * batch, 65 + 5 * batch)
        when = [begin + timedelta(days=30 * batch + int(i) % 5) for i in some]
        named = [f"{name[:20]} measured {i}" for i in some]
        store.predict(label, X[some], grid, sample_ids=named, measured_at=when, instrument=f"bench {batch % 2}",
                      on_outlier="ignore")  # fmt: skip
        if batch < 7:
            for sample, value in zip(named, y[some], strict=True):
                store.references.add(
                    sample, float(value) + drift * batch, target=label, unit="%", lab="north"
                )
