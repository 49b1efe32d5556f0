"""What changes the workspace, with ``--allow-changes`` only: each shows its plan, and does it when it is confirmed."""

from __future__ import annotations

import hashlib
from typing import Any

from nirs_store.display import byte_text, counted
from nirs_store.errors import InvalidInput, UnknownId, quoted
from nirs_store.ui.frame import Redirect, Request, Screen, View

__all__ = ["SCREENS", "confirm", "mark", "sure", "unchanged"]


def confirm(
    request: Request,
    title: str,
    plan: list[str],
    button: str,
    back: str,
    *,
    danger: bool = True,
    **fields: str,
) -> View:
    """Return the question before a change: the plan, and a form that sends the same again with ``sure``."""
    values = {"plan": plan, "button": button, "back": back, "fields": fields, "danger": danger}
    return View("confirm.html", title, values, data={"title": title, "plan": plan})


def sure(request: Request) -> bool:
    """Tell whether the plan was confirmed."""
    return request.text("sure") == "1"


def mark(request: Request, *found: Any) -> str:
    """Return what stands for a plan of this page in the form that confirms it."""
    return hashlib.sha256(repr((request.kept.secret, request.path, found)).encode()).hexdigest()


def unchanged(request: Request, now: str) -> None:
    """Refuse a confirmation of something else than what was shown."""
    if request.text("planned") != now:
        raise InvalidInput(
            "This has changed since the plan was shown; nothing was changed. Look at it again."
        )


def tag(request: Request) -> View | Redirect:
    """Set tags and note of a run."""
    store = request.store
    run = store.show_run(request.parts["run_id"])
    back = f"/runs/{run.run_id}"
    wanted = list(dict.fromkeys(each.strip() for each in request.text("tags").split(",") if each.strip()))
    gone = [each for each in run.tags if each not in wanted]
    new = [each for each in wanted if each not in run.tags]
    # A browser ends the lines of what a form sends with both characters.
    note = request.text("note").replace("\r\n", "\n")
    planned = mark(request, sorted(run.tags), run.note, sorted(wanted), note)
    if sure(request):
        unchanged(request, planned)
        if gone:
            store.untag_run(run.run_id, *gone)
        if new:
            store.tag_run(run.run_id, *new)
        if note != run.note:
            store.annotate_run(run.run_id, note)
        return Redirect(back)
    lines = [f"The tag {quoted(each)} would be removed." for each in gone]
    lines += [f"The tag {quoted(each)} would be added." for each in new]
    if note != run.note:
        was = f" It is {quoted(run.note)} now." if run.note else ""
        lines.append(
            f"The note would be {quoted(note)}.{was}" if note else f"The note would be removed.{was}"
        )
    if not lines:
        return Redirect(back)
    return confirm(request, f"Change the run {run.name}?", lines, "Save", back,
                   danger=False, tags=", ".join(wanted), note=note, planned=planned)  # fmt: skip


def delete(request: Request) -> View | Redirect:
    """Delete a run or a chain; it goes to the trash."""
    kind, identifier = request.text("kind"), request.text("id")
    store = request.store
    if kind == "run":
        plan: Any = store.delete_run(identifier, dry_run=True)
        back = f"/runs/{identifier}"
    elif kind == "chain":
        plan = store.delete_chain(identifier, dry_run=True)
        back = f"/chains/{identifier}"
    else:
        raise InvalidInput(f"kind: expected run or chain, found {quoted(kind)}. Nothing was changed.")
    planned = mark(
        request,
        kind,
        identifier,
        sorted(plan.rows.items()),
        sorted(plan.artifacts),
        plan.artifact_bytes,
        sorted(plan.needed_by),
    )
    if not sure(request):
        lines = [
            counted(count, name.removesuffix("s").replace("_", " "))
            for name, count in plan.rows.items()
            if count
        ]
        lines.append(
            f"{counted(len(plan.artifacts), 'stored object')} that nothing else uses, {byte_text(plan.artifact_bytes)}"
        )
        lines += [f"It is needed by {user} (its source {source})." for user, source in plan.needed_by]
        lines.append(f"It stays in the trash for {store.trash.days:g} days, and can be restored until then.")
        title = f"Delete the {kind} {plan.name or identifier}?"
        return confirm(request, title, lines, f"Delete this {kind}", back,
                       kind=kind, id=identifier, planned=planned)  # fmt: skip
    unchanged(request, planned)
    if kind == "run":
        store.delete_run(identifier)
    else:
        store.delete_chain(identifier)
    return Redirect("/trash")


def restore(request: Request) -> View | Redirect:
    """Take a deletion back."""
    trash, identifier = request.store.trash, request.text("id")
    found = [row for row in trash.list().iter_rows(named=True) if row["trash_id"] == identifier]
    if not found:
        raise UnknownId("deletion", identifier, "The trash holds no such deletion. Nothing was changed.")
    (row,) = found
    planned = mark(request, sorted(row.items(), key=lambda item: item[0]))
    if sure(request):
        unchanged(request, planned)
        trash.restore(identifier)
        return Redirect("/trash")
    lines = [
        f"{row['rows']:,} rows come back under their ids, with what they belong to where that was deleted too.",
        f"Deleted at {row['deleted_at']:%Y-%m-%d %H:%M} UTC by {row['operation']}.",
    ]
    title = f"Restore the {row['kind']} {row['name'] or row['object_id']}?"
    return confirm(
        request, title, lines, "Restore it", "/trash", danger=False, id=identifier, planned=planned
    )


def gc(request: Request) -> View | Redirect:
    """Remove stored objects that nothing names."""
    plan = request.store.gc_artifacts(dry_run=True)
    planned = mark(request, plan)
    if sure(request):
        unchanged(request, planned)
        request.store.collect_garbage()
        return Redirect("/health")
    return confirm(request, "Clean up?", str(plan).splitlines(), "Clean up", "/health", planned=planned)


def retention(request: Request) -> View | Redirect:
    """Carry out the policy: what was confirmed, not what has come to be planned since."""
    kept = request.store.retention
    plan = kept.plan()
    marks = mark(request, sorted((item.kind, item.id) for item in plan.take))
    if sure(request):
        unchanged(request, marks)
        kept.execute(plan)
        return Redirect("/retention")
    return confirm(
        request, "Carry out the policy?", str(plan).splitlines(), "Delete these", "/retention", planned=marks
    )


_ASKED = {
    "/runs/{run_id}/tag": tag,
    "/delete": delete,
    "/trash/restore": restore,
    "/gc": gc,
    "/retention/run": retention,
}
SCREENS = tuple(Screen(path, show, method="POST", changes=True) for path, show in _ASKED.items())
