"""Objects anew from the plain data that :mod:`~mtl_lightning.describe` made of them, by the types of constructors.

A dict with a ``class_path`` becomes what the argument's type asks for: under ``Callable[..., Base]`` a factory, a
partial of the class; under a class an instance. The class must be a subclass of that type and one that the caller's
:class:`~mtl_lightning.trust.Trust` has; under ``Any``, or without a type, nothing is made. Text names a function only
under ``Callable``. Nothing else is imported, made or called.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from mtl_lightning.describe import describe
from mtl_lightning.errors import NotDescribableError
from mtl_lightning.trust import Trust, TrustAll

__all__ = ["rebuild", "unbuildable"]

Made = TypeVar("Made")
_PLAIN: tuple[type, ...] = (bool, int, float, str, type(None))
_CONTAINERS: tuple[type, ...] = (list, tuple, dict, set, frozenset, Mapping, Sequence, Iterable)
_ANYTHING = (
    object,
    type(None),
    bool,
    int,
    float,
    str,
    bytes,
    list,
    tuple,
    dict,
    set,
    frozenset,
    Mapping,
    Sequence,
    Iterable,
)


def rebuild(
    cls: type[Made], described: Mapping[str, Any], trust: Trust, given: Mapping[str, Any] | None = None
) -> Made:
    """Make an instance of a class.

    Args:
        cls: the class, which is not looked up.
        described: its arguments as plain data.
        trust: which classes and functions they may name.
        given: arguments that are what they are, used in place of the described ones.

    Raises:
        NotDescribableError: for what may not, or cannot, be made; says which argument. A constructor's own errors pass.
    """
    given = given or {}
    rest = {name: value for name, value in described.items() if name not in given}
    return cls(**_Builder(trust).arguments(cls, rest, ""), **given)


def unbuildable(cls: type, described: Mapping[str, Any], trust: Trust | None = None) -> dict[str, str]:
    """Return the arguments that :func:`rebuild` could not make, each with the reason; nothing is made or called.

    Args:
        cls: the class.
        described: its arguments as plain data.
        trust: which classes and functions they may name; by default what another program that imports them has.
    """
    builder, reasons = _Rehearsal(TrustAll() if trust is None else trust), {}
    for name, value in described.items():
        try:
            builder.arguments(cls, {name: value}, "")
        except NotDescribableError as error:  # noqa: PERF203  # once per run
            reasons[name] = str(error)
    return reasons


class _Builder:
    """Makes values of plain data by the types that they must have."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust

    def arguments(self, cls: type, described: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Make the arguments of a constructor."""
        made = {}
        for name, value in described.items():
            place = f"{where}.{name}" if where else str(name)
            hints, defaults = _parameter(cls, name)
            standard = [d for d in defaults if isinstance(value, str | dict) and _is_described_by(d, value)]
            made[name] = standard[0] if standard else self.value(value, place, *hints or (Any,))
        return made

    def call(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Make an instance."""
        return function(**arguments)

    def value(self, value: Any, where: str, *hints: Any) -> Any:
        """Make one value, of the first of some types that can be."""
        options, errors = [option for hint in hints for option in _options(hint)], []
        if isinstance(value, str):  # the name of a function is text as well
            options.sort(key=lambda option: _kind(option) is not Callable)
        for option in options:
            try:
                return self._by(value, option, where)
            except _RefusedError as error:  # noqa: PERF203  # once per file
                errors.append(error)
        raise max(errors, key=lambda error: error.depth)  # of the branch that came nearest

    def _by(self, value: Any, hint: Any, where: str) -> Any:
        kind = _kind(hint)
        if kind is Literal and value not in get_args(hint):
            raise _RefusedError(where, f"one of {list(get_args(hint))}, found {value!r:.60}")
        if isinstance(value, dict) and "class_path" in value:
            return self._part(value, hint, kind, where)
        if isinstance(value, dict):
            return self._mapping(value, hint, kind, where)
        if isinstance(value, list | tuple):
            return self._sequence(value, hint, kind, where)
        if not isinstance(value, _PLAIN):
            raise _RefusedError(where, f"plain data, found {type(value).__name__}")
        if isinstance(value, str) and kind in (Callable, type):
            return self._trusted(self._trust.the_function, value, where)
        if isinstance(value, str) and inspect.isclass(kind) and not isinstance(value, kind):
            if issubclass(Path, kind):
                return Path(value)
            raise _RefusedError(where, f"a {kind.__name__}, found the text {value!r:.60}")
        return value

    def _part(self, value: Mapping[str, Any], hint: Any, kind: Any, where: str) -> Any:
        """Make an instance, or a factory, of a class."""
        path, described = value["class_path"], value.get("init_args", {})
        if not set(value) <= {"class_path", "init_args"} or not isinstance(described, dict):
            raise _RefusedError(where, f"a class_path with init_args, found {_keys(value)}")
        if inspect.isclass(kind) and issubclass(kind, functools.partial):
            function = self._trusted(self._trust.the_function, path, where)
            return kind(function, **{name: self.value(one, f"{where}.{name}", Any) for name, one in described.items()})
        bases = _bases(hint, kind)
        if not bases and kind not in (Callable, type):
            raise _RefusedError(where, f"plain data, since its type is not declared, found {path!r}")
        cls = self._trusted(self._trust.the_class if bases else self._trust.the_function, path, where)
        if bases and not any(_is_subclass(cls, base) for base in bases):
            raise _RefusedError(where, f"a {' or '.join(b.__name__ for b in bases)}, found {path}, which is none")
        if kind is type:
            return cls
        arguments = self.arguments(cls, described, where)
        if kind is Callable:
            return functools.partial(cls, **arguments) if arguments else cls
        try:
            return self.call(cls, arguments)
        except TypeError as error:  # the class has changed
            found = f"the arguments of {path}, found {list(arguments)}: {error}"
            raise _RefusedError(where, found, further=1) from error

    def _mapping(self, value: Mapping[Any, Any], hint: Any, kind: Any, where: str) -> Any:
        fields = getattr(kind, "__dataclass_fields__", None) or getattr(kind, "_fields", None)
        if inspect.isclass(kind) and fields and set(value) <= set(fields):
            return self.call(kind, self.arguments(kind, value, where))
        if kind is Callable or (inspect.isclass(kind) and not issubclass(dict, kind)):
            raise _RefusedError(where, f"a {getattr(kind, '__name__', kind)}, found {_keys(value)}")
        key, entry = get_args(hint) if len(get_args(hint)) == 2 else (Any, Any)
        names = {k: int(k) if key is int and str(k).isdecimal() and len(str(k)) < 20 else k for k in value}
        return {names[k]: self.value(v, f"{where}.{k}", entry) for k, v in value.items()}

    def _sequence(self, value: Iterable[Any], hint: Any, kind: Any, where: str) -> Any:
        values, inside = list(value), get_args(hint)
        if inspect.isclass(kind) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return self.call(kind, self.arguments(kind, dict(zip(kind._fields, values, strict=False)), where))
        if kind is Callable or (
            inspect.isclass(kind) and kind is not object and (kind is str or not issubclass(kind, Iterable))
        ):
            raise _RefusedError(where, f"a {getattr(kind, '__name__', kind)}, found a list")
        fixed = kind is tuple and inside and inside[-1] is not Ellipsis
        if fixed and len(inside) != len(values):
            raise _RefusedError(where, f"{len(inside)} values, found {len(values)}")
        hints = inside if fixed else [inside[0] if inside else Any] * len(values)
        made = [self.value(v, f"{where}[{i}]", h) for i, (v, h) in enumerate(zip(values, hints, strict=True))]
        return kind(made) if kind in (tuple, set, frozenset) else made

    def _trusted(self, find: Callable[[Any], Any], path: Any, where: str) -> Any:
        try:
            return find(path)
        except NotDescribableError as error:
            raise _RefusedError(where, str(error).removeprefix("Expected ").removesuffix(".")) from error


class _Rehearsal(_Builder):
    """Goes through all types and classes, and makes nothing."""

    def call(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Make nothing."""
        return None


class _RefusedError(NotDescribableError):
    """Says where; the deepest one tells what a user meant."""

    def __init__(self, where: str, what: str, further: int = 0) -> None:
        super().__init__(f"`{where}`: expected {what}.")
        self.depth = where.count(".") + where.count("[") + further


# ---------------------------------------------------------------------------------------------------------------- types
def _parameter(cls: type, name: str) -> tuple[list[Any], list[Any]]:
    """Return the types, none of them ``Any``, that a class and its bases give an argument, and the defaults."""
    hints, defaults = [], []
    for base in cls.__mro__:
        function: Any = base.__dict__.get("__init__") or base.__dict__.get("__new__")
        function = inspect.unwrap(getattr(function, "__func__", function)) if function else None
        try:
            parameter = inspect.signature(function).parameters.get(name)
        except (TypeError, ValueError):  # no function of Python
            continue
        if parameter is None or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        hints += [_evaluated(function, parameter.annotation)]
        defaults += [] if parameter.default is parameter.empty else [parameter.default]
    return [hint for hint in hints if hint is not Any], defaults


def _evaluated(function: Any, annotation: Any) -> Any:
    """Return an annotation, by itself, so that one that cannot be evaluated spoils no other."""
    if annotation is inspect.Parameter.empty:
        return Any
    holder: Any = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, getattr(function, "__globals__", {}))["it"]
    except Exception:  # whatever a user's annotation raises, such as a NameError under TYPE_CHECKING
        return Any


def _options(hint: Any) -> Iterator[Any]:
    """Yield the alternatives of a type."""
    origin = get_origin(hint)
    if origin is Union or origin is types.UnionType:
        for inner in get_args(hint):
            yield from _options(inner)
    elif origin is typing.Annotated:
        yield from _options(get_args(hint)[0])
    elif isinstance(hint, typing.NewType):
        yield from _options(hint.__supertype__)
    else:
        yield object if hint is Any or isinstance(hint, TypeVar) else hint


def _kind(hint: Any) -> Any:
    """Return a type without what stands in brackets."""
    return get_origin(hint) or hint


def _bases(hint: Any, kind: Any) -> list[type]:
    """Return the classes, one of which a class must be a subclass of; none where any could be meant."""
    inside = get_args(hint)
    if kind is Callable:
        inside = inside[1:] if len(inside) == 2 else ()
    elif kind is not type:
        inside = (kind,)
    found = [_kind(option) for one in inside for option in _options(one)]
    return [one for one in found if inspect.isclass(one) and one not in (object, bytes, *_PLAIN, *_CONTAINERS)]


def _is_subclass(cls: Any, base: type) -> bool:
    try:
        return inspect.isclass(cls) and issubclass(cls, base)
    except TypeError:  # of a protocol that does not say so
        return False


def _keys(value: Mapping[Any, Any]) -> str:
    return f"a dict with the keys {sorted(map(str, value))[:8]}"


def _is_described_by(default: Any, value: Any) -> bool:
    """Whether a default is what plain data describes, so that nothing needs to be looked up."""
    if isinstance(default, _PLAIN):
        return False
    try:
        return bool(describe(default) == value)
    except NotDescribableError:
        return False
