"""Where the benchmarks keep what they make; everything here is ignored by git."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CACHE = HERE / ".cache"
VENVS = HERE / ".venvs"
# The last full run, and what is drawn and written from it.
RESULTS = HERE / "results.json"
TABLES = HERE / "results.md"
IMAGES = ROOT / "docs" / "images" / "performance"


def tree_bytes(folder: Path) -> int:
    """Sum of the sizes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
