"""Runs of the command line that must end in one message: what was said, and whether it is one."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml  # type: ignore[import-untyped]  # it ships no types

from mtl_lightning.cli import main

LINES = 6
"""How many lines a message may have."""
CONFIG: dict[str, Any] = {
    "data": {
        "class_path": "SyntheticRegression",
        "init_args": {"n": 40, "n_val": 20, "n_test": 20, "batch_size": 20},
    },
    "model": {
        "architecture": {
            "class_path": "SharedBottom",
            "init_args": {"encoder": {"class_path": "MLP", "init_args": {"hidden": [4]}}},
        },
        "optimizers": {"default": {"class_path": "Adam", "init_args": {"lr": 0.01}}},
    },
    "trainer": {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
}
"""A run of two updates, to be spoilt."""
GONE = object()
"""A value that takes its key away."""


@dataclass(frozen=True)
class End:
    """How a run of the command line ended.

    Attributes:
        code: its status.
        said: its last message, from ``mtl-lightning:`` on; all of its standard error if there is none.
        whole: its standard error.
        shown: its standard output.
    """

    code: int
    said: str
    whole: str
    shown: str = ""

    def assert_one_message(self, *words: str) -> None:
        """Check that it failed with one message of a few lines, in which all the words are."""
        assert self.code != 0, f"ended well, with {self.whole[-500:]!r}"
        assert "Traceback" not in self.whole, self.whole[-3000:]
        assert self.said.startswith("mtl-lightning"), self.whole[-3000:]
        assert len(self.said.splitlines()) <= LINES, self.said
        for word in words:
            assert word in self.said, f"{word!r} is not in {self.said!r}"


def spoilt(key: str, value: Any, config: dict[str, Any] = CONFIG) -> dict[str, Any]:
    """Return a copy of a config in which a dotted key has another value, or none."""
    changed: dict[str, Any] = copy.deepcopy(config)
    *path, last = key.split(".")
    inner: Any = changed
    for name in path:
        inner = inner[int(name)] if isinstance(inner, list) else inner.setdefault(name, {})
    if value is GONE:
        del inner[last]
    else:
        inner[int(last) if isinstance(inner, list) else last] = value
    return changed


def run(config: Any, *options: str, subcommand: str = "fit", file: str = "config.yaml") -> End:
    """Run the command line on a config, which is a dict, text, or bytes, written into the current folder."""
    text = yaml.safe_dump(config, sort_keys=False) if isinstance(config, dict) else config
    Path(file).write_bytes(text if isinstance(text, bytes) else text.encode())
    return run_arguments([subcommand, "--config", file, *options])


def run_arguments(arguments: Sequence[str]) -> End:
    """Run the command line in this process, and leave the process as it was."""
    errors, shown, code = io.StringIO(), io.StringIO(), 0
    with _as_before(arguments), contextlib.redirect_stderr(errors), contextlib.redirect_stdout(shown):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            errors.write(end.code if isinstance(end.code, str) else "")
    whole = errors.getvalue()
    return End(code, whole[max(0, whole.find("mtl-lightning: ")) :].strip(), whole, shown.getvalue())


@contextmanager
def _as_before(arguments: Sequence[str]) -> Iterator[None]:
    with mock.patch.object(sys, "argv", ["mtl-lightning", *arguments]), mock.patch.object(sys, "path", [*sys.path]):
        modules = {*sys.modules}
        try:
            yield
        finally:
            here = os.getcwd() + os.sep
            for name in {*sys.modules} - modules:
                if str(getattr(sys.modules[name], "__file__", "")).startswith(here):
                    del sys.modules[name]
