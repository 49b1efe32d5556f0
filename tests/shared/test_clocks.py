"""A computer whose clock is a day off, as its whole process sees it: order stays, and nothing that lives is collected."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from storekit import ROOT, begin, chain_of

from nirs_store.db.table import digests
from nirs_store.store import WorkspaceStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or shutil.which("cc") is None, reason="the clock is set by a library in C"
    ),
]
_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long off(void) { const char *s = getenv("CLOCK_OFF"); return s ? atol(s) : 0; }
int clock_gettime(clockid_t c, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int found = real(c, t);
    if (!found && (c == CLOCK_REALTIME || c == CLOCK_REALTIME_COARSE)) t->tv_sec += off();
    return found;
}
int gettimeofday(struct timeval *t, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec; t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
"""
_CHILD = """
import sys, warnings
sys.path.insert(0, {kit!r})
from storekit import begin, chain_of
from nirs_store.store import WorkspaceStore
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    store = WorkspaceStore({place!r})
print([str(w.message) for w in said if "clock" in str(w.message)][0], flush=True)
def go_on():
    print("ready", flush=True)
    sys.stdin.readline()
run_id, pipeline_id = begin(store, "wrong clock")
saved = store.save_artifact(["held by its session"], "builtins.list", "model", "joblib")
store.flush()
go_on()
# A grace of an hour, though by this clock everything is a day old, or of tomorrow.
store.gc_artifacts(grace_seconds=3600)
go_on()
chain_of(store, pipeline_id, saved)
store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 1)
store.close()
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clock")
    (folder / "clock.c").write_text(_CLOCK)
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", folder / "clock.so", folder / "clock.c", "-ldl"], check=True
    )
    return folder / "clock.so"


@pytest.mark.parametrize(("off", "words"), [(86400, "86400 s ahead of"), (-86400, "86400 s behind")])
def test_a_computer_whose_clock_is_a_day_off_keeps_the_order_and_what_lives(
    machine: Any, database: str, tmp_path: Path, library: Path, off: int, words: str
) -> None:
    one = machine("one")
    _, pipeline_id = begin(one, "right clock")
    one.save_artifact(["of the other"], "builtins.list", "model", "joblib")
    one.flush()
    place = f"{database}?workspace=corn&replica={tmp_path / 'wrong'}"
    code = _CHILD.format(kit=str(ROOT / "tests" / "kit"), place=place)
    environment = {
        "LD_PRELOAD": str(library),
        "CLOCK_OFF": str(off),
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin",
    }
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        lines = child.stdout

        def hear() -> str:
            return lines.readline().strip()

        assert words in hear()
        assert hear() == "ready"
        one.gc_artifacts(grace_seconds=0)
        print(file=child.stdin, flush=True)
        assert hear() == "ready"
        # What this one has saved and not yet referred to was not collected there.
        chain_of(one, pipeline_id, one.save_artifact(["of the other"], "builtins.list", "model", "joblib"))
        one.flush()
        print(file=child.stdin, flush=True)
        child.wait()
        assert child.returncode == 0
    blobs = one._engine.layout.blobs
    keys = one._engine.query(lambda con: con.execute("SELECT artifact_path FROM blobs").fetchall())
    assert len(keys) == 2
    assert all(blobs.stat(key) is not None and "~" not in key for (key,) in keys)
    assert sorted(one.list_runs()["name"]) == ["right clock", "wrong clock"]
    with WorkspaceStore(place) as again:
        assert again._engine.query(digests) == one._engine.query(digests)
    # A failed run ends what was committed before it, whatever the clocks said.
    run_id, pipeline_id = begin(one, "fails")
    one.fail_run(run_id, "stopped")
    assert one.get_pipeline(pipeline_id)["status"] == "failed"
