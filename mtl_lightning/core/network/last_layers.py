"""The last shared layer: found by running the network, never by the order in which its parts are registered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch import nn


def last_layers(
    parts: Sequence[nn.Module], run: Callable[[], Any], shared: Collection[nn.Parameter]
) -> list[nn.Parameter]:
    """Return the weights of each part's last layer, those of all parts together.

    A part's last layer is the one that runs last of those with a matrix of shared weights (if none has one, of those
    with any shared weights).

    Args:
        parts: parts of the network.
        run: runs the network once; without gradients, and in evaluation mode.
        shared: the shared parameters.
    """
    own = {id(parameter) for parameter in shared}
    layers = {id(m): _weights(m, own) for part in parts for m in part.modules()}
    order: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: order.append(module))
        for part in parts
        for module in part.modules()
        if layers[id(module)]
    ]
    try:
        with torch.compiler.set_stance("force_eager"):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[int, nn.Parameter] = {}
    for part in parts:
        inside = {id(module) for module in part.modules()}
        ran = [layers[id(module)] for module in order if id(module) in inside]
        with_matrix = [weights for weights in ran if any(weight.dim() > 1 for weight in weights)]
        found |= {id(weight): weight for weight in _matrices((with_matrix or ran or [[]])[-1])}
    return list(found.values())


def _weights(module: nn.Module, shared: Collection[int]) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters(recurse=False) if id(parameter) in shared]


def _matrices(weights: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    weights = list(weights)
    return [weight for weight in weights if weight.dim() > 1] or weights
