"""What mixtures of experts have in common: an optional trunk, experts that are encoders, and what the gates read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtl_lightning.architectures.base import Architecture, EncoderArgument
from mtl_lightning.architectures.copies import build_trunk, copies
from mtl_lightning.architectures.gates import GRID, gate_reader
from mtl_lightning.types import InputSpec


def numbered(what: str, number: int) -> list[str]:
    """Return the names of so many experts of one kind."""
    return [f"{what} {index}" for index in range(number)]


class Experts(nn.Module):
    """E encoders side by side on the same input.

    Args:
        encoders: the experts.
    """

    def __init__(self, encoders: Sequence[nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    def forward(self, inputs: Any) -> Tensor:
        """Map inputs to the experts' features (B, E, D, *)."""
        return torch.stack([encoder(inputs) for encoder in self.encoders], dim=1)


class MixtureOfExperts(Architecture):
    """The common part of architectures whose features are a gate's mixture of experts' features.

    Args:
        spec: the input's spec; None where it is unknown, which needs a ``trunk`` that declares its ``out_features``.
        trunk: shared layers below the experts and the gates, a table's embeddings for instance; none by default.
        gate_input: what the gates read of the experts' input, shared by all gates: a network that maps it to
            features. By default vectors as they are, a table's columns (categories embedded), pictures averaged into
            4 x 4 cells, and the maps of a trunk averaged over space.

    Attributes:
        inner_spec: the spec of what the experts read: the input's, or that of the trunk's features.
        gate_width: G, how many numbers a gate reads.
    """

    def __init__(
        self, spec: InputSpec | None, trunk: EncoderArgument | None, gate_input: EncoderArgument | None
    ) -> None:
        super().__init__()
        self.trunk, self.inner_spec = build_trunk(trunk, spec)
        self.gate_input, self.gate_width = gate_reader(gate_input, self.inner_spec, GRID if trunk is None else 1)

    def make_experts(self, encoder: EncoderArgument, number: int, tasks: Sequence[str]) -> list[nn.Module]:
        """Make ``number`` experts, and set the size of each task's features, which is theirs."""
        made, size = copies(encoder, self.inner_spec, number, "experts")
        self.feature_sizes = dict.fromkeys(tasks, size)
        return made


def shared_and_own(
    experts: Sequence[nn.Module], tasks: Sequence[str], num_shared: int, num_own: int
) -> tuple[Experts, nn.ModuleDict]:
    """Deal out experts: the first ``num_shared`` to all tasks, then ``num_own`` to each."""
    starts = range(num_shared, len(experts), num_own)
    own = {task: Experts(experts[start : start + num_own]) for task, start in zip(tasks, starts, strict=True)}
    return Experts(experts[:num_shared]), nn.ModuleDict(own)
