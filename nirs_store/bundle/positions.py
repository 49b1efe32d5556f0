"""What each attribute of an accepted class may hold, from ``attributes.json``.

The file lists the attributes of every class that a safe bundle may hold, and the kind of value of each attribute. A
kind is a text: alternatives between ``|``, each one of

- a word in quotes, which is that text: ``'auto'``;
- a name from `_ATOMS` or from "kinds" in the file: ``number``, ``estimator``;
- ``[kind]`` a list, ``{kind}`` a dict with such values, ``(kind, kind)`` a tuple, ``(kind...)`` one of any length;
- ``<name>`` an object of a class listed under "parts".

The tree of a payload is matched (``schema.json`` of skops), so nothing is imported or made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from nirs_store.errors import SerializationError

Node = Mapping[str, Any]
Arrays = Mapping[str, tuple[str, tuple[int, ...], Any]]
"""Member to the kind of its dtype, its shape, and the array itself."""


def _words(text: str, *modules: str) -> frozenset[str]:
    """Return the full names of words in modules."""
    return frozenset(f"{module}.{word}" for module in modules for word in text.split())


MOST_JOBS = 64
MOST_VERBOSE = 10
SCALARS = _words(
    "bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 longdouble intc uintc "
    "longlong ulonglong complex64 complex128",
    "numpy",
)
#: Functions of one array that only compute; a model may apply them to spectra or targets.
FUNCTIONS = _words(
    "absolute arccos arccosh arcsin arcsinh arctan arctanh cbrt cos cosh deg2rad degrees exp exp2 expm1 fabs log log10 "
    "log1p log2 negative positive rad2deg radians reciprocal sign sin sinh sqrt square tan tanh",
    "numpy",
    "numpy._core._multiarray_umath",
    "numpy.core._multiarray_umath",
) | _words(
    "expit exp10 exp2 log_expit logit",
    "scipy.special",
    "scipy.special._ufuncs",
    "scipy.special._special_ufuncs",
)
#: Functions that rank channels; they are called in fitting only.
SCORES = _words(
    "f_classif f_regression r_regression chi2", "sklearn.feature_selection._univariate_selection"
) | _words("mutual_info_classif mutual_info_regression", "sklearn.feature_selection._mutual_info")
_KFOLDS = _words("KFold StratifiedKFold", "sklearn.model_selection._split")
#: Types as values: of numbers, and the two that repeated splitters name.
TYPES = SCALARS | {"builtins.float", "builtins.int"} | _KFOLDS
LOSSES = _words(
    "EpsilonInsensitive Hinge Huber Log ModifiedHuber SquaredEpsilonInsensitive SquaredHinge SquaredLoss",
    "sklearn.linear_model._sgd_fast",
) | _words(
    "CyAbsoluteError CyExponentialLoss CyHalfBinomialLoss CyHalfGammaLoss CyHalfMultinomialLoss CyHalfPoissonLoss "
    "CyHalfSquaredError CyHalfTweedieLoss CyHalfTweedieLossIdentity CyHuberLoss CyPinballLoss",
    "sklearn._loss._loss",
)
RANDOM_STATES = frozenset({"numpy.random.mtrand.RandomState", "numpy.random.RandomState"})
TRIPLET = "sklearn.impute._iterative._ImputerTriplet"
_NUMERIC = "biufc"


# -- The file.


class _Accepted(NamedTuple):
    kinds: Mapping[str, str]
    attributes: Mapping[str, str]
    classes: Mapping[str, frozenset[str]]
    parts: Mapping[str, frozenset[str]]


@cache
def _accepted() -> _Accepted:
    held = json.loads(Path(__file__).with_name("attributes.json").read_text(encoding="utf-8"))
    listed = [
        {name: frozenset(text.split()) for name, text in held[key].items()} for key in ("classes", "parts")
    ]
    return _Accepted(held["kinds"], held["attributes"], *listed)


def _short(name: str) -> str | None:
    """Leave out private modules, which move from one version to the next; None where others are in between."""
    parts = name.split(".")
    # __init__ and __main__ would run a package a second time, or its program.
    if len(parts) < 3 or not all(part.startswith("_") and part[1:2] != "_" for part in parts[2:-1]):
        return None
    return f"{parts[0]}.{parts[1]}.{parts[-1]}"


def is_accepted(name: str) -> bool:
    """Tell whether the list has this class as an estimator."""
    return _short(name) in _accepted().classes


def is_part(name: str) -> bool:
    """Tell whether the list has this class as a part of estimators."""
    return _short(name) in _accepted().parts


def kinds_of(name: str) -> Mapping[str, str] | None:
    """Return the attributes of a class and their kinds, or None for a class that is not listed."""
    short, file = _short(name), _accepted()
    if short is None or (names := file.classes.get(short, file.parts.get(short))) is None:
        return None
    last = short.rpartition(".")[2]
    return {key: file.attributes.get(f"{last}.{key}", file.attributes[key]) for key in names}


# -- Reading a kind.

_TOKEN = re.compile(r"\s*('[^']*'|\.\.\.|<[\w.]+>|[A-Za-z_]+|[|,\[\](){}])")


@cache
def parse_kind(text: str) -> tuple[Any, ...]:
    """Parse a kind into its alternatives, each a pair of what it is and its contents."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != re.sub(r"\s+(?=(?:[^']*'[^']*')*[^']*$)", "", text):
        raise SerializationError(f"attributes.json holds the kind {text!r}, which cannot be read.")
    found, rest = _alternatives(tokens)
    if rest:
        raise SerializationError(
            f"attributes.json holds the kind {text!r}, which goes on after its end: {rest}."
        )
    return found


def _alternatives(tokens: list[str]) -> tuple[tuple[Any, ...], list[str]]:
    found: list[tuple[str, Any]] = []
    while True:
        first, tokens = tokens[0], tokens[1:]
        if first in ("[", "{"):
            inner, tokens = _alternatives(tokens)
            found.append((first, inner))
            tokens = tokens[1:]
        elif first == "(":
            items, endless = [], False
            while tokens[0] != ")":
                inner, tokens = _alternatives(tokens)
                items.append(inner)
                endless = endless or tokens[0] == "..."
                tokens = tokens[1:] if tokens[0] in (",", "...") else tokens
            found.append(("(...", items[0]) if endless else ("(", tuple(items)))
            tokens = tokens[1:]
        elif first.startswith("'"):
            found.append(("'", first[1:-1]))
        elif first.startswith("<"):
            found.append(("<", first[1:-1]))
        else:
            found.append(("name", first))
        if not tokens or tokens[0] != "|":
            return tuple(found), tokens
        tokens = tokens[1:]


# -- Matching nodes.


def fits(node: Node, kind: str, arrays: Arrays, named: frozenset[str] | set[str]) -> bool:
    """Tell whether a node is of a kind."""
    return _Match(arrays, named).any(node, parse_kind(kind))


class _Match:
    def __init__(self, arrays: Arrays, named: frozenset[str] | set[str]) -> None:
        self.arrays = arrays
        self.named = named

    def any(self, node: Node, kinds: tuple[Any, ...]) -> bool:
        return any(self.one(node, what, inner) for what, inner in kinds)

    def one(self, node: Node, what: str, inner: Any) -> bool:
        loader, name = node["__loader__"], name_of(node)
        if what == "name":
            atom = _ATOMS.get(inner)
            return atom(self, node) if atom else self.any(node, parse_kind(_accepted().kinds[inner]))
        if what == "'":
            return bool(loader == "JsonNode" and value_of(node) == inner)
        if what == "<":
            return loader == "ObjectNode" and (_short(name) or "").endswith(f".{inner}") and is_part(name)
        if what == "{":
            return loader == "DictNode" and all(self.any(child, inner) for child in node["content"].values())
        children = node.get("content")
        if what == "[":
            return loader == "ListNode" and all(self.any(child, inner) for child in children or ())
        if loader != "TupleNode" or name != "builtins.tuple" or not isinstance(children, list):
            return False
        if what == "(...":
            return all(self.any(child, inner) for child in children)
        return len(children) == len(inner) and all(map(self.any, children, inner))

    def plain(self, node: Node, *, texts: bool) -> bool:
        """Match what is made of numbers, switches and None alone, or of texts as well."""
        loader = node["__loader__"]
        if loader == "JsonNode":
            return texts or not isinstance(value_of(node), str)
        if loader == "NdArrayNode" and node.get("type") == "numpy":
            return self.arrays[node["file"]][0] in (_NUMERIC + "US" if texts else _NUMERIC)
        if loader == "DictNode":
            return name_of(node) == "builtins.dict" and all(
                self.plain(child, texts=texts) for child in node["content"].values()
            )
        if loader in ("ListNode", "TupleNode", "SetNode", "NdArrayNode"):
            return name_of(node) != TRIPLET and all(
                self.plain(child, texts=texts) for child in node["content"]
            )
        return bool(loader == "SliceNode")

    def number(self, node: Node) -> bool:
        if node["__loader__"] == "JsonNode":
            return isinstance(value_of(node), int | float)
        return self.array(node) and self.arrays[node["file"]][1] == ()

    def array(self, node: Node) -> bool:
        numpy = node["__loader__"] == "NdArrayNode" and node.get("type") == "numpy"
        return bool(numpy) and self.arrays[node["file"]][0] in _NUMERIC

    def text(self, node: Node) -> bool:
        if node["__loader__"] == "NdArrayNode" and node.get("type") == "numpy":
            return self.arrays[node["file"]][:2] == ("U", ())
        return node["__loader__"] == "JsonNode" and isinstance(value_of(node), str)

    def estimator(self, node: Node) -> bool:
        return node["__loader__"] == "ObjectNode" and (is_accepted(name_of(node)) or self.unlisted(node))

    def unlisted(self, node: Node) -> bool:
        return node["__loader__"] == "ObjectNode" and name_of(node) in self.named

    def function(self, node: Node, known: frozenset[str]) -> bool:
        name = name_of(node)
        return node["__loader__"] == "FunctionNode" and (name in known or name in self.named)

    def dtype(self, node: Node) -> bool:
        if node["__loader__"] == "TypeNode":
            return name_of(node) in TYPES - _KFOLDS
        return node["__loader__"] == "DTypeNode" and self.plain(node["content"], texts=True)

    def random(self, node: Node) -> bool:
        """Match the state of the generator that scikit-learn keeps: 624 words and a place among them."""
        if node["__loader__"] != "RandomStateNode" or name_of(node) not in RANDOM_STATES:
            return False
        state = _dict(node.get("content"))
        inner = _dict(state.get("state"))
        if set(state) != {"bit_generator", "state", "has_gauss", "gauss"} or set(inner) != {"key", "pos"}:
            return False
        pos, has = (_number(part) for part in (inner["pos"], state["has_gauss"]))
        key = inner["key"]
        return bool(
            state["bit_generator"]["__loader__"] == "JsonNode"
            and value_of(state["bit_generator"]) == "MT19937"
            and self.array(key)
            and self.arrays[key["file"]][2].dtype.str[1:] == "u4"
            and self.arrays[key["file"]][1] == (624,)
            and pos is not None
            and 0 <= pos <= 624
            and has in (0, 1)
            and _number(state["gauss"]) is not None
        )

    def loss(self, node: Node) -> bool:
        if node["__loader__"] != "LossNode" or name_of(node) not in LOSSES:
            return False
        args: Any = node["__reduce__"]["args"]
        content: Any = node.get("content")
        empty = isinstance(content, dict) and content["__loader__"] in ("DictNode", "TupleNode")
        return bool(
            args["__loader__"] == "TupleNode"
            and len(args["content"]) <= 2
            and all(_number(child) is not None for child in args["content"])
            and empty
            and not content["content"]
        )

    def triplet(self, node: Node) -> bool:
        """Match what an iterative imputer keeps of each column: two sets of columns and an estimator."""
        parts = node.get("content")
        return bool(
            node["__loader__"] == "TupleNode"
            and name_of(node) == TRIPLET
            and isinstance(parts, list)
            and len(parts) == 3
            and all(self.plain(part, texts=False) for part in parts[:2])
            and self.estimator(parts[2])
        )


def contradiction(name: str, state: Mapping[str, Any], arrays: Arrays) -> str | None:
    """Name an attribute that contradicts others of its object where compiled code would not notice."""
    # An encoder makes a sparse matrix of as many columns as `_n_features_outs` says, and writes where its categories
    # are.
    if _short(name) != "sklearn.preprocessing.OneHotEncoder" or not {"categories_", "_n_features_outs"} & set(
        state
    ):
        return None
    rare = _is_json(state.get("_infrequent_enabled"), True)
    if not rare and not _is_json(state.get("_infrequent_enabled"), False):
        return "_infrequent_enabled"
    categories_of = _children(state.get("categories_"))
    grouped = _children(state.get("_default_to_infrequent_mappings"))
    first_rare = _children(state.get("_infrequent_indices"))
    if rare and not len(grouped) == len(first_rare) == len(categories_of):
        return "_default_to_infrequent_mappings"
    dropped = _children(state.get("_drop_idx_after_grouping"))
    columns = _children(state.get("_n_features_outs"))
    for place, categories in enumerate(categories_of):
        items, count = _children(categories), 0
        if categories.get("type") == "numpy":
            kind, shape, values = arrays[categories["file"]]
            items = values.ravel().tolist()
            # Numbers are looked for by halving: they have to be in order, a missing one last.
            numbers = items[:-1] if kind == "f" and items and items[-1] != items[-1] else items
            if len(shape) != 1 or kind not in "biufUS" or (kind in "biuf" and not _increasing(numbers)):
                return "categories_"
        count = len(items)
        if rare:
            # An unknown value becomes the first rare one, and goes through the mapping: without one it goes anywhere.
            if _is_none(grouped[place]) != _is_none(first_rare[place]):
                return "_infrequent_indices"
            groups = None if _is_none(grouped[place]) else _groups(grouped[place], count, arrays)
            if not _is_none(grouped[place]) and groups is None:
                return "_default_to_infrequent_mappings"
            count = groups or count
        if dropped:
            drop = _number(dropped[place]) if place < len(dropped) else -1
            if drop is not None and not 0 <= drop < count:
                return "_drop_idx_after_grouping"
            count -= drop is not None
        if place >= len(columns) or not _is_json(columns[place], count):
            return "_n_features_outs"
    return None if len(categories_of) == len(columns) else "_n_features_outs"


def _groups(node: Any, count: int, arrays: Arrays) -> int | None:
    """Count the columns that `count` categories are grouped into; None where the mapping is none of places."""
    if node["__loader__"] != "NdArrayNode" or node.get("type") != "numpy":
        return None
    kind, shape, values = arrays[node["file"]]
    if kind not in "iu" or shape != (count,) or not count or values.min() < 0 or values.max() >= count:
        return None
    return int(values.max()) + 1


def _increasing(values: Any) -> bool:
    return all(first < second for first, second in pairwise(values))


def _children(node: Any) -> Any:
    content = node.get("content") if isinstance(node, dict) else None
    return content if isinstance(content, list) else []


def _is_json(node: Any, value: Any) -> bool:
    if not isinstance(node, dict) or node["__loader__"] != "JsonNode":
        return False
    found = value_of(node)
    return type(found) is type(value) and bool(found == value)


def name_of(node: Node) -> str:
    """Return the full name of what a node makes."""
    return f"{node['__module__']}.{node['__class__']}"


def value_of(node: Node) -> Any:
    """Return the value of a node of plain JSON."""
    return json.loads(node["content"])


def _dict(node: Any) -> Any:
    return node["content"] if isinstance(node, dict) and node.get("__loader__") == "DictNode" else {}


def _number(node: Node) -> float | None:
    value = value_of(node) if node["__loader__"] == "JsonNode" else None
    return value if isinstance(value, int | float) else None


def _quiet(match: _Match, node: Node) -> bool:
    """Match how much an estimator prints while it is fitted or used: that is all that the number does."""
    value = value_of(node) if node["__loader__"] == "JsonNode" else -1
    return value is None or (isinstance(value, int) and 0 <= value <= MOST_VERBOSE)


def _is_none(node: Any) -> bool:
    return isinstance(node, dict) and node["__loader__"] == "JsonNode" and value_of(node) is None


_ATOMS: dict[str, Callable[[_Match, Node], bool]] = {
    "none": lambda _, node: node["__loader__"] == "JsonNode" and value_of(node) is None,
    "flag": lambda _, node: node["__loader__"] == "JsonNode" and isinstance(value_of(node), bool),
    "number": _Match.number,
    "quiet": _quiet,
    "text": _Match.text,
    "array": _Match.array,
    "data": lambda match, node: match.plain(node, texts=False),
    "labels": lambda match, node: match.plain(node, texts=True),
    "slice": lambda _, node: node["__loader__"] == "SliceNode",
    "empty": lambda _, node: node["__loader__"] == "DictNode" and not node["content"],
    "estimator": _Match.estimator,
    "unlisted": _Match.unlisted,
    "function": lambda match, node: match.function(node, FUNCTIONS),
    "score": lambda match, node: match.function(node, SCORES),
    "dtype": _Match.dtype,
    "kfold": lambda _, node: node["__loader__"] == "TypeNode" and name_of(node) in _KFOLDS,
    "random": _Match.random,
    "loss": _Match.loss,
    "tree": lambda _, node: node["__loader__"] == "TreeNode",
    "triplet": _Match.triplet,
}
