"""Chain paths and the ids that are made of them, both ways.

A chain path says where in a pipeline a fitted object stands: ``s1.MSC>s2.PCA[br=0.1,src=1,sub=2]``. The id
of an artifact is ``<pipeline>$<sha256 of the path, 12 digits>:<fold or "all">``; it holds no number of a step.
Should two paths of one pipeline share those digits, the later one gets more of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nirs_store.chains.folds import REFIT, fold_key, fold_number
from nirs_store.errors import InvalidInput
from nirs_store.ids import sha256_hex

__all__ = [
    "SHORT",
    "ChainNode",
    "ParsedId",
    "chain_hash",
    "format_chain",
    "generate_artifact_id",
    "normalise_fold",
    "parse_artifact_id",
    "parse_chain",
]

SHORT = 12
"""Digits of a hash that an id shows."""

_NODE = re.compile(r"s(\d+)\.([^\s>\[\]]+?)(?:\[([^\[\]]*)\])?")
_ID = re.compile(r"(.+)\$([0-9a-f]{12,64}):(all|final|\d+)", re.DOTALL)
_WANTED = "s<step>.<Class>[br=0.1,src=1,sub=2]"


@dataclass(frozen=True, slots=True)
class ChainNode:
    """One node of a chain path: an operator at its place.

    Attributes
    ----------
    step_index : int
    class_name : str
        Without its modules.
    branch_path : tuple of int
        Empty before any branching.
    source_index, substep_index : int or None

    Examples
    --------
    >>> str(ChainNode(2, "PCA", (0, 1), source_index=1))
    's2.PCA[br=0.1,src=1]'
    """

    step_index: int
    class_name: str
    branch_path: tuple[int, ...] = ()
    source_index: int | None = None
    substep_index: int | None = None

    def __post_init__(self) -> None:
        short = self.class_name.rpartition(".")[2]
        if not re.fullmatch(r"[^\s>\[\]]+", short) or self.step_index < 0:
            raise InvalidInput(
                f"A node of a chain path is a step of at least 0 and the name of a class; found "
                f"{self.step_index!r} and {self.class_name!r}."
            )
        object.__setattr__(self, "class_name", short)
        object.__setattr__(self, "branch_path", tuple(int(branch) for branch in self.branch_path))

    def __str__(self) -> str:
        marks = []
        if self.branch_path:
            marks.append("br=" + ".".join(map(str, self.branch_path)))
        if self.source_index is not None:
            marks.append(f"src={self.source_index}")
        if self.substep_index is not None:
            marks.append(f"sub={self.substep_index}")
        return f"s{self.step_index}.{self.class_name}" + (f"[{','.join(marks)}]" if marks else "")


def format_chain(nodes: str | ChainNode | Iterable[ChainNode | str]) -> str:
    """Write a chain path; one that is text already is checked and given back.

    Examples
    --------
    >>> format_chain([ChainNode(1, "MSC"), ChainNode(3, "sklearn.decomposition.PCA")])
    's1.MSC>s3.PCA'
    """
    if isinstance(nodes, ChainNode):
        return str(nodes)
    parts = parse_chain(nodes) if isinstance(nodes, str) else nodes
    return ">".join(str(part) for part in parts)


def parse_chain(path: str) -> tuple[ChainNode, ...]:
    """Read a chain path.

    Raises
    ------
    InvalidInput
        The text is no chain path; the message names the part that is wrong.

    Examples
    --------
    >>> parse_chain("s1.MSC>s2.PCA[br=0.1]")[1].branch_path
    (0, 1)
    """
    if not isinstance(path, str):
        raise InvalidInput(f"A chain path is text such as {_WANTED}, found {type(path).__name__}.")
    return tuple(_node(part) for part in path.split(">")) if path else ()


def _node(part: str) -> ChainNode:
    found = _NODE.fullmatch(part)
    if found is None:
        raise InvalidInput(f"{part!r} is no node of a chain path; expected {_WANTED}.")
    marks: dict[str, str] = {}
    for mark in (found[3] or "").split(",") if found[3] else ():
        name, _, value = mark.partition("=")
        digits = value.replace(".", "") if name == "br" else value
        if name not in ("br", "src", "sub") or name in marks or not digits.isdecimal():
            raise InvalidInput(f"{mark!r} in the chain path {part!r} is not understood; expected {_WANTED}.")
        marks[name] = value
    branch = tuple(int(item) for item in marks["br"].split(".")) if "br" in marks else ()
    source = int(marks["src"]) if "src" in marks else None
    sub = int(marks["sub"]) if "sub" in marks else None
    return ChainNode(int(found[1]), found[2], branch, source, sub)


def chain_hash(path: str, digits: int = SHORT) -> str:
    """Hash a chain path: the first digits of its SHA-256."""
    return sha256_hex(path.encode())[:digits]


@dataclass(frozen=True, slots=True)
class ParsedId:
    """What the id of an artifact says.

    Attributes
    ----------
    pipeline_id, chain_hash : str
    fold_id : str or None
        "0", "1", …, "final"; None for an object that all folds share.
    """

    pipeline_id: str
    chain_hash: str
    fold_id: str | None


def normalise_fold(fold_id: object) -> str | None:
    """Spell a fold as ids do: "0" for ``0``, "0" and "fold_0", "final" for a refit, None for all.

    Examples
    --------
    >>> normalise_fold("fold_3"), normalise_fold("refit"), normalise_fold(None)
    ('3', 'final', None)
    """
    if fold_id is None or fold_id == "all":
        return None
    name = fold_key(fold_id)
    return "final" if name == REFIT else str(fold_number(name))


def generate_artifact_id(
    pipeline_id: str, chain: str | Sequence[ChainNode], fold_id: object = None, *, digits: int = SHORT
) -> str:
    """Make the id of an artifact from its place.

    Examples
    --------
    >>> generate_artifact_id("p1", "s1.MSC>s3.PLSRegression", 2)
    'p1$b2d93f99f6f1:2'
    """
    if not pipeline_id:
        raise InvalidInput("pipeline_id: expected the id of a pipeline, found nothing.")
    fold = normalise_fold(fold_id)
    return f"{pipeline_id}${chain_hash(format_chain(chain), digits)}:{'all' if fold is None else fold}"


def parse_artifact_id(artifact_id: str) -> ParsedId:
    """Read an id.

    Raises
    ------
    InvalidInput
        It is none.

    Examples
    --------
    >>> parse_artifact_id("p1$6f2bb0a15ee3:all")
    ParsedId(pipeline_id='p1', chain_hash='6f2bb0a15ee3', fold_id=None)
    """
    found = _ID.fullmatch(artifact_id) if isinstance(artifact_id, str) else None
    if found is None:
        raise InvalidInput(
            f"{artifact_id!r} is no id of the artifact layer; expected <pipeline>$<12 hexadecimal digits>:"
            "<fold, 'final' or 'all'>."
        )
    return ParsedId(found[1], found[2], normalise_fold(found[3]))
