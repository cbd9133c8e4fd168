"""The size of a network's features: read where it is declared, else found by one trial run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import index
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from mtl_lightning.nested import map_leaves
from mtl_lightning.types import ConfigurationError, InputSpec, sample_inputs

_PROBE_ROWS = 2  # one row would let a network that drops the batch axis pass


def feature_size(encoder: nn.Module, spec: InputSpec | None) -> tuple[int, ...]:
    """Return the shape of an encoder's features without B: its ``out_features``, or what one trial run shows."""
    found = size_or_outputs(encoder, spec)
    if isinstance(found, Mapping):
        raise ConfigurationError(
            f"Encoder {type(encoder).__name__}: expected a tensor (B, D, *) of features, found a "
            f"{type(found).__name__}; give it as the `architecture` if it returns the tasks' outputs."
        )
    return found


def as_size(out_features: SupportsIndex | Sequence[SupportsIndex]) -> tuple[int, ...]:
    """Read ``out_features``, a number of features or a shape, as a shape without B."""
    return check_widths("`out_features`", (out_features,) if isinstance(out_features, SupportsIndex) else out_features)


def check_widths(name: str, widths: Sequence[SupportsIndex]) -> tuple[int, ...]:
    """Return ``widths``, whole numbers of any kind (NumPy's too), as a tuple.

    Raises:
        ConfigurationError: that calls them ``name``, if they are anything but whole numbers of at least 1.
    """
    if isinstance(widths, Sequence) and all(isinstance(width, SupportsIndex) and index(width) >= 1 for width in widths):
        return tuple(index(width) for width in widths)
    raise ConfigurationError(f"Expected as {name} whole numbers of at least 1, found {widths!r}.")


def size_or_outputs(network: nn.Module, spec: InputSpec | None) -> tuple[int, ...] | Mapping[str, Any]:
    """Return the shape of a network's features without B, or its outputs if it returns a dict of them."""
    declared = getattr(network, "out_features", None)
    if declared is not None and not _is_lazy(network):
        return as_size(declared)
    output = probe(network, spec)
    if isinstance(output, Mapping):
        return output
    if not isinstance(output, Tensor) or output.dim() < 2 or len(output) != _PROBE_ROWS:
        found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ConfigurationError(
            f"{type(network).__name__}: expected a tensor of features (B, D, *) or a dict of the tasks' outputs, found "
            f"{found} on {_PROBE_ROWS} rows."
        )
    return tuple(output.shape[1:])


def probe(network: nn.Module, spec: InputSpec | None) -> Any:
    """Run ``network`` once on two made rows, in eval mode; its buffers, its modes and the random state are restored.

    Lazy layers get their parameters in this run. Their draws then stay taken from the random state, or the next
    layer made would start from the same numbers.

    Raises:
        ConfigurationError: if there is no spec to make rows of, or the network fails on them.
    """
    if spec is None:
        raise ConfigurationError(
            f"Cannot tell the output size of {type(network).__name__}: expected an `input_spec` or an `out_features` "
            "attribute on a network without lazy layers, found neither."
        )
    inputs = sample_inputs(spec, _PROBE_ROWS)
    parameter = next(network.parameters(), None)
    if parameter is not None:
        inputs = map_leaves(lambda made: _like(made, parameter), inputs)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[], enabled=not _is_lazy(network)), _restored(network):
            return network.eval()(inputs)
    except Exception as error:  # a user's network can fail in any way
        raise ConfigurationError(
            f"{type(network).__name__} does not run on {_PROBE_ROWS} rows of {spec}: {error}. Fix its sizes, or set "
            "`out_features` on it if it cannot run on made inputs."
        ) from error


@contextmanager
def _restored(network: nn.Module) -> Iterator[None]:
    """Give every module its mode and its buffers back; lazy buffers, which have no value yet, keep their first one."""
    modes = [(module, module.training) for module in network.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if not isinstance(buffer, UninitializedBuffer)
    ]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, name, buffer, value in buffers:
            setattr(module, name, buffer.copy_(value))  # set, since a network may put another tensor in its place


def _is_lazy(network: nn.Module) -> bool:
    tensors: list[Tensor] = [*network.parameters(), *network.buffers()]
    return any(isinstance(tensor, UninitializedParameter | UninitializedBuffer) for tensor in tensors)


def _like(inputs: Tensor, parameter: Tensor) -> Tensor:
    dtype = parameter.dtype if inputs.is_floating_point() and parameter.is_floating_point() else inputs.dtype
    return inputs.to(parameter.device, dtype)
