"""Several encoders alike, on a shared trunk or not: for architectures in which each task or expert has its own."""

from __future__ import annotations

import copy

from torch import nn

from mtl_lightning.architectures.base import EncoderArgument, build_encoder
from mtl_lightning.architectures.sizes import check_widths, feature_size
from mtl_lightning.types import InputSpec, TensorSpec


def copies(
    encoder: EncoderArgument, spec: InputSpec | None, number: int, name: str = "tasks"
) -> tuple[list[nn.Module], tuple[int, ...]]:
    """Make ``number`` encoders that share nothing and start from weights of their own; return them and their size.

    A class, a ``functools.partial`` or a function is called once per copy, so each draws its own weights, and a
    function that loads pretrained ones gives them to every copy. An instance can only be made once: it serves as the
    first copy as it is, and the others are deep copies of it that draw new weights (:func:`draw_anew`).

    Args:
        encoder: as for :class:`~mtl_lightning.architectures.SharedBottom`.
        spec: the input's spec, or None.
        number: how many.
        name: of what there are so many, for an error.

    Returns:
        The encoders, and the shape of their features without B.
    """
    check_widths(f"the number of {name}", (number,))
    made: list[nn.Module] = []
    for _ in range(number):
        network = build_encoder(encoder, spec)
        made.append(draw_anew(copy.deepcopy(network)) if any(network is other for other in made) else network)
    sizes = [feature_size(network, spec) for network in made]  # of each: lazy layers get their parameters here
    return made, sizes[0]


def build_trunk(trunk: EncoderArgument | None, spec: InputSpec | None) -> tuple[nn.Module, InputSpec | None]:
    """Make the shared layers below others, and the spec of what they give; None passes the inputs on."""
    if trunk is None:
        return nn.Identity(), spec
    made = build_encoder(trunk, spec)
    return made, TensorSpec(feature_size(made, spec))


def draw_anew(network: nn.Module) -> nn.Module:
    """Draw new weights in place and return the network.

    Every module inside it that has ``reset_parameters()``, as PyTorch's layers do, is asked to; except those without
    a trained parameter, since a frozen network is meant to stay as it is. Parameters that stand directly in a module
    without that method keep their values.
    """
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset) and any(parameter.requires_grad for parameter in module.parameters()):
            reset()
    return network


def parameters_of(*modules: nn.Module | nn.Parameter) -> list[nn.Parameter]:
    """Return the parameters of several modules in one list, for ``task_parameters()``."""
    found: list[nn.Parameter] = []
    for module in modules:
        found.extend([module] if isinstance(module, nn.Parameter) else module.parameters())
    return found
