"""Say of a module whether it comes with an installed package, what it says, and whether that is what runs."""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import importlib.util
import linecache
import os
import site
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_SIMPLE = (bool, int, float, complex, str, bytes, type(None))
_MAIN = ("__main__", "__mp_main__")

Kind = Literal["installed", "user", "value"]


# -- Where code comes from.


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    named = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    named += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple({os.path.realpath(path) + os.sep for path in named})


_kinds: dict[str, tuple[Any, Kind]] = {}


def kind_of(name: object) -> Kind:
    """Tell whether a module is installed, of the user's and importable, or reachable by value only."""
    if not isinstance(name, str) or name in _MAIN:
        return "installed" if name is None else "value"
    module = sys.modules.get(name)
    known = _kinds.get(name)
    if known is None or known[0] is not module:
        known = _kinds[name] = (module, _find_kind(name, module))
    return known[1]


_listed: tuple[tuple[int, str], list[str]] = ((0, ""), [])


def user_modules() -> list[str]:
    """List the loaded modules outside installed packages that can be imported by name."""
    global _listed
    names = list(sys.modules)
    mark = (len(names), names[-1])
    if _listed[0] != mark:
        _listed = (mark, [name for name in names if kind_of(name) == "user"])
    return _listed[1]


def _find_kind(name: str, module: Any) -> Kind:
    if module is None:
        return "value"
    top = name.partition(".")[0]
    if top == "nirs_store" or top in sys.builtin_module_names:
        return "installed"
    file, spec = getattr(module, "__file__", None), getattr(module, "__spec__", None)
    if file is None:
        # Frozen modules and namespace packages have a spec; what a program put into sys.modules has none.
        return "installed" if spec is not None else "value"
    real = os.path.realpath(file)
    parts = Path(real).parts
    if "site-packages" in parts or "dist-packages" in parts or real.startswith(_installed_folders()):
        return "installed"
    return "user" if _importable(top) else "value"


def _importable(top: str) -> bool:
    # sys.modules is not asked: a file that was loaded by its path is there, and no other process finds it.
    return any(finder.find_spec(top, None) is not None for finder in sys.meta_path)


# -- What a module says now.


@dataclass(frozen=True)
class State:
    """What a module is now: hashes of its file, if that runs, and of what runs; its file; what it imports."""

    source: str | None
    running: str
    file: str
    text: str | None
    imports: tuple[str, ...]


Token = list[tuple[str, Any]]
_states: dict[str, tuple[Token, Any, State]] = {}


def running(names: Iterable[str]) -> list[Token]:
    """Return what runs in some modules, to be compared later: equal as long as none of it was replaced."""
    return [_live(sys.modules.get(name)) for name in names]


def state_of(name: str) -> State:
    """Return what a module is now; looked at closely only where file or functions are others than before."""
    module = sys.modules.get(name)
    token, stamp = _live(module), _stamp(module)
    known = _states.get(name)
    if known is None or known[0] != token or known[1] != stamp:
        known = _states[name] = (token, stamp, _look(name, module, token))
    return known[2]


def _file_of(module: Any) -> str:
    return str(getattr(module, "__file__", None) or "")


def _stamp(module: Any) -> Any:
    try:
        found = os.stat(_file_of(module))
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _look(name: str, module: Any, token: Token) -> State:
    digest = hashlib.sha256(f"{sys.implementation.cache_tag}".encode())
    for key, value in token:
        digest.update(f"\0{key}={_value_digest(value)}".encode())
    live = f"{sys.implementation.cache_tag}:{digest.hexdigest()[:32]}"
    file = _file_of(module)
    imports = set(_named_in(module))
    text, source = _read(name, module), None
    if text is not None:
        try:
            tree = ast.parse(text)
            compiled = compile(text, file, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            text = None  # the file is being edited; what runs is known
        else:
            imports |= set(_imported(tree, module))
            namespace = vars(module) if module is not None else None
            if namespace is None or _runs(tree.body, compiled, namespace):
                source = _tree_digest(tree)
            else:
                text = None
    elif file and os.path.isfile(file):
        source = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:32]  # compiled by another language
    others = sorted(other for other in imports if other != name and kind_of(other) == "user")
    return State(source, live, file, text, tuple(others))


def _read(name: str, module: Any) -> str | None:
    loader: Any = getattr(getattr(module, "__spec__", None), "loader", None)
    if not hasattr(loader, "get_source"):
        return None
    try:
        found: str | None = loader.get_source(name)
    except (ImportError, OSError):
        return None
    return found


def _named_in(module: Any) -> Iterator[str]:
    for value in list(vars(module).values()) if module is not None else ():
        name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str):
            yield name


def _imported(tree: ast.Module, module: Any) -> Iterator[str]:
    """List the loaded modules that a file imports, those of functions included."""
    package = getattr(module, "__package__", None) or ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            if node.level:
                try:
                    base = importlib.util.resolve_name(base, package)
                except ImportError:
                    continue
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name in sys.modules)


# -- Hashes.


def _tree_digest(tree: ast.Module) -> str:
    digest = hashlib.sha256()
    _feed(tree, digest.update)
    return digest.hexdigest()[:32]


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _feed(node: Any, update: Callable[[bytes], None]) -> None:
    """Hash a syntax tree in a form that Python versions share: empty fields and positions are left out."""
    if isinstance(node, ast.Constant):
        update(f"{type(node.value).__name__}:{node.value!r};".encode("utf-8", "surrogatepass"))
        return
    if isinstance(node, ast.AST):
        update(f"({type(node).__name__}".encode())
        for name in node._fields:
            value = getattr(node, name, None)
            if value is None or value == [] or name in ("ctx", "type_comment"):
                continue
            if name == "body" and isinstance(node, _DOCUMENTED) and _is_docstring(value[0]):
                value = value[1:]
            update(f" {name}=".encode())
            _feed(value, update)
        update(b")")
    elif isinstance(node, list):
        for each in node:
            _feed(each, update)
    else:
        update(f"{node!r};".encode())


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _value_digest(value: Any) -> str:
    return _code_digest(value) if isinstance(value, types.CodeType) else f"{type(value).__name__}:{value!r}"


@functools.lru_cache(maxsize=4096)
def _code_digest(code: types.CodeType) -> str:
    """Hash what a function does, without its place in the file and its docstring."""
    digest = hashlib.sha256(code.co_code)
    digest.update(repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)).encode())
    digest.update(repr((code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount)).encode())
    for place, each in enumerate(code.co_consts):
        # The first constant of a function is its docstring, or is also used where it is not a docstring.
        text = place == 0 and isinstance(each, str) and 0 not in _constants_used(code)
        digest.update(f"\0{'' if text else _constant(each)}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _constants_used(code: types.CodeType) -> set[int]:
    return {i.arg for i in dis.get_instructions(code) if i.opcode in dis.hasconst and i.arg is not None}


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return _code_digest(value)
    if isinstance(value, frozenset):
        return f"frozenset{sorted(map(_constant, value))}"
    if isinstance(value, tuple):
        return f"({','.join(map(_constant, value))})"
    return f"{type(value).__name__}:{value!r}"


def _live(module: Any) -> Token:
    """List the functions and plain values of a module as they are now, those of its classes included."""
    if module is None:
        return []
    found: Token = []
    _collect(dict(vars(module)), module.__name__, "", found, set())
    codes = [value for _, value in found if isinstance(value, types.CodeType)]
    counters = set().union(*map(_globals_set, codes)) if codes else set()
    return [(key, value) for key, value in found if key not in counters]


@functools.lru_cache(maxsize=4096)
def _globals_set(code: types.CodeType) -> frozenset[str]:
    """Names of the module that a function gives new values to: counters and caches, not code."""
    return frozenset(i.argval for i in dis.get_instructions(code) if i.opname == "STORE_GLOBAL")


def _collect(namespace: Mapping[str, Any], module: str, prefix: str, found: Token, seen: set[int]) -> None:
    for name, value in namespace.items():
        if name.startswith("__") and isinstance(value, (*_SIMPLE, tuple)):
            continue
        key = prefix + name
        if isinstance(value, _SIMPLE) or (
            isinstance(value, tuple) and all(isinstance(v, _SIMPLE) for v in value)
        ):
            found.append((key, value))
        elif isinstance(value, type):
            if value.__module__ == module and id(value) not in seen:
                seen.add(id(value))
                _collect(vars(value), module, f"{key}.", found, seen)
        else:
            for place, function in enumerate(_functions(value, module, seen)):
                found.append((f"{key}#{place}" if place else key, function.__code__))
                defaults = (function.__defaults__ or ()) + tuple((function.__kwdefaults__ or {}).values())
                if all(isinstance(each, _SIMPLE) for each in defaults) and defaults:
                    found.append((f"{key}#{place}()", defaults))


def _functions(value: Any, module: str, seen: set[int]) -> Iterator[types.FunctionType]:
    """List the functions of a module that a value leads to: wrapped, partial, of a property, in a closure."""
    if id(value) in seen:
        return
    if isinstance(value, types.FunctionType):
        if value.__module__ != module:
            return
        seen.add(id(value))
        yield value
        inside = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        inside.append(getattr(value, "__wrapped__", None))
    elif isinstance(value, property):
        inside = [value.fget, value.fset, value.fdel]
    else:
        inside = [getattr(value, name, None) for name in ("__func__", "func", "__wrapped__")]
    for each in inside:
        if each is not None and not isinstance(each, type):
            yield from _functions(each, module, seen)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _runs(body: list[ast.stmt], compiled: types.CodeType, namespace: Mapping[str, Any]) -> bool:
    """Tell whether a file says what is running, as far as functions, classes and plain values show it."""
    inside = {each.co_name: each for each in compiled.co_consts if isinstance(each, types.CodeType)}
    counters = {
        name
        for node in body
        for each in ast.walk(node)
        if isinstance(each, ast.Global)
        for name in each.names
    }
    # Of a name that is bound twice only the last one shows.
    last: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            last[node.name] = node
        elif (
            isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
        ):
            last[node.targets[0].id] = node
    for name, node in last.items():
        value = namespace.get(name)
        if name in counters or value is None:
            continue
        if isinstance(node, ast.Assign):
            try:
                stated = ast.literal_eval(node.value)
            except (ValueError, TypeError, SyntaxError):
                continue
            if (
                isinstance(value, _SIMPLE)
                and isinstance(stated, _SIMPLE)
                and _constant(value) != _constant(stated)
            ):
                return False
        elif isinstance(node, ast.ClassDef):
            if isinstance(value, type) and name in inside and not _runs(node.body, inside[name], vars(value)):
                return False
        elif name in inside:
            known = _functions(value, _module_of(namespace, value), set())
            functions = [each for each in known if each.__name__ == name]
            if functions and _code_digest(inside[name]) not in {
                _code_digest(each.__code__) for each in functions
            }:
                return False
            if functions and not _same_defaults(node, functions):
                return False
    return True


def _module_of(namespace: Mapping[str, Any], value: Any) -> str:
    return str(namespace.get("__name__") or namespace.get("__module__") or getattr(value, "__module__", ""))


def _same_defaults(node: Any, functions: list[types.FunctionType]) -> bool:
    try:
        stated = tuple(ast.literal_eval(each) for each in node.args.defaults)
    except (ValueError, TypeError, SyntaxError):
        return True
    return any(_constant(stated) == _constant(each.__defaults__ or ()) for each in functions)


def source_of(value: Any) -> str | None:
    """Return the source of a class or function, found by its code; None where no file or cell has it."""
    found: Token = []
    _collect({value.__name__: value}, value.__module__, "", found, set())
    for _, code in found:
        if not isinstance(code, types.CodeType):
            continue
        text = "".join(linecache.getlines(code.co_filename))
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        nodes: Iterable[Any] = ast.walk(tree)
        for node in nodes:
            named = isinstance(node, _DOCUMENTED[1:]) and node.name == value.__name__
            if (named or (value.__name__ == "<lambda>" and isinstance(node, ast.stmt))) and (
                (first := _first_line(node)) <= code.co_firstlineno <= (node.end_lineno or 0)
            ):
                return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return None


def _first_line(node: Any) -> int:
    return min([int(node.lineno), *(int(each.lineno) for each in getattr(node, "decorator_list", ()))])


def state_of_file(name: str) -> State | None:
    """Read a module that is not loaded, unless finding it would import its package."""
    if "." in name and name.rpartition(".")[0] not in sys.modules:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    loader: Any = spec.loader if spec is not None else None
    if spec is None or not hasattr(loader, "get_source"):
        return None
    try:
        text = loader.get_source(name)
        source = None if text is None else _tree_digest(ast.parse(text))
    except (ImportError, OSError, SyntaxError, ValueError):
        source = None
    return State(source, "", str(spec.origin or ""), None, ())
