"""The program: a command of Lightning's, or one of ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import ArgsType
from lightning.pytorch.utilities import rank_zero_only

from mtl_lightning.cli import calibrate, config_files, export, failures, lr_find, serve
from mtl_lightning.cli.command_line import MultiTaskCLI
from mtl_lightning.cli.compare import compare
from mtl_lightning.cli.parser import Parser
from mtl_lightning.cli.tune import tune

STUDIES: dict[str, Callable[..., Path]] = {"compare": compare, "tune": tune}
"""Commands that run many trials, by their names."""


def main(args: ArgsType = None, cli: type[MultiTaskCLI] = MultiTaskCLI) -> None:
    """Run the command line, or a subclass of it; an error ends it with one message.

    Classes of the user's own are found in the current folder, as under ``python -m``, and beside the config files.
    """
    arguments = sys.argv[1:] if args is None else args if isinstance(args, list) else []
    _find_modules(arguments)
    try:
        if arguments and arguments[0] in STUDIES:
            _study(arguments[0], arguments[1:], cli)
        elif arguments and arguments[0] == "lr-find":
            lr_find.main([*arguments[1:]], cli)
        elif arguments and arguments[0] == "calibrate":
            calibrate.main([*arguments[1:]], cli)
        elif arguments and arguments[0] == "export":
            export.main([*arguments[1:]])
        elif arguments and arguments[0] == "serve":
            serve.main([*arguments[1:]])
        else:
            cli(args=args)
    except Exception as error:
        if failures.TRACEBACK in os.environ:
            raise
        rank = getattr(rank_zero_only, "rank", 0)
        process = f", process {rank}" if rank else ""
        sys.exit(f"mtl-lightning{process}: {failures.sentence(error)}")


def _find_modules(arguments: Sequence[str]) -> None:
    beside = (str(Path(file).resolve().parent) for file in config_files.given(arguments))
    sys.path[:0] = [] if {"", os.getcwd()} & {*sys.path} else [os.getcwd()]
    sys.path += [folder for folder in dict.fromkeys(beside) if folder not in sys.path]


def _study(command: str, arguments: Sequence[str], cli: type[MultiTaskCLI]) -> None:
    """Run a command of ours: its options are its function's arguments, on the command line or in a file."""
    function = STUDIES[command]
    parser = Parser(prog=f"mtl-lightning {command}", description=str(function.__doc__).partition("\n")[0])
    parser.add_argument("-c", "--config", action="config", help="Path to a file with these options.")
    parser.add_function_arguments(function, skip={"cli"})
    files = list(config_files.given(arguments))
    for file in files:
        config_files.check(file, [], parser.option_keys())
    config = parser.parse_args(list(arguments))
    options = {name: value for name, value in config.as_dict().items() if name != "config"}
    folders = [Path(file).parent for file in files]
    options["base"] = _found(options["base"], folders)
    if options.get("entries"):
        options["entries"] = {name: _found(given, folders) for name, given in options["entries"].items()}
    given = options["base"] if isinstance(options["base"], list) else [options["base"]]
    _find_modules([part for file in given if isinstance(file, str) for part in ("--config", file)])
    function(**options, cli=cli)


def _found(base: Any, folders: Sequence[Path]) -> Any:
    """Return the paths of configs, which may be relative to the file that names them."""
    if isinstance(base, list):
        return [_found(one, folders) for one in base]
    if not isinstance(base, str):
        return base
    return next((str(folder / base) for folder in folders if (folder / base).is_file()), base)
