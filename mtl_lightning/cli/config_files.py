"""Config files, looked at before the parser sees them: mistakes that it would take for something else, or not see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # it ships no types

from mtl_lightning.names import did_you_mean
from mtl_lightning.types import ConfigurationError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PART = ("class_path", "init_args", "dict_kwargs")
_FLAGS = ("--config", "-c")


def given(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the config files that a command line names."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):  # of none there is none
        flag, equals, value = argument.partition("=")
        if flag in _FLAGS:
            yield value if equals else following


def check(path: str, sections: Sequence[str], options: Sequence[str]) -> None:
    """Refuse a config file that cannot be read, or is no mapping of sections.

    Args:
        path: as given; what is no file is left to the parser, which takes YAML itself, too.
        sections: keys of which each has options of its own.
        options: all keys that there may be.

    Raises:
        ConfigurationError: that names the file, and mostly the line.
    """
    file = Path(path)
    try:
        if not file.is_file() and not path.endswith((".yaml", ".yml")):
            return
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path}: expected a config in UTF-8, found a byte that is not ({error.reason}, at byte {error.start}). "
            "Save it as UTF-8."
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{path}: expected a config file, found none to read: {error.strerror}.") from error
    try:
        tree = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"{path}{_where(error)}: expected YAML, found an error of syntax: {_what(error)}."
        ) from error
    if not isinstance(tree, yaml.MappingNode):
        found = "nothing" if tree is None else f"a {tree.id}"
        raise ConfigurationError(f"{path}: expected a mapping of sections ({', '.join(sections)}), found {found}.")
    for key, value in tree.value:
        if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith(":str") or key.value not in options:
            name = key.value if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
            raise ConfigurationError(
                f"{path}, line {_line(key)}: expected one of the sections {', '.join(options)}, found {name!r}."
                f"{did_you_mean(name, options)}"
            )
        if key.value in sections and not _may_be_section(value):
            raise ConfigurationError(
                f"{path}, line {_line(value)}: `{key.value}`: expected a mapping of its options, found "
                f"{value.value if isinstance(value, yaml.ScalarNode) else f'a {value.id}'!r}."
            )
    _check_tree(tree, path, "", set())


def _may_be_section(node: yaml.Node) -> bool:
    if isinstance(node, yaml.ScalarNode):  # a file with the options, or nothing
        return node.tag.endswith(":null") or Path(node.value).is_file()
    return isinstance(node, yaml.MappingNode)


def _check_tree(node: yaml.Node, path: str, place: str, done: set[int], above: Sequence[yaml.Node] = ()) -> None:
    """Refuse keys that are given twice, and classes whose parts are not what they should be."""
    if node in above:
        raise ConfigurationError(
            f"{path}, line {_line(node)}: `{place}`: expected an end, found an alias inside itself."
        )
    if id(node) in done:  # it has several names
        return
    done.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, entry in enumerate(node.value):
            _check_tree(entry, path, f"{place}.{index}", done, [*above, node])
    if not isinstance(node, yaml.MappingNode):
        return
    _check_part(node, path, place)
    seen: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigurationError(
                f"{path}, line {_line(key)}: `{place}`: expected names for keys, found a {key.id}."
            )
        name = str(key.value)
        here = f"{place}.{name}" if place else name
        if name in seen and name != "<<":
            raise ConfigurationError(
                f"{path}, line {_line(key)}: `{here}`: expected each key once, found it on line {seen[name]}, too: the "
                "second would replace the first."
            )
        seen[name] = _line(key)
        if name == "class_path" and not (isinstance(value, yaml.ScalarNode) and value.tag.endswith(":str")):
            found = value.value if isinstance(value, yaml.ScalarNode) else f"a {value.id}"
            raise ConfigurationError(
                f"{path}, line {_line(key)}: `{here}`: expected the name of a class, found {found!r}."
            )
        if name in ("init_args", "dict_kwargs") and not _is_mapping(value):
            found = value.value if isinstance(value, yaml.ScalarNode) else f"a {value.id}"
            raise ConfigurationError(
                f"{path}, line {_line(key)}: `{here}`: expected a mapping of arguments, found {found!r}."
            )
        _check_tree(value, path, here, done, [*above, node])


def _check_part(node: yaml.MappingNode, path: str, place: str) -> None:
    """Refuse what stands beside a ``class_path`` or ``init_args`` and is neither."""
    names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    others = [name for name in names if name not in _PART]
    if others and len(others) < len(names) and "<<" not in names:
        raise ConfigurationError(
            f"{path}, line {_line(node)}: `{place}.{others[0]}`: expected {', '.join(_PART)} alone, found "
            f"{others[0]!r} beside them.{did_you_mean(others[0], _PART)}"
        )


def _is_mapping(node: yaml.Node) -> bool:
    return isinstance(node, yaml.MappingNode) or node.tag.endswith(":null")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _where(error: yaml.YAMLError) -> str:
    mark: Any = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"


def _what(error: yaml.YAMLError) -> str:
    parts: Mapping[str, Any] = vars(error)
    said = [str(parts[name]) for name in ("context", "problem", "reason") if parts.get(name)]
    return ", ".join(said) or str(error).splitlines()[0]
