"""Where the templates of a workspace lie, and the guard that keeps them there."""

from __future__ import annotations

import contextlib
from pathlib import Path

from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.blobs.plain import resolve_inside
from nirs_store.errors import InvalidInput, TemplateExists, TemplateNotFound, nearest
from nirs_store.ids import utcnow
from nirs_store.library.template import Template, check_name, nfc, read_template, same_name, template_bytes


class TemplateFolder:
    """The folder ``library`` of a workspace; it need not exist yet."""

    def __init__(self, library: Path) -> None:
        self._library = library
        self._templates = library / "templates"

    def save(self, template: Template, overwrite: bool) -> Path:
        """Write a template durably; TemplateExists when its name is taken."""
        path = self._templates / template.category / f"{template.name}.json"
        self.check_inside(path)
        self._check_category(template.category)
        # Looked for in any case, because a file system may not tell them apart.
        twin = next((file for file in path.parent.glob("*.json") if same_name(file.stem, path.stem)), None)
        if twin is not None:
            if not overwrite or twin.name != path.name:
                raise _exists(twin)
            with contextlib.suppress(InvalidInput):  # a damaged one has no date worth keeping
                template.created_at = read_template(twin).created_at
        template.modified_at = utcnow().isoformat()
        data = template_bytes(template)
        ensure_dir(path.parent)
        try:
            write_file(path, data, replace=overwrite)
        except InvalidInput as error:
            # Another process saved it since we looked.
            raise _exists(path) from error
        return path

    def check_inside(self, path: Path) -> None:
        """Refuse a path that leaves the library through a link in it."""
        resolve_inside(self._library, path.relative_to(self._library))

    def _check_category(self, category: str) -> None:
        # Where a file system does not tell upper from lower case, two such categories would be one folder.
        for folder in self._templates.glob("*"):
            if same_name(folder.name, category) and nfc(folder.name) != category:
                raise InvalidInput(
                    f"The library has a category {folder.name!r} already, which differs from {category!r} "
                    "only in case. Use that spelling."
                )

    def files(self) -> list[Path]:
        """List the files, whatever is in them, by category and name."""
        return sorted(self._templates.glob("*/*.json"))

    def find(self, name: str, category: str | None) -> Path:
        """Find the one file of a template; TemplateNotFound or InvalidInput when there is not one."""
        name = check_name("template name", name)
        if category is not None:
            category = check_name("category", category)
        files = self.files()
        found = [
            path for path in files if nfc(path.stem) == name and category in (None, nfc(path.parent.name))
        ]
        if len(found) > 1:
            categories = ", ".join(repr(path.parent.name) for path in found)
            raise InvalidInput(f"The categories {categories} each have a template {name!r}: say which.")
        if not found:
            place = "this library" if category is None else f"the category {category!r}"
            raise TemplateNotFound(f"There is no template {name!r} in {place}.{_advice(name, files)}")
        self.check_inside(found[0])
        return found[0]


def _exists(path: Path) -> TemplateExists:
    return TemplateExists(
        f"The category {path.parent.name!r} has a template {path.stem!r} already; it was left as it is. "
        "Choose another name or category, or replace exactly that name with overwrite=True (on the command line: "
        "--overwrite)."
    )


def _advice(name: str, files: list[Path]) -> str:
    close = nearest(name, (path.stem for path in files))
    path = next((file for file in files if file.stem == close), None)
    if path is not None:
        return f" Did you mean {path.stem!r} in {path.parent.name!r}?"
    return (
        " list_templates() or 'nirs-store library list' shows those there are." if files else " It is empty."
    )
