"""The built wheel: everything that a user needs is inside, and its metadata say what is true."""

from __future__ import annotations

import ast
import email
import json
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest

import nirs_store

CHECKOUT = Path(nirs_store.__file__).parents[1]

pytestmark = pytest.mark.skipif(
    not (CHECKOUT / "pyproject.toml").is_file(), reason="a wheel is built from the checkout"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    # The build backend itself: no network and no second environment is needed.
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("dist")
    (built,) = WheelBuilder(str(CHECKOUT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_the_spectra_ship_with_their_note(wheel: zipfile.ZipFile) -> None:
    data = wheel.read("nirs_store/data/tecator.csv")
    assert data == (CHECKOUT / "nirs_store" / "data" / "tecator.csv").read_bytes()
    note = wheel.read("nirs_store/data/README.md").decode()
    for word in ("StatLib", "public domain", "Thodberg", "modeldata", "MIT", "Keep this note"):
        assert word in note


def test_the_workspace_template_ships_whole(wheel: zipfile.ZipFile) -> None:
    source = CHECKOUT / "workspace_template"
    expected = {
        f"nirs_store/workspace_template/{path.relative_to(source).as_posix()}": path.read_bytes()
        for path in source.rglob("*")
        if path.is_file()
    }
    assert len(expected) >= 5
    shipped = {
        name: wheel.read(name)
        for name in wheel.namelist()
        if name.startswith("nirs_store/workspace_template/") and not name.endswith("/")
    }
    assert shipped == expected


def test_all_modules_and_the_typing_mark_ship_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert "nirs_store/py.typed" in names
    source = CHECKOUT / "nirs_store"
    modules = {path.relative_to(CHECKOUT).as_posix() for path in source.rglob("*.py")}
    assert modules <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"nirs_store", f"nirs_store-{nirs_store.__version__}.dist-info"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_the_metadata_name_version_python_and_licence(metadata: Message, wheel: zipfile.ZipFile) -> None:
    assert metadata["Name"] == "nirs-store"
    assert metadata["Version"] == nirs_store.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())
    assert set(metadata.get_all("Provides-Extra", [])) == {
        *("plot", "demo", "pandas", "excel", "instruments", "test", "docs", "bench", "ui", "shared"),
    }


def test_the_command_is_installed(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "nirs-store = nirs_store.cli:main" in wheel.read(name).decode()


def packages_imported_at_the_top(path: Path) -> set[str]:
    modules: list[str] = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            modules.append(node.module)
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    return {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - {"nirs_store"}


def test_what_modules_import_at_the_top_is_a_dependency(metadata: Message) -> None:
    """What only an extra brings may be imported where it is used, never at the top."""
    lines = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    required = {re.split(r"[<>=;\[ ]", line, maxsplit=1)[0].lower() for line in lines}
    page = {"jinja2", "markupsafe", "starlette"}
    assert page <= {
        re.split(r"[<>=]", line)[0].lower()
        for line in metadata.get_all("Requires-Dist", [])
        if "'ui'" in line
    }
    names = {"sklearn": "scikit-learn", "yaml": "pyyaml", "uuid_utils": "uuid-utils"}
    # The machine is for those who test a store, and they have hypothesis; nothing else imports it.
    machine = CHECKOUT / "nirs_store" / "testing" / "machine"
    for path in (CHECKOUT / "nirs_store").rglob("*.py"):
        imported = packages_imported_at_the_top(path)
        if machine in path.parents:
            imported.discard("hypothesis")
        if CHECKOUT / "nirs_store" / "ui" in path.parents:
            imported -= page  # loaded by `serve` and `start`, which say what to install
        if CHECKOUT / "nirs_store" / "shared" in path.parents:
            imported.discard("psycopg")  # looked for by `needed`, which says what to install
        assert {names.get(package, package) for package in imported} <= required, path


def test_templates_in_the_wheel_are_templates(wheel: zipfile.ZipFile) -> None:
    templates = [
        name for name in wheel.namelist() if "/library/templates/" in name and name.endswith(".json")
    ]
    for name in templates:
        document = json.loads(wheel.read(name))
        assert name.endswith(f"/{document['category']}/{document['name']}.json")


def test_the_changelog_knows_this_version() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == nirs_store.__version__
    assert f"## [{nirs_store.__version__}]" in (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
