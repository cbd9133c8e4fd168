"""What the command line says of a mistake in a config: one sentence, from the parser's tree of all that it tried.

The parser tries a value as each type that an option may have, and reports all failures, indented. Here the failure that
got furthest is taken to be the one that was meant; its place is looked up in the value that the parser shows.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

import torch

from mtl_lightning import architectures, balancing, callbacks, data, tasks
from mtl_lightning.names import nearest

LONGEST = 400  # characters of a line

_UNION = re.compile(r"Does not validate against any of the Union subtypes\nSubtypes: .*?\nErrors:\n(.*)", re.S)
_END = re.compile(r"\n *Given value type: [^\n]*\n *Given value: ([^\n]*)\Z")
_KEY = re.compile(r'Parser key "([^"]*)"[^:\n]*:[ ]*\n?(.*)', re.S)
_CLASS = re.compile(r"Problem with given class_path '([^']*)':\n(.*)", re.S)
_FUNCTION = re.compile(r"Type (?:.*?) expects a function or a callable class: (.*)", re.S)
_SHOWN = re.compile(r"\.? Got value: (.*)\Z", re.S)
_MADE = re.compile(r"\A(?:Namespace\(|\{)'?class_path'?[=:] ?'([\w.]+)'")
_UNKNOWN = re.compile(
    r"(?:Option|Key|option|key) '([\w.]+)' is not|does not accept option '([\w.]+)'|but got \{'(\w+)'"
)
_ARGUMENTS = re.compile(r"[Uu]nrecognized arguments: --([\w.]+)")
_REQUIRED = re.compile(r"the following arguments are required: (.*)")
_TYPE = re.compile(r"Expected a (?:<class '(?:[\w.]*\.)?(\w+)'>|typing\.(Literal\[.*\]))")
_NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)()")
_TWICE = re.compile(r"Multiple subclasses with name (\w+)()\. Give the full class path to avoid ambiguity: ([\w., ]+)")
_NO_PATH = re.compile(r"- Expected a path but [^\n]*\n *- (.*)", re.S)
_NO_MEMBER = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
_MODULE = re.compile(r"No module named '([\w.]+)'()")
_NOTHING = re.compile(
    r"Expected a (<class 'NoneType'>|typing\.Literal\[None\])|Subclasses are disabled|Not of type .*: Expected a func"
)
_OTHER_CLASS = re.compile(
    r"(?:Expected|Import path) '?([\w.]+)'? (?:to be a subclass of|does not correspond to a subclass of)"
)


@dataclass(frozen=True)
class Failure:
    """Why a value could not be what an option wants.

    Attributes:
        text: what the parser says, without the trees around it.
        weight: how likely it is that this was meant; the larger, the more.
        keys: the dotted keys that lead to it, as far as the parser tells.
        owner: the dotted path of the class that was being made.
        shown: the value that the parser shows, as text.
    """

    text: str
    weight: int
    keys: tuple[str, ...] = ()
    owner: str = ""
    shown: str = ""


# ----------------------------------------------------------------------------------------------- the parser's own words
def failure_of(message: str) -> Failure:
    """Return the failure, in a tree of them, that was probably meant."""
    text = _dedented(message)
    if found := _NO_PATH.match(text):  # which text may also be
        text = _dedented(found[1])
    if found := _KEY.match(text):
        inner = failure_of(found[2])
        return Failure(inner.text, inner.weight + 4, (found[1], *inner.keys), inner.owner, inner.shown)
    if found := _CLASS.match(text):
        inner = failure_of(found[2])
        return Failure(inner.text, inner.weight + 1, inner.keys, inner.owner or found[1], inner.shown)
    if found := _FUNCTION.match(text):
        inner = failure_of(found[1])
        return Failure(inner.text, inner.weight, inner.keys, inner.owner or _made(_shown(text)), inner.shown)
    if found := _UNION.match(text):
        return _of_union(found[1])
    shown = _shown(text)
    said = _SHOWN.sub("", text)
    return Failure(said, _weight(said), shown=shown)


def _dedented(text: str) -> str:
    """Return a message whose first line may stand further left than those that belong to it."""
    first, newline, rest = text.strip("\n").partition("\n")
    return f"{first.strip()}{newline}{textwrap.dedent(rest)}".strip()


def _of_union(body: str) -> Failure:
    end = _END.search(body)
    value = end[1].partition(". Got value: ")[0] if end else ""
    branches = [failure_of(branch) for branch in _branches(body[: end.start()] if end else body)]
    best = max(branches, key=lambda branch: branch.weight)
    if branches and all(_TYPE.match(branch.text) and not branch.keys for branch in branches):
        best = Failure(f"expected {' or '.join(_type_name(branch.text) for branch in branches)}", best.weight)
    return Failure(best.text, best.weight, best.keys, best.owner or _made(value), best.shown or value)


def _branches(body: str) -> Iterator[str]:
    """Yield the entries of an indented list, each without its dash."""
    lines = textwrap.dedent(body).splitlines()
    entry: list[str] = []
    for line in lines:
        if line.startswith("- ") and entry:
            yield "\n".join(entry).removeprefix("- ")
            entry = []
        entry.append(line)
    if entry:
        yield "\n".join(entry).removeprefix("- ")


def _shown(text: str) -> str:
    found = _SHOWN.search(text)
    return found[1].splitlines()[0].partition(". Got value: ")[0] if found else ""


def _type_name(text: str) -> str:
    found = _TYPE.match(text)
    return "" if found is None else (found[1] or f"one of {found[2][7:]}").replace("NoneType", "null")


def _made(value: str) -> str:
    found = _MADE.match(value)
    return found[1] if found else ""


def _weight(text: str) -> int:
    """Return how far a type got before it failed: those that are not even of the value's kind come last."""
    kinds: tuple[tuple[int, re.Pattern[str]], ...] = (
        (6, _UNKNOWN),
        (6, _TWICE),
        (6, re.compile("has no option|needs .*found none")),
        (6, _REQUIRED),
        (5, _MODULE),
        (5, _NO_MEMBER),
        (0, _NOTHING),
        (4, _NO_CLASS),
        (1, _OTHER_CLASS),
        (2, re.compile("Not a valid subclass|argument of type|has no attribute")),
    )
    return next((weight for weight, pattern in kinds if pattern.search(text)), 3)


# ------------------------------------------------------------------------------------------------------ one of our own
def sentence(message: str, keys: Iterable[str]) -> str:
    """Say what is wrong in one line or two: where, what was expected, what was found, and the nearest name.

    Args:
        message: what the parser says.
        keys: the dotted keys of all options.
    """
    failure = failure_of(message)
    options = {part for key in keys for part in key.split(".")} | {"class_path", "init_args"}
    said = failure.text
    said = re.sub(r"\ANot of type \w+: ", "", said)
    if found := _UNKNOWN.search(said) or _ARGUMENTS.search(said):
        said = _unknown(next(filter(None, found.groups())), failure.owner, options)
    elif (found := _REQUIRED.search(said)) and failure.owner:
        said = f"{_short(failure.owner)} needs {found[1]}, found none"
        if found[1].startswith("optimizer"):
            said += "; under the short names SequentialLR and ChainedScheduler schedulers get that of their group"
    elif found:
        missing = "`, `".join(name.partition(".")[2] or name for name in found[1].split(", "))
        return f"`{missing}`: expected a value, found none: it is required."
    elif found := _TWICE.search(said):
        paths = " or ".join(found[3].strip(" .").split(", "))
        said = f"expected one class, found several that are called {found[1]!r}. Name one in full: {paths}"
    elif found := _NO_CLASS.search(said):
        said = _no_class(found[1] or found[2])
    elif found := _NO_MEMBER.search(said):
        said = f"found no {found[2]!r} in the module {found[1]!r}{_member(*found.groups())}"
    elif found := _MODULE.search(said):
        said = f"found no module {found[1]!r}; it is looked for beside the config file and in the current folder"
    elif found := _TYPE.match(said):
        said = f"expected {_type_name(said)}, found {failure.shown}"
    elif said.startswith(("Not a valid subclass of", "Expected an import path or a subclass spec")):
        shown = failure.shown or said.rpartition(" but got ")[2]
        said = f"expected a class, by its name or as `class_path` with `init_args`, found {shown}"
    elif said.startswith("expected ") and failure.shown:
        said += f", found {failure.shown}"
    elif failure.owner and not said.startswith("Expected") and " has no option " not in said and " needs " not in said:
        said = f"{_short(failure.owner)} cannot be made: {said}"
    place = _place(failure, message)
    lines = [line.strip() for line in said.strip().splitlines() if line.strip()][:3]
    text = "\n".join(textwrap.shorten(line, LONGEST, placeholder=" ...") for line in lines)
    return f"{f'`{place}`: ' if place else ''}{text}{'' if text.endswith(('.', '?')) else '.'}"


def _unknown(name: str, owner: str, options: set[str]) -> str:
    name = next((part for part in name.split(".") if part not in options), name)
    known = _arguments(owner) or options
    known = known - {"self", "args", "kwargs"}
    near = nearest(name, known | {"class_path", "init_args"} if owner else known, cutoff=0.6 if owner else 0.7)
    whose = f"{_short(owner)} has no option" if owner else "there is no option"
    if near is None and owner:
        return f"{whose} {name!r}, only {', '.join(sorted(known))}"
    return f"{whose} {name!r}{'' if near is None else f': did you mean {near!r}?'}"


def _no_class(name: str) -> str:
    packages = (architectures, balancing, callbacks, data, tasks, torch.optim, torch.optim.lr_scheduler)
    near = nearest(name.rpartition(".")[2], {n for package in packages for n in package.__all__}, cutoff=0.7)
    hint = "" if near is None else f": did you mean {near!r}?"
    return f"found no class {name!r}{hint or '.'} One of your own is named with its module, `module.{name}`"


def _member(module: str, name: str) -> str:
    near = nearest(name, dir(sys.modules.get(module)))
    return "" if near is None else f": did you mean {near!r}?"


def _short(path: str) -> str:
    return path.rpartition(".")[2]


def _arguments(path: str) -> set[str]:
    try:
        return set(inspect.signature(resolve_name(path)).parameters) if path else set()
    except (ImportError, AttributeError, ValueError, TypeError):
        return set()


# ---------------------------------------------------------------------------------------------------------- its place
def _place(failure: Failure, message: str) -> str:
    """Return the dotted key of a failure: what the parser says of it, completed from the value that it shows."""
    found = _END.search(message.rstrip())
    tree = _plain(found[1]) if found else None
    unknown = _UNKNOWN.search(failure.text)
    if not failure.keys:
        unknown = unknown or _ARGUMENTS.search(failure.text)
        return next(filter(None, unknown.groups())) if unknown else ""
    name = next(filter(None, unknown.groups())).partition(".")[0] if unknown else ""
    named = next(filter(None, (kind.search(failure.text) for kind in (_NO_CLASS, _MODULE, _TWICE))), None)
    for path, value in _entries(tree):
        is_unknown = name and path[-1] == name
        is_class = not name and failure.owner and isinstance(value, Mapping) and _is_class(value, failure.owner)
        lacks = is_class and _REQUIRED.search(failure.text)
        is_shown = not name and failure.shown and failure.shown in (repr(value), str(value))
        is_named = named and isinstance(value, str) and f"{value}.".startswith(f"{named[1] or named[2]}.")
        if is_unknown or lacks or is_shown or is_named:
            return ".".join([failure.keys[0], *path])
    return ".".join(failure.keys)


def _is_class(value: Mapping[str, Any], owner: str) -> bool:
    return _short(str(value.get("class_path", ""))) == _short(owner)


def _entries(tree: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield all that is inside a nested value, with the keys that lead to it; the innermost come last."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        yield (*path, str(key)), value
        yield from _entries(value, *path, str(key))


def _plain(text: str) -> Any:
    """Read the parser's way to show a value, with objects as ``Namespace(key=value)``; None where it is no data."""
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Dict):
        keys = [str(_value(key)) for key in node.keys if key is not None]
        return dict(zip(keys, map(_value, node.values), strict=True))
    if isinstance(node, ast.Call):
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(entry) for entry in node.elts]
    return float(node.id) if isinstance(node, ast.Name) and node.id in ("nan", "inf") else ast.literal_eval(node)
