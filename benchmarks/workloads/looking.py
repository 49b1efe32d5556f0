"""W16: the page over many chains, in Chromium: what the server takes, and what the browser waits for and transfers."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clock import environment, median
from benchmarks.sizes import Size
from nirs_store import WorkspaceStore

_FOLDS, _PARTS, _SAMPLES = 5, ("train", "val", "test"), {"train": 20, "val": 10, "test": 10}
_RUNS, _TOGETHER, _ROUNDS = 16, 25, 5
_MODELS = ("PLSRegression", "Ridge", "SVR")


def looking(peer: str, size: Size, folder: Path) -> dict[str, float]:
    """Milliseconds and bytes of screens, each opened new and again; `_cpu_ms` is processor time of the server."""
    import psutil
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("W16 needs Chromium, e.g. apt-get install chromium")
    chain = _record(folder / "looking", size.looked)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "nirs_store",
        "ui",
        "-w",
        str(folder / "looking"),
        "--port",
        str(port),
        "--no-browser",
    ]
    began = time.perf_counter()
    server = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    try:
        found: dict[str, float] = {"chains": float(size.looked), "first_byte_s": _first_byte(url, began)}
        process = psutil.Process(server.pid)
        screens = {
            "overview": "/",
            "leaderboard": "/chains?page={}",
            "sort": "/chains?sort=rmsep&page={}",
            "filter": "/chains?q=ridge+data1&page={}",
            "chain": f"/chains/{chain}?a_page={{}}",
        }
        with sync_playwright() as started:
            chromium = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            for name, path in screens.items():
                # Another page of the list each time: an answer that is kept would be measured otherwise.
                each = [_opened(chromium, process, url + path.format(k + 1)) for k in range(_ROUNDS)]
                found |= {f"{name}_first_{key}": value for key, value in each[0].items()}
                found |= {f"{name}_{key}": median([one[key] for one in each]) for key in each[0]}
            chromium.close()
        found["memory_mb"] = process.memory_info().rss / 2**20
        return found
    finally:
        server.terminate()
        server.wait(20)


def _first_byte(url: str, began: float) -> float:
    """Wait for the first answer of the server."""
    while time.perf_counter() - began < 60:
        try:
            with urllib.request.urlopen(f"{url}/static/page.css", timeout=5):
                return time.perf_counter() - began
        except OSError:
            time.sleep(0.01)
    raise SystemExit("the page did not start within a minute")


def _opened(chromium: Any, process: Any, url: str) -> dict[str, float]:
    """Open an address in a new browser profile."""
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    before = sum(process.cpu_times()[:2])
    page.goto(url, wait_until="networkidle")
    told = json.loads(
        page.evaluate(
            """JSON.stringify({
            first: performance.getEntriesByType("navigation")[0],
            paint: (performance.getEntriesByName("first-contentful-paint")[0] || {}).startTime,
            others: performance.getEntriesByType("resource").map(each => each.transferSize),
        })"""
        )
    )
    page.close()
    navigation = told["first"]
    return {
        "server_ms": navigation["responseStart"] - navigation["requestStart"],
        "painted_ms": told["paint"] or float("nan"),
        "cpu_ms": 1e3 * (sum(process.cpu_times()[:2]) - before),
        "requests": 1.0 + len(told["others"]),
        "kb": (navigation["transferSize"] + sum(told["others"])) / 1000,
    }


def _record(folder: Path, chains: int) -> str:
    """Record so many chains with plain calls, fifteen predictions with arrays each, and return the id of one."""
    random = np.random.default_rng(0)
    chain = ""
    with WorkspaceStore(folder) as store:
        for run in range(_RUNS):
            dataset = f"data{run % 4}"
            run_id = store.begin_run(f"run {run}", {"number": run}, [{"name": dataset}])
            numbers = range(run, chains, _RUNS)
            for first in range(0, len(numbers), _TOGETHER):
                pipeline = store.begin_pipeline(run_id, f"grid {first}", {"number": first}, [], dataset, "")
                for number in numbers[first : first + _TOGETHER]:
                    chain = _chain(store, pipeline, dataset, number, random)
                store.complete_pipeline(pipeline, 1.0, 1.0, "rmse", 10)
            store.complete_run(run_id, {})
    return chain


def _chain(
    store: WorkspaceStore, pipeline: str, dataset: str, number: int, random: np.random.Generator
) -> str:
    model, components, before = _MODELS[number % 3], number % 20 + 1, "SNV" if number % 2 else ""
    step = {"step_idx": 0, "operator_class": model, "params": {"n_components": components}}
    about = {"target": "fat", "target_unit": "%"}
    chain = store.save_chain(pipeline, [step], 0, model, before, "per_fold", {}, {}, metadata=about)
    for fold in range(_FOLDS):
        for part in _PARTS:
            n = _SAMPLES[part]
            true = random.normal(20, 5, n)
            guess = true + random.normal(0, 0.5 + number % 7 / 4, n)
            score = float(np.sqrt(np.mean((true - guess) ** 2)))
            prediction = store.save_prediction(
                pipeline, chain, dataset, f"{model}({components})", model, f"fold_{fold}", part, score, score, score,
                "rmse", "regression", n, 100, {}, {}, None, None, 0, 0.0,
            )  # fmt: skip
            store.save_prediction_arrays(prediction, true, guess, sample_indices=np.arange(n))
    return chain
