"""``torch.compile`` of the network's parts, in place: the same modules, parameters and names.

A batch may have labels of some tasks only, and then only these, and what they read, are run. So that no set of tasks
needs a graph of its own, there are two ways through an architecture: all tasks together are one graph, and any other
set runs the architecture's own Python around its pieces (:meth:`.Architecture.pieces`), each of which is one graph.
Heads are compiled one by one, so that one task's backward runs its own head and no other.

With ``mode: reduce-overhead``, or whatever else makes CUDA graphs, a part's results lie in memory that its next run
writes anew. So each step says that it begins (:func:`begin_step`), and results that no backward follows are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import CodeType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch._functorch import config

from mtl_lightning.core.network.arguments import check_arguments
from mtl_lightning.core.network.network import Network
from mtl_lightning.nested import map_leaves

CompileOptions: TypeAlias = bool | dict[str, Any]
_MODES_WITH_CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
_CODES: dict[Hashable, CodeType] = {}
"""The code of each kind of part that was compiled in this process, by which PyTorch finds its graphs again."""


def checked_options(options: CompileOptions) -> CompileOptions:
    """Return the options; refuse what is none."""
    check_arguments(compile=options)
    return options


def compile_parts(network: Network, options: CompileOptions) -> None:
    """Let the architecture, its pieces and each head be compiled at their first forward; may be called again.

    A graph may be differentiated more than once, task by task, which PyTorch's default compiler refuses unless it keeps
    the graph's buffers (``donated_buffer``, a switch for the whole process, which is set here).

    Args:
        network: the network.
        options: the arguments of ``torch.compile``; True for its defaults, False to leave everything as it is.
    """
    if options is False:
        return
    config.donated_buffer = False  # as the error says to do: there is no public name
    architecture, pieces = network.architecture, network.architecture.pieces()
    parts: list[nn.Module] = [*pieces, *network.heads.values()]
    if len(pieces) != 1 or len(list(pieces[0].parameters())) < len(list(architecture.parameters())):
        parts.append(architecture)  # with one piece, all that it adds is the dict of features
    for part in parts:
        compiled = torch.compile(_entry(part), **(options if isinstance(options, Mapping) else {}))
        # what `Module.compile` sets, too; that would leave PyTorch's own layers uncompiled
        part._compiled_call_impl = _copying(compiled) if _replays(options) else compiled


def begin_step(options: CompileOptions) -> None:
    """Say that nothing which compiled parts gave before, gradients apart that are cleared first, is needed any more."""
    if _replays(options):
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # torch leaves it untyped


def _replays(options: CompileOptions) -> bool:
    """Whether parts may become CUDA graphs."""
    if not isinstance(options, Mapping):
        return False
    switch = (options.get("options") or {}).get("triton.cudagraphs", False)
    return bool(switch) or options.get("mode") in _MODES_WITH_CUDA_GRAPHS


def _copying(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Let results without gradients, which metrics and callbacks keep, be copies."""

    def call(*arguments: Any, **options: Any) -> Any:
        results = compiled(*arguments, **options)
        if torch.is_grad_enabled():
            return results
        return map_leaves(lambda value: value.clone() if isinstance(value, Tensor) else value, results)

    return call


def _entry(part: nn.Module) -> Callable[..., Any]:
    """Return a function that calls a part, with code of its own for each kind of part.

    PyTorch keeps what it compiled per code object, 8 graphs of each, so that heads of nine sizes, which are one class
    and so one code, would not all be compiled. Parts that look the same share their code, and their graphs.
    """

    def entry(*arguments: Any, **options: Any) -> Any:
        return part._call_impl(*arguments, **options)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    kind = (repr(part), *((name, p.shape, p.requires_grad) for name, p in part.named_parameters()))
    entry.__code__ = _CODES.setdefault(kind, entry.__code__.replace())
    return entry
