"""A network as a graph: ``torch.export`` with any number of rows, and, where it fails, the part that made it fail."""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mtl_lightning.core.network.final import FinalNetwork
from mtl_lightning.errors import ExportError
from mtl_lightning.types import InputSpec, TensorSpec

LEAST_ROWS = 2
"""PyTorch takes sizes of 0 and 1 for constants."""


def trace(final: FinalNetwork, inputs: Any, spec: InputSpec | None) -> ExportedProgram:
    """Return the graph of a network for any number of rows, without the paths of this machine in it.

    Args:
        final: the network.
        inputs: some rows (B, *) of at least two, as in a batch.
        spec: tells which other sizes vary.

    Raises:
        ExportError: that names the part which cannot be traced, and why.
    """
    dynamic = {"inputs": _dynamic(inputs, spec)}
    with _watched(final) as culprit, quiet():
        try:
            final(inputs)  # what fails in any case fails here, in words of its own
            culprit.clear()
            program = torch.export.export(final, (inputs,), dynamic_shapes=dynamic, strict=False)
        except Exception as error:  # of torch, or of a part
            raise ExportError(_failure(final, culprit, error)) from error
    program.example_inputs = None  # would be pickled
    program._guards_code = []  # would be compiled from text; inputs are checked by `exported.Model`
    return program


def without_traces(program: ExportedProgram) -> ExportedProgram:
    """Take out of a graph what says where in which file each operator was called."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    return program


def part_of(program: ExportedProgram, operator: str) -> str:
    """Say in which part of the network an operator is called first: ``The part 'heads.a' (Linear)``."""
    for node in program.run_decompositions().graph.nodes:
        if str(node.target).startswith(operator.removesuffix(".default")) and (
            stack := node.meta.get("nn_module_stack")
        ):
            path, cls = list(stack.values())[-1]  # names, as the graph keeps them
            return f"The part {str(path).removeprefix('network.')!r} ({str(cls).rpartition('.')[2]})"
    return "The network"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep PyTorch's exporters from speaking about themselves."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# ------------------------------------------------------------------------------------------------------------ the sizes
def _dynamic(inputs: Any, spec: InputSpec | None) -> Any:
    batch = Dim("batch", min=1)
    if isinstance(inputs, dict):
        return {name: _axes(spec[name] if isinstance(spec, dict) and name in spec else None, batch) for name in inputs}
    return _axes(spec if isinstance(spec, TensorSpec) else None, batch)


def _axes(spec: TensorSpec | None, batch: Any) -> dict[int, Any]:
    varying = [] if spec is None else [axis for axis, size in enumerate(spec.shape, start=1) if size is None]
    return {0: batch, **dict.fromkeys(varying, Dim.AUTO)}


# ----------------------------------------------------------------------------------------------------- what goes wrong
class _Culprit:
    """Which part a trace is in, and the first one that made the number of rows a constant."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.fixed: str | None = None

    def clear(self) -> None:
        """Begin anew."""
        self.inside, self.fixed = [], None


@contextmanager
def _watched(final: FinalNetwork) -> Iterator[_Culprit]:
    culprit, handles = _Culprit(), []

    def enter(name: str) -> Callable[..., None]:
        return lambda _module, _inputs: culprit.inside.append(name)

    def leave(name: str) -> Callable[..., None]:
        def left(_module: nn.Module, inputs: Any, _output: Any) -> None:
            if culprit.fixed is None and any(map(_is_fixed, _tensors(inputs))):
                culprit.fixed = name
            if culprit.inside and culprit.inside[-1] == name:
                culprit.inside.pop()

        return left

    for name, module in final.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name), prepend=True))
        handles.append(module.register_forward_hook(leave(name)))
    try:
        yield culprit
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _is_fixed(tensor: Tensor) -> bool:
    """Whether the number of rows was a symbol, and has become a number."""
    rows: Any = tensor.shape[0] if tensor.dim() else 0
    return isinstance(rows, torch.SymInt) and rows.node.maybe_as_int() is not None


def _failure(final: FinalNetwork, culprit: _Culprit, error: Exception) -> str:
    text = str(error).strip()
    name = culprit.inside[-1] if culprit.inside else None
    if "dynamic" in text and "constant" in text and ("Constraints violated" in text or "specialized" in text):
        name = culprit.fixed
        why = (
            "it makes the number of rows a constant. `len(x)`, `int(x.shape[0])` and the like do so: write "
            "`x.shape[0]`, or leave the size to PyTorch (`x.flatten(1)`, `x.reshape(-1, 8)`)"
        )
    elif "data-dependent" in text:
        why = (
            "what it runs depends on values of its inputs (an `if` on a tensor, `.item()`, a mask that picks rows), so "
            "that it is no fixed graph. Write it with `torch.where`"
        )
    else:
        lines = [line for line in text.splitlines() if line.strip()]
        why = f"{type(error).__name__}: {(lines or ['without a message'])[0]:.300}"
    return f"{_named(final, name)} cannot be exported: {why.rstrip('.')}.{_place(error)}"


def _named(final: FinalNetwork, name: str | None) -> str:
    if not name or name == "network":
        return "The network"
    return f"The part {name.removeprefix('network.')!r} ({type(final.get_submodule(name)).__name__})"


def _place(error: BaseException) -> str:
    """Say where an error arose, in the last file that is not a library's."""
    seen: BaseException | None = error
    while seen is not None:
        frames = traceback.extract_tb(seen.__traceback__)
        near = [f for f in frames if "site-packages" not in f.filename and not Path(f.filename).is_relative_to(_HERE)]
        near = [f for f in near if not f.filename.startswith("<")]
        if near:
            return f" It arose in {near[-1].filename}, line {near[-1].lineno}."
        seen = seen.__cause__ or seen.__context__
    return ""


_HERE = Path(__file__).parent.parent
