"""What the command line says of a mistake in a config."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch

from mtl_lightning import architectures, balancing, callbacks, data, tasks
from mtl_lightning.names import nearest

_UNKNOWN_OPTION = (
    r"[Oo]ption '([\w.]+)'|[Kk]ey '([\w.]+)' is not|[Uu]nrecognized arguments: --([\w.]+)|but got {'(\w+)'"
)
_UNKNOWN_CLASS = r"import path string: (\w+)|has no attribute '(\w+)'"
"""How the parser speaks of names that it does not know."""


def hints(message: str, keys: Iterable[str]) -> list[str]:
    """Name the nearest valid name for each unknown one in a message; ``keys`` are the dotted ones of all options."""
    options = {part for key in keys for part in key.split(".")} | {"class_path", "init_args"}
    packages = (architectures, balancing, callbacks, data, tasks, torch.optim, torch.optim.lr_scheduler)
    classes = {name for package in packages for name in package.__all__}
    found_hints = []
    for pattern, valid in ((_UNKNOWN_OPTION, options), (_UNKNOWN_CLASS, classes)):
        unknown = {part for match in re.findall(pattern, message) for name in match for part in name.split(".")}
        for name in sorted(unknown - valid - {""}):
            near = nearest(name, valid, cutoff=0.7)
            found_hints += [] if near is None else [f"{name!r}: did you mean {near!r}?"]
    return found_hints
