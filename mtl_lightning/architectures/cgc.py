"""Customized gate control: experts of all tasks beside experts of each task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from mtl_lightning.architectures.base import EncoderArgument, Gating
from mtl_lightning.architectures.copies import parameters_of
from mtl_lightning.architectures.encoders import MLP
from mtl_lightning.architectures.experts import Experts, MixtureOfExperts, numbered, shared_and_own
from mtl_lightning.architectures.gates import Gate, mix
from mtl_lightning.architectures.sizes import check_widths
from mtl_lightning.types import Features, InputSpec


class CGC(MixtureOfExperts):
    """Customized gate control: each task mixes shared experts and experts of its own.

    `Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized Recommendations
    <https://doi.org/10.1145/3383313.3412236>`_ (Tang et al. 2020), section 4.1: with shared experts S(x), experts
    P_t(x) of task t and its gate g_t(x) = softmax(W_t x), the features of task t are z_t = g_t(x) . [P_t(x), S(x)].
    Shared experts are shared; a task's experts and gate are its own. One level of
    :class:`~mtl_lightning.architectures.PLE`, of whole encoders.

    Departures: gates have a bias, and need not read the whole of x; see :class:`~mtl_lightning.architectures.MMoE`.

    Args:
        spec: the input's spec; None where it is unknown, which needs a ``trunk`` that declares its ``out_features``.
        tasks: the tasks' names.
        encoder: one expert, as ``SharedBottom`` takes its encoder; made once per expert
            (:func:`~mtl_lightning.architectures.copies.copies` says how).
        num_shared: the number of shared experts.
        num_own: the number of experts of each task.
        trunk: shared layers below the experts and the gates; none by default.
        gate_input: as in :class:`~mtl_lightning.architectures.MMoE`.
    """

    def __init__(
        self,
        spec: InputSpec | None,
        tasks: Sequence[str],
        *,
        encoder: EncoderArgument = MLP,
        num_shared: int = 1,
        num_own: int = 1,
        trunk: EncoderArgument | None = None,
        gate_input: EncoderArgument | None = None,
    ) -> None:
        check_widths("`num_shared` and `num_own`", (num_shared, num_own))
        super().__init__(spec, trunk, gate_input)
        made = self.make_experts(encoder, num_shared + num_own * len(tasks), tasks)
        self.shared, self.own = shared_and_own(made, tasks, num_shared, num_own)
        self.gates = nn.ModuleDict({task: Gate(self.gate_width, num_own + num_shared) for task in tasks})

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Map inputs to the mixture (B, D, *) of each of ``tasks``; the other tasks' experts are not run."""
        below = self.trunk(inputs)
        read, shared = self.gate_input(below), self.shared(below)
        return Features(
            {task: mix(self.gates[task](read), torch.cat([self.own[task](below), shared], dim=1)) for task in tasks}
        )

    def last_shared(self) -> Sequence[nn.Module]:
        """Return the shared experts."""
        return list(self.shared.encoders)

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return each task's experts and gate."""
        return {task: parameters_of(self.own[task], self.gates[task]) for task in self.gates}

    def gating(self) -> dict[str, Gating]:
        """Return each task's gate: it mixes the task's own experts, then the shared ones."""
        shared = numbered("shared expert", len(self.shared.encoders))
        found = {}
        for task, gate in self.gates.items():
            own = numbered(f"{task}'s expert", len(cast("Experts", self.own[task]).encoders))
            found[task] = Gating(gate, [*own, *shared], [task])
        return found
