"""The parser of the command line and of its YAML files."""

from __future__ import annotations

from typing import Any, NoReturn

from jsonargparse import ArgumentError, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser

from mtl_lightning.cli.messages import hints

set_parsing_settings(instantiate_subclass_spec_in_any=False)  # only a declared type tells what may be made


class Parser(LightningArgumentParser):
    """Adds the nearest valid names to messages about unknown ones, and spares the reader the list of all options.

    ``LightningCLI`` and its ``SaveConfigCallback`` call methods and arguments of jsonargparse that are deprecated since
    4.49; here they lead to those that took their place.
    """

    family: list[Parser]
    """The parsers of all subcommands, whose options are the valid ones; unset in an option's own parser."""
    instantiators: tuple[tuple[Any, type, bool], ...] = ()
    """Functions that make classes in a way of their own, each with its class and whether it makes subclasses too."""

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
        full = "\n".join([message, *hints(message, self._keys())])
        if self.exit_on_error:
            self.exit(2, f"error: {full}\nSee {self.prog} --help.\n")
        super().error(full, ex)
        raise ArgumentError(full)

    def _keys(self) -> list[str]:
        return [
            key for parser in getattr(self, "family", [self]) for key in dict(parser.get_defaults(skip_validation=True))
        ]


def _with_current_names(options: dict[str, Any]) -> dict[str, Any]:
    return {"skip_unset" if name == "skip_none" else name: value for name, value in options.items()}
