"""What imports what: only downwards, and nothing heavy before it is needed."""

from __future__ import annotations

import ast
import json
import re
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


# Folders of artifacts that are not the workspace's (a source of nirs4all's, an exported manifest); and where the folders
# of a workspace are named, made, and refused when they are links.
APART = {"migration/artifacts.py", "artifacts/manifest.py", "db/layout.py"}


def paths_of_artifacts(source: str) -> set[int]:
    """Lines that join a path of an artifact, or go to the folders where blobs lie."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "Path",
            "joinpath",
            "join",
        ):
            parts = ", ".join(map(ast.unparse, node.args))
        elif isinstance(node, ast.Attribute) and node.attr in ("artifacts", "aside"):
            parts = "'aside'" if ast.unparse(node.value).endswith("layout") else ""
        else:
            continue
        if re.search(r"(root|folder|path)\b.*(artifact_path|'artifacts['/])|'aside'", parts):
            found.add(node.lineno)
    return found


@pytest.mark.parametrize(
    "code",
    [
        "layout.root / row['artifact_path']", "root / 'artifacts' / 'ab'", "os.path.join(root, 'artifacts', name)",
        "engine.layout.artifacts.rglob('*')", "self._layout.aside / name", "Path(root, known['artifact_path'])",
        "(engine.layout.root / blob.artifact_path).stat()", "store.workspace_path / 'artifacts/ab'",
    ],
)  # fmt: skip
def test_a_path_of_an_artifact_is_recognized(code: str) -> None:
    assert paths_of_artifacts(code) == {1}


def test_only_the_room_of_blobs_joins_paths_of_artifacts() -> None:
    rooms = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}
    found = {
        name: lines
        for name, source in rooms.items()
        if not name.startswith("blobs/") and name not in APART and (lines := paths_of_artifacts(source))
    }
    assert found == {}
