"""The commands beside ``fit``, ``validate``, ``test`` and ``predict``: each a module with ``main(arguments, cli)``.

A module is imported when its command is run, so that no other command waits for what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

COMMANDS = {
    "lr-find": "mtl_lightning.cli.lr_find",
}


def command_of(arguments: Sequence[str]) -> Callable[[list[str], Any], None] | None:
    """Return what runs the command that some arguments begin with, given the others and the class of the command line.

    None if they begin with none of these.
    """
    if not arguments or arguments[0] not in COMMANDS:
        return None
    run: Callable[[list[str], Any], None] = import_module(COMMANDS[arguments[0]]).main
    return run
