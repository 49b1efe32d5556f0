"""The program, called in this process as a shell would call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from nirs_store.cli._app import app as program
from nirs_store.maintenance.findings import CheckReport, Finding


def invoke(*arguments: object, **options: Any) -> Result:
    """Call the program; the result holds what it printed, its exit code and what was raised."""
    return CliRunner().invoke(program, [str(each) for each in arguments], prog_name="nirs-store", **options)


def check(folder: Path, *, read_data: bool = False) -> CheckReport:
    """Check a folder that need not open as a store: what `nirs-store check --json` prints."""
    done = invoke("check", "--json", "--workspace", folder, *(["--read-data"] if read_data else []))
    assert done.exit_code in (0, 4), (done.output, done.exception)
    told = json.loads(done.stdout)
    lists = ("affects", "subject")
    found = [Finding(**each | {name: tuple(each[name]) for name in lists}) for each in told["findings"]]
    report = CheckReport(told["workspace"], told["read_data"], tuple(found), told["counts"])
    assert report.ok == told["ok"]
    assert done.exit_code == (4 if report.errors else 0)
    return report
