"""The stages of an encoder: the sequence of modules between which layer-by-layer architectures join the tasks.

An encoder with an attribute ``stages``, an ``nn.Sequential`` or any list of modules, has them; an ``nn.Sequential``
is its own list. Run one after the other on the inputs, the stages must give what the encoder gives, which is checked
on a trial run: a pooling that an encoder adds after its last stage would be lost without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtl_lightning.architectures.base import EncoderArgument
from mtl_lightning.architectures.copies import copies
from mtl_lightning.architectures.sizes import as_size, probe
from mtl_lightning.types import ConfigurationError, InputSpec


def stages_of(encoder: nn.Module) -> list[nn.Module]:
    """Return an encoder's stages: its ``stages``, or its children if it is an ``nn.Sequential``.

    Raises:
        ConfigurationError: if it has none.
    """
    found: Any = getattr(encoder, "stages", encoder if isinstance(encoder, nn.Sequential) else None)
    stages = list(found) if isinstance(found, Iterable) else []
    if stages and all(isinstance(stage, nn.Module) for stage in stages):
        return stages
    raise ConfigurationError(
        f"{type(encoder).__name__}: expected an attribute `stages` that lists the modules to run one after the other, "
        f"found {'none' if found is None else type(found).__name__}. Set `self.stages = nn.Sequential(...)` in your "
        "encoder, or pass an `nn.Sequential`; an architecture that shares whole encoders, as SharedBottom and MMoE "
        "do, needs no stages."
    )


def stage_sizes(encoder: nn.Module, spec: InputSpec | None) -> list[tuple[int, ...]]:
    """Return the shape of each stage's output without B, found by one trial run.

    Raises:
        ConfigurationError: if the stages do not run, give no tensors, or do not make up the encoder.
    """
    stages = Stages(encoder)
    outputs, expected = probe(stages, spec)
    if not all(isinstance(output, Tensor) and output.dim() >= 2 for output in outputs):
        raise ConfigurationError(
            f"{type(encoder).__name__}: expected every stage to give a tensor (B, D, *), found "
            f"{[type(output).__name__ for output in outputs]}."
        )
    last = outputs[-1]
    if last.shape != expected.shape or not torch.allclose(last, expected, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ConfigurationError(
            f"{type(encoder).__name__}: expected its {len(outputs)} stages, run one after the other, to give its "
            f"features, of shape {tuple(expected.shape[1:])} a row; found {tuple(last.shape[1:])} or other values. "
            "Put everything that `forward` does into a stage."
        )
    return [as_size(tuple(output.shape[1:])) for output in outputs]


class Stages(nn.Module):
    """Runs an encoder stage by stage, and as a whole."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.stages = encoder, nn.ModuleList(stages_of(encoder))

    def forward(self, inputs: Any) -> tuple[list[Any], Any]:
        """Return the output of each stage, and the encoder's own."""
        outputs, features = [], inputs
        for stage in self.stages:
            features = stage(features)
            outputs.append(features)
        return outputs, self.encoder(inputs)


def encoder_copies(
    encoder: EncoderArgument, spec: InputSpec | None, number: int, least: int = 2, name: str = "tasks"
) -> tuple[list[nn.ModuleList], list[tuple[int, ...]]]:
    """Make ``number`` copies of an encoder, as lists of stages, and the shape of each stage's output without B.

    Args:
        encoder: as for :class:`~mtl_lightning.architectures.SharedBottom`.
        spec: the input's spec.
        number: how many copies.
        least: how many stages the encoder must have.
        name: of what there are so many, for an error.

    Raises:
        ConfigurationError: if the encoder has fewer stages, or they do not make it up.
    """
    encoders, _ = copies(encoder, spec, number, name)
    sizes = stage_sizes(encoders[0], spec)
    if len(sizes) < least:
        raise ConfigurationError(
            f"{type(encoders[0]).__name__}: expected at least {least} stages, between which tasks can be joined, found "
            f"{len(sizes)}. Cut the encoder into more `stages`, or add layers."
        )
    return [nn.ModuleList(stages_of(made)) for made in encoders], sizes


def column_of(container: nn.Module, key: str | int) -> Sequence[nn.Module]:
    """Return one list of stages out of an ``nn.ModuleDict`` or ``nn.ModuleList`` of such lists."""
    return cast("Sequence[nn.Module]", cast("Any", container)[key])
