"""``torch.compile`` of the network's parts, in place: the same modules, parameters and names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from torch import nn
from torch._functorch import config

from mtl_lightning.core.network.arguments import check_arguments
from mtl_lightning.core.network.network import Network

CompileOptions: TypeAlias = bool | dict[str, Any]


def checked_options(options: CompileOptions) -> CompileOptions:
    """Return the options; refuse what is none."""
    check_arguments(compile=options)
    return options


def compile_parts(network: Network, options: CompileOptions) -> None:
    """Let the architecture and each head be compiled at their first forward; may be called again.

    Part by part, so that one task's backward runs its own head and no other; heads of one class and size share their
    code. A graph may be differentiated more than once, task by task, which PyTorch's default compiler refuses unless
    it keeps the graph's buffers (``donated_buffer``, a switch for the whole process, which is set here).

    Args:
        network: the network.
        options: the arguments of ``torch.compile``; True for its defaults, False to leave everything as it is.
    """
    if options is False:
        return
    config.donated_buffer = False  # as the error says to do: there is no public name
    parts: list[nn.Module] = [network.architecture, *network.heads.values()]
    for part in parts:
        part.compile(**(options if isinstance(options, Mapping) else {}))
