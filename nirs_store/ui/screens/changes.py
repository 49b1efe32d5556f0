"""What changes the workspace, with ``--allow-changes`` only: each shows its plan, and does it when it is confirmed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nirs_store.display import byte_text, counted
from nirs_store.errors import InvalidInput, UnknownId, quoted
from nirs_store.ui.frame import Redirect, Request, Screen, View


@dataclass(frozen=True)
class Plan:
    """What would be changed: its words, and the function that does it."""

    title: str
    lines: list[str]
    button: str
    back: str  # where to go when it was not wanted
    do: Callable[[], object]
    found: (
        object  # what the plan was made of; where it is another when the plan is confirmed, nothing is done
    )
    fields: dict[str, str] = field(default_factory=dict)  # of the form that asked for it
    danger: bool = True
    after: str = ""  # where to go when it was done, if not back


def planned(path: str, plan_of: Callable[[Request], Plan | Redirect]) -> Screen:
    """Return a screen that shows a plan, and does it where the same plan was confirmed."""

    def show(request: Request) -> View | Redirect:
        plan = plan_of(request)
        if isinstance(plan, Redirect):
            return plan
        # What stands for the plan in the form: of this page, so that no other page can make it.
        mark = hashlib.sha256(repr((request.kept.secret, request.path, plan.found)).encode()).hexdigest()
        if request.is_sure:
            if request.text("planned") != mark:
                raise InvalidInput(
                    "This has changed since the plan was shown; nothing was changed. Look at it again."
                )
            plan.do()
            return Redirect(plan.after or plan.back)
        values = {"plan": plan, "fields": plan.fields | {"planned": mark}}
        return View("confirm.html", plan.title, values, data={"title": plan.title, "plan": plan.lines})

    return Screen(path, show, method="POST", changes=True)


def tag(request: Request) -> Plan | Redirect:
    """Set tags and note of a run."""
    store = request.store
    run = store.show_run(request.parts["run_id"])
    back = f"/runs/{run.run_id}"
    wanted = list(dict.fromkeys(each.strip() for each in request.text("tags").split(",") if each.strip()))
    gone = [each for each in run.tags if each not in wanted]
    new = [each for each in wanted if each not in run.tags]
    # A browser ends the lines of what a form sends with both characters.
    note = request.text("note").replace("\r\n", "\n")
    lines = [f"The tag {quoted(each)} would be removed." for each in gone]
    lines += [f"The tag {quoted(each)} would be added." for each in new]
    if note != run.note:
        was = f" It is {quoted(run.note)} now." if run.note else ""
        lines.append(
            f"The note would be {quoted(note)}.{was}" if note else f"The note would be removed.{was}"
        )

    def save() -> None:
        if gone:
            store.untag_run(run.run_id, *gone)
        if new:
            store.tag_run(run.run_id, *new)
        if note != run.note:
            store.annotate_run(run.run_id, note)

    if not lines and not request.is_sure:
        return Redirect(back)
    fields = {"tags": ", ".join(wanted), "note": note}
    found = sorted(run.tags), run.note, sorted(wanted), note
    return Plan(f"Change the run {run.name}?", lines, "Save", back, save, found, fields, danger=False)


def delete(request: Request) -> Plan:
    """Delete a run or a chain; it goes to the trash."""
    kind, identifier, store = request.text("kind"), request.text("id"), request.store
    remove: Any = {"run": store.delete_run, "chain": store.delete_chain}.get(kind)
    if remove is None:
        raise InvalidInput(f"kind: expected run or chain, found {quoted(kind)}. Nothing was changed.")
    plan = remove(identifier, dry_run=True)
    rows, stored, needed = sorted(plan.rows.items()), sorted(plan.artifacts), sorted(plan.needed_by)
    lines = [
        *(counted(n, name.removesuffix("s").replace("_", " ")) for name, n in plan.rows.items() if n),
        f"{counted(len(plan.artifacts), 'stored object')} that nothing else uses, {byte_text(plan.artifact_bytes)}",
        *(f"It is needed by {user} (its source {source})." for user, source in plan.needed_by),
        f"It stays in the trash for {store.trash.days:g} days, and can be restored until then.",
    ]
    title, fields = f"Delete the {kind} {plan.name or identifier}?", {"kind": kind, "id": identifier}
    found = kind, identifier, rows, stored, plan.artifact_bytes, needed
    return Plan(title, lines, f"Delete this {kind}", f"/{kind}s/{identifier}", lambda: remove(identifier), found,
                fields, after="/trash")  # fmt: skip


def restore(request: Request) -> Plan:
    """Take a deletion back."""
    trash, identifier = request.store.trash, request.text("id")
    row = next((row for row in trash.list().iter_rows(named=True) if row["trash_id"] == identifier), None)
    if row is None:
        raise UnknownId("deletion", identifier, "The trash holds no such deletion. Nothing was changed.")
    lines = [
        f"{row['rows']:,} rows come back under their ids, with what they belong to where that was deleted too.",
        f"Deleted at {row['deleted_at']:%Y-%m-%d %H:%M} UTC by {row['operation']}.",
    ]
    title, found = (
        f"Restore the {row['kind']} {row['name'] or row['object_id']}?",
        sorted(row.items(), key=str),
    )
    return Plan(title, lines, "Restore it", "/trash", lambda: trash.restore(identifier), found, {"id": identifier},
                danger=False)  # fmt: skip


def gc(request: Request) -> Plan:
    """Remove stored objects that nothing names."""
    plan, collect = request.store.gc_artifacts(dry_run=True), request.store.collect_garbage
    return Plan("Clean up?", str(plan).splitlines(), "Clean up", "/health", collect, plan)


def retention(request: Request) -> Plan:
    """Carry out the policy: what was confirmed, not what has come to be planned since."""
    kept = request.store.retention
    plan = kept.plan()
    lines, found = str(plan).splitlines(), sorted((item.kind, item.id) for item in plan.take)
    title, button = "Carry out the policy?", "Delete these"
    return Plan(title, lines, button, "/retention", lambda: kept.execute(plan), found)


SCREENS = (
    planned("/runs/{run_id}/tag", tag),
    planned("/delete", delete),
    planned("/trash/restore", restore),
    planned("/gc", gc),
    planned("/retention/run", retention),
)
