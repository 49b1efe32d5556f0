"""What imports what: only downwards, and nothing heavy before it is needed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from storekit import begin, predict

import nirs_store
from nirs_store import WorkspaceStore

PACKAGE = Path(nirs_store.__file__).parent
CHECKOUT = PACKAGE.parent
HEAVY = ("duckdb", "polars", "pyarrow", "numpy", "scipy", "sklearn", "skops", "pandas", "matplotlib")


def loaded_after(statement: str) -> set[str]:
    script = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=CHECKOUT, timeout=60
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("statement", ["import nirs_store", "import nirs_store.errors, nirs_store.ids"])
def test_importing_the_package_loads_nothing_heavy(statement: str) -> None:
    assert loaded_after(statement).isdisjoint(HEAVY)


def test_the_command_line_starts_without_the_scientific_stack() -> None:
    assert loaded_after("import nirs_store.cli").isdisjoint(HEAVY)


def test_skops_matplotlib_and_pandas_wait_until_they_are_used() -> None:
    assert loaded_after("from nirs_store import WorkspaceStore").isdisjoint({"skops", "matplotlib", "pandas"})


def test_the_best_predictions_are_had_without_pandas(store: WorkspaceStore, folder: Path) -> None:
    # Arrow imports it, where it is installed, as soon as it is given a list.
    predict(store, begin(store)[1])
    store.close()
    statement = f"from nirs_store import WorkspaceStore; store = WorkspaceStore({str(folder)!r}); "
    loaded = loaded_after(statement + "assert store.top_predictions(5).height == 1")
    assert "polars" in loaded
    assert "pandas" not in loaded


def test_every_public_name_can_be_had() -> None:
    for name in nirs_store.__all__:
        assert getattr(nirs_store, name) is not None, name
    assert set(nirs_store.__all__) <= set(dir(nirs_store))
    with pytest.raises(AttributeError, match="no_such_name"):
        nirs_store.no_such_name  # noqa: B018


@pytest.mark.skipif(not (CHECKOUT / "pyproject.toml").is_file(), reason="the contract is in the checkout")
def test_imports_go_only_downwards() -> None:
    script = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=CHECKOUT, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_imports_itself_by_full_name() -> None:
    """A star or a relative import would hide from the reader which layer is meant."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno} is a relative import"
                assert [alias.name for alias in node.names] != ["*"], f"{path}:{node.lineno} imports *"
