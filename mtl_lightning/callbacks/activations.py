"""The activations of a network, what feeds each of them, and which of their units fire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mtl_lightning.core import MultiTaskModule

_UNITS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm)  # what gives (B, *, D); all else gives (B, D, *)


@dataclass
class Layer:
    """An activation, and the largest output of each of its units since it was last cleared.

    Attributes:
        name: the activation's name in the module.
        activation: the activation.
        feeder: the layer in front of it.
        group: the group that owns the feeder's parameters.
        peaks: largest outputs (D,) by D: an activation that is used in several places may have several D.
    """

    name: str
    activation: nn.Module
    feeder: nn.Module
    group: str
    peaks: dict[int, Tensor] = field(default_factory=dict)

    def see(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        """Take note of an output (B, D, *), or (B, *, D) behind a linear layer; a forward hook."""
        if not isinstance(output, Tensor) or output.dim() < 2 or not output.numel():
            return
        peak = output.detach().amax(0)  # rows first: three times as fast, for pictures, as all axes at once
        unit = peak.dim() - 1 if isinstance(self.feeder, _UNITS_LAST) else 0
        if peak.dim() > 1:
            peak = peak.amax([axis for axis in range(peak.dim()) if axis != unit])
        before = self.peaks.get(len(peak))
        self.peaks[len(peak)] = peak if before is None else torch.maximum(before, peak)

    @property
    def learns(self) -> bool:
        """Whether training changes what feeds the activation."""
        return any(parameter.requires_grad for parameter in self.feeder.parameters(recurse=False))


def find_layers(module: MultiTaskModule, activations: Sequence[type[nn.Module]]) -> tuple[list[Layer], list[str]]:
    """Find the activations of some classes, in the order in which they were registered.

    What feeds an activation is read off that order: the nearest module with parameters of its own before it, within
    the innermost module that encloses the activation and has parameters; or the first one behind it, if none comes
    before. So the ReLU of ``Sequential(Linear, ReLU)`` belongs to the linear layer, and that of a head
    ``Sequential(ReLU, Linear)`` to the head, not to what was registered before the head.

    Returns:
        The layers, and the names of the activations that are left out because they are in a compiled network.
    """
    modules = dict(module.named_modules())
    owner = {id(p): group for group, named in module.groups.items() for p in named.values()}
    with_own = [name for name, part in modules.items() if next(part.parameters(recurse=False), None) is not None]
    compiled = [name for name, part in modules.items() if _is_compiled(part)]
    watched = [name for name, part in modules.items() if isinstance(part, tuple(activations))]
    layers, left_out = [], []
    for name in watched:
        if any(_within(name, scope) for scope in compiled):
            left_out.append(name)
        elif (feeder := _feeder(name, list(modules), with_own)) is not None:
            first = next(modules[feeder].parameters(recurse=False))
            layers.append(Layer(name, modules[name], modules[feeder], owner[id(first)]))
    return layers, left_out


def _feeder(name: str, order: Sequence[str], with_own: Sequence[str]) -> str | None:
    """Return the name of the module that feeds an activation; None in a module without any parameters."""
    before = {*order[: order.index(name)]}
    scope = name
    while scope:
        scope = scope.rpartition(".")[0]
        near = [inner for inner in with_own if inner != name and _within(inner, scope)]
        if near:
            return next((inner for inner in reversed(near) if inner in before), near[0])
    return None


def _within(name: str, scope: str) -> bool:
    """Whether a module is ``scope`` or inside it; ``""`` is the root."""
    return not scope or name == scope or name.startswith(f"{scope}.")


def _is_compiled(part: nn.Module) -> bool:
    """Whether a module was compiled: by ``torch.compile(part)``, by ``part.compile()``, or as a LightningModule."""
    marks = ("_orig_mod", "_compiled_call_impl", "_compiler_ctx")
    return any(getattr(part, mark, None) is not None for mark in marks)
