"""Execute the tutorials, and keep what they printed.

After a change of a tutorial or of what it shows, from the checkout:

    python tests/kit/notebooks.py

runs every notebook in a folder of its own and writes it back with its outputs, cleaned of what only holds
on the machine that ran it.
"""

from __future__ import annotations

import base64
import io
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
_TIMEOUT = 120


def notebooks() -> list[Path]:
    """The tutorials in their order."""
    return sorted(TUTORIALS.glob("[0-9]*.ipynb"))


def execute(path: Path, folder: Path) -> Any:
    """Run a notebook from top to bottom in an empty folder; an error in a cell is raised."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


def clean(notebook: Any, folder: Path) -> Any:
    """Take out what differs from one machine or moment to the next: folders, warnings' lines, metadata."""
    here = re.compile("|".join(re.escape(str(each)) + r"[/\\]?" for each in (folder.resolve(), folder)))
    for cell in notebook.cells:
        cell.metadata.clear()
        _join_streams(cell)
        for output in cell.get("outputs", ()):
            output.get("metadata", {}).clear()
            if "text" in output:
                output.text = here.sub("", output.text)
            for kind, data in output.get("data", {}).items():
                if isinstance(data, str) and kind.startswith("text/"):
                    output.data[kind] = here.sub("", data)
                elif kind == "image/png":
                    output.data[kind] = _smaller(data)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return notebook


def _join_streams(cell: Any) -> None:
    """Make what one cell printed one output; where the kernel cuts it is chance."""
    joined: list[Any] = []
    for output in cell.get("outputs", ()):
        last = joined[-1] if joined else None
        if (
            last is not None
            and output.output_type == last.output_type == "stream"
            and output.name == last.name
        ):
            last.text += output.text
        else:
            joined.append(output)
    if "outputs" in cell:
        cell.outputs = joined


def _smaller(png: str) -> str:
    """A figure has few colours; with a palette its file is a third as large."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(96)
    packed = io.BytesIO()
    image.save(packed, format="png", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


def main() -> None:
    """Execute every tutorial and write it back."""
    for path in notebooks():
        with tempfile.TemporaryDirectory() as name:
            nbformat.write(clean(execute(path, Path(name)), Path(name)), path)
        print(path.relative_to(TUTORIALS.parents[1]), file=sys.stderr)


if __name__ == "__main__":
    main()
