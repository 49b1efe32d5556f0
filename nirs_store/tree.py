"""A chain as a tree: its steps, branches, sources, folds and artifacts, in text and in HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nirs_store.chains.folds import (
    fold_number,
    normalise_folds,
    shared_ids,
    source_map,
    step_fold_ids,
    step_ids,
)
from nirs_store.display import cell_text, escape

__all__ = ["Node", "chain_tree", "tree_html", "tree_lines"]

_DIGITS = 8


@dataclass
class Node:
    """One line of a tree and what hangs below it."""

    text: str
    below: list[Node] = field(default_factory=list)


def chain_tree(chain: Mapping[str, Any], title: str = "") -> Node:
    r"""Draw a chain, as `get_chain` gives it.

    Examples
    --------
    >>> tree = chain_tree({
    ...     "steps": [{"step_idx": 1, "operator_class": "a.MSC", "artifact_id": "0123456789"},
    ...               {"step_idx": 2, "operator_class": "b.PLS", "operator_type": "model"}],
    ...     "model_step_idx": 2, "fold_artifacts": {"final": "abcdefghij"}, "shared_artifacts": {},
    ... }, "MSC > PLS")
    >>> print("\n".join(tree_lines(tree)))
    MSC > PLS
    ├── 1 MSC  01234567
    └── 2 PLS  (model)
        └── final  abcdefgh
    """
    root = Node(title or f"chain {chain.get('chain_id') or ''}".strip())
    shared, sources = shared_ids(chain.get("shared_artifacts")), source_map(chain.get("shared_artifacts"))
    models = normalise_folds(chain.get("fold_artifacts"), "fold_artifacts")
    steps = sorted(enumerate(chain["steps"]), key=lambda item: (int(item[1]["step_idx"]), item[0]))
    branches: dict[tuple[int, ...], Node] = {(): root}
    for position, step in steps:
        index = int(step["step_idx"])
        path = tuple(step.get("branch_path") or ())
        node = _step(step, f"steps[{position}]", shared.get(index, ()), sources.get(index))
        if index == int(chain["model_step_idx"]):
            path = path or tuple(chain.get("branch_path") or ())
            node.below += _folds({fold: [_first(ids)] for fold, ids in models.items()})
        _branch(branches, path).below.append(node)
    return root


def _branch(branches: dict[tuple[int, ...], Node], path: tuple[int, ...]) -> Node:
    if path not in branches:
        branches[path] = Node(f"branch {'.'.join(map(str, path))}")
        _branch(branches, path[:-1]).below.append(branches[path])
    return branches[path]


def _step(
    step: Mapping[str, Any],
    where: str,
    shared: Sequence[str],
    sources: Mapping[int, Sequence[str]] | None,
) -> Node:
    kind = str(step.get("operator_type") or "transform")
    name = str(step.get("operator_class") or "").rpartition(".")[2] or kind
    words = [f"{step['step_idx']} {name}"]
    if params := {key: value for key, value in (step.get("params") or {}).items() if value is not None}:
        words[0] += f"({cell_text(params)})"
    if kind not in ("transform", name):
        words.append(f"({kind.replace('_', ' ')})")
    node = Node("")
    by_fold = step_fold_ids(step, where)
    if sources is not None:
        node.below = [Node(f"source {source}{_short(ids)}") for source, ids in sources.items()]
    elif by_fold:
        node.below = _folds(by_fold)
    else:
        words += [_short(step_ids(step, where) or shared).strip()]
    for source in step.get("sources") or ():
        node.below.append(chain_tree(source["chain"], f"{source.get('feature') or 'base'}:"))
    node.text = "  ".join(word for word in words if word)
    return node


def _folds(by_fold: Mapping[str, Sequence[str]]) -> list[Node]:
    found = []
    for fold, ids in by_fold.items():
        number = fold_number(fold)
        found.append(Node(f"{'final' if number is None else f'fold {number}'}{_short(ids)}"))
    return found


def _first(ids: Any) -> str:
    return str(ids[0] if isinstance(ids, list | tuple) else ids)


def _short(ids: Sequence[str]) -> str:
    return "".join(f"  {artifact_id[:_DIGITS]}" for artifact_id in ids)


def tree_lines(node: Node) -> Iterator[str]:
    """Write a tree, a line a node."""
    yield _printable(node.text)
    for place, child in enumerate(node.below):
        last = place == len(node.below) - 1
        for number, line in enumerate(tree_lines(child)):
            lead = ("└── " if last else "├── ") if number == 0 else ("    " if last else "│   ")
            yield lead + line


def _printable(text: str) -> str:
    # What a chain is made of was written by whoever recorded it; nothing of it may steer a terminal.
    return "".join(sign if sign.isprintable() else " " for sign in text)


def tree_html(node: Node) -> str:
    """Write a tree for a notebook; every text in it is escaped."""
    lines = "\n".join(escape(line) for line in tree_lines(node))
    return f'<pre style="line-height:1.2">{lines}</pre>'
