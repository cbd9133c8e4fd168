"""The parser of the command line and of its YAML files."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any, NoReturn

from jsonargparse import ArgumentError, set_parsing_settings
from jsonargparse.typing import register_type
from lightning.pytorch.cli import LightningArgumentParser

from mtl_lightning.cli.messages import sentence
from mtl_lightning.core.optim.schedulers import SchedulerFunction

set_parsing_settings(instantiate_subclass_spec_in_any=False)  # only a declared type tells what may be made


def _scheduler_function(value: Any) -> SchedulerFunction:
    """Read a function by its dotted path, alone or as ``class_path`` with ``init_args``."""
    given: dict[str, Any] = {"class_path": value} if isinstance(value, str) else dict(value)
    function = resolve_name(str(given["class_path"])) if "." in str(given.get("class_path", "")) else None
    if inspect.isclass(function) or not callable(function):
        raise ValueError(f"Expected a function, found {value}")
    return SchedulerFunction.of(function, dict(given.get("init_args") or {}))


def _path_and_arguments(function: SchedulerFunction) -> dict[str, Any]:
    path = f"{function.func.__module__}.{function.func.__qualname__}"
    return {"class_path": path, **({"init_args": function.keywords} if function.keywords else {})}


register_type(
    SchedulerFunction, _path_and_arguments, _scheduler_function, (ValueError, TypeError, ImportError, AttributeError)
)


class Parser(LightningArgumentParser):
    """Says of a mistake what was meant, with the nearest valid name, and spares the reader the list of all options.

    ``LightningCLI`` and its ``SaveConfigCallback`` call methods and arguments of jsonargparse that are deprecated since
    4.49; here they lead to those that took their place.
    """

    family: list[Parser]
    """The parsers of all subcommands, whose options are the valid ones; unset in an option's own parser."""
    classes: Mapping[str, type] = MappingProxyType({})
    """The classes that sections of a configuration are the arguments of."""
    command: str | None = None
    """What the program was called to do, where that is no subcommand of its own: these options are ``fit``'s, or
    ``validate``'s."""
    instantiators: tuple[tuple[Any, type, bool], ...] = ()
    """Functions that make classes in a way of their own, each with its class and whether it makes subclasses too."""

    def add_lightning_class_args(self, lightning_class: Any, nested_key: str, *args: Any, **options: Any) -> list[str]:
        """Add a class's arguments as options, and remember whose they are."""
        self.classes = {**self.classes, nested_key: lightning_class}
        added: list[str] = super().add_lightning_class_args(lightning_class, nested_key, *args, **options)
        return added

    def format_help(self, *formatter: Any) -> str:
        """Return the help without the lists of all classes that there are, and without the usage, which repeats it."""
        usage = f"usage: {self._program} [--config FILE] [--OPTION VALUE ...]\n\n"
        text = re.sub(r"(?s)\Ausage: .*?\n\n", usage, super().format_help(*formatter))
        return re.sub(r"(?s),\s+known\s+subclasses:\s.*?(?=\)\n)", "", text)

    @property
    def _program(self) -> str:
        name = str(self.prog).replace(" [options]", "").replace("__main__.py", "mtl-lightning")
        return name if self.command is None else f"{name.removesuffix(' fit').removesuffix(' validate')} {self.command}"

    def add_instantiator(self, instantiator: Any, class_type: Any, subclasses: bool = True, **options: Any) -> None:
        """Let a function make a class."""
        self.instantiators = (*self.instantiators, (instantiator, class_type, subclasses))

    def instantiate_classes(self, cfg: Any, **options: Any) -> Any:
        """Make the objects that a configuration describes."""
        return self.instantiate(cfg, instantiators=self.instantiators, **options)

    def dump(self, *args: Any, **options: Any) -> str:
        """Write a configuration as text."""
        return str(super().dump(*args, **_with_current_names(options)))

    def save(self, *args: Any, **options: Any) -> None:
        """Write a configuration into a file."""
        super().save(*args, **_with_current_names(options))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End the program with one message; within an option's own parser, raise it."""
        if self.exit_on_error:
            self.exit(2, f"mtl-lightning: {sentence(message, self._all_keys())}\nSee {self._program} --help.\n")
        super().error(message, ex)
        raise ArgumentError(message)

    def option_keys(self) -> list[str]:
        """Return the dotted keys of all options."""
        return list(dict(self.get_defaults(skip_validation=True)))

    def _all_keys(self) -> list[str]:
        return [key for parser in getattr(self, "family", [self]) for key in parser.option_keys()]


def _with_current_names(options: dict[str, Any]) -> dict[str, Any]:
    return {"skip_unset" if name == "skip_none" else name: value for name, value in options.items()}
