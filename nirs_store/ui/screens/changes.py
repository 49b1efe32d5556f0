"""What changes the workspace, with ``--allow-changes`` only: each shows its plan, and does it when it is confirmed."""

from __future__ import annotations

from typing import Any

from nirs_store.display import byte_text
from nirs_store.errors import InvalidInput, quoted
from nirs_store.ui.frame import Redirect, Request, Screen, View

__all__ = ["SCREENS", "confirm"]


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


def tag(request: Request) -> Redirect:
    """Set tags and note of a run."""
    store = request.store
    run = store.show_run(request.parts["run_id"])
    wanted = list(dict.fromkeys(each.strip() for each in request.text("tags").split(",") if each.strip()))
    if gone := [each for each in run.tags if each not in wanted]:
        store.untag_run(run.run_id, *gone)
    if new := [each for each in wanted if each not in run.tags]:
        store.tag_run(run.run_id, *new)
    if request.text("note") != run.note:
        store.annotate_run(run.run_id, request.text("note"))
    return Redirect(f"/runs/{run.run_id}")


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
    if not sure(request):
        lines = [f"{count:,} {name.replace('_', ' ')}" for name, count in plan.rows.items() if count]
        lines.append(
            f"{len(plan.artifacts)} stored objects that nothing else uses, {byte_text(plan.artifact_bytes)}"
        )
        lines += [f"It is needed by {user} (its source {source})." for user, source in plan.needed_by]
        lines.append(f"It stays in the trash for {store.trash.days:g} days, and can be restored until then.")
        title = f"Delete the {kind} {plan.name or identifier}?"
        return confirm(request, title, lines, f"Delete this {kind}", back, kind=kind, id=identifier)
    if kind == "run":
        store.delete_run(identifier)
    else:
        store.delete_chain(identifier)
    return Redirect("/trash")


def restore(request: Request) -> Redirect:
    """Take a deletion back."""
    request.store.trash.restore(request.text("id"))
    return Redirect("/trash")


def gc(request: Request) -> View | Redirect:
    """Remove stored objects that nothing names."""
    if sure(request):
        request.store.collect_garbage()
        return Redirect("/health")
    plan = request.store.gc_artifacts(dry_run=True)
    return confirm(request, "Clean up?", str(plan).splitlines(), "Clean up", "/health")


def retention(request: Request) -> View | Redirect:
    """Carry out the policy: what was confirmed, not what has come to be planned since."""
    kept = request.store.retention
    plan = kept.plan()
    marks = " ".join(sorted(item.id for item in plan.take))
    if sure(request):
        if request.text("planned") != marks:
            raise InvalidInput(
                "The plan has changed since it was shown; nothing was deleted. Look at it again."
            )
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
