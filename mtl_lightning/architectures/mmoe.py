"""Multi-gate mixture of experts: all tasks mix the same experts, each with a gate of its own; and its one-gate kin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from mtl_lightning.architectures.base import EncoderArgument, Gating
from mtl_lightning.architectures.copies import parameters_of
from mtl_lightning.architectures.encoders import MLP
from mtl_lightning.architectures.experts import Experts, MixtureOfExperts, numbered
from mtl_lightning.architectures.gates import Gate, mix
from mtl_lightning.types import Features, InputSpec


class MMoE(MixtureOfExperts):
    """Multi-gate mixture of experts.

    `Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts
    <https://doi.org/10.1145/3219819.3220007>`_ (Ma et al. 2018), equations 6 to 8: with experts f_e and gates
    g_t(x) = softmax(W_t x), the features of task t are z_t = sum_e g_t(x)_e f_e(x). Experts are shared; the gate of a
    task is its own.

    Departures: gates have a bias; a gate need not read the whole of x (see ``gate_input``), since on raw pixels its
    weights would outnumber everything else. The default of 8 experts is that of the paper's synthetic problems.

    Args:
        spec: the input's spec; None where it is unknown, which needs a ``trunk`` that declares its ``out_features``.
        tasks: the tasks' names.
        encoder: one expert, as ``SharedBottom`` takes its encoder; made once per expert
            (:func:`~mtl_lightning.architectures.copies.copies` says how).
        num_experts: E.
        trunk: shared layers below the experts and the gates, a table's embeddings for instance; none by default.
        gate_input: a network that maps what the experts read to what the gates read, shared by all gates. By default
            vectors as they are, a table's columns (categories embedded), pictures averaged into 4 x 4 cells, and the
            maps of a trunk averaged over space.
    """

    def __init__(
        self,
        spec: InputSpec | None,
        tasks: Sequence[str],
        *,
        encoder: EncoderArgument = MLP,
        num_experts: int = 8,
        trunk: EncoderArgument | None = None,
        gate_input: EncoderArgument | None = None,
    ) -> None:
        super().__init__(spec, trunk, gate_input)
        self.experts = Experts(self.make_experts(encoder, num_experts, tasks))
        self.gates = nn.ModuleDict({task: Gate(self.gate_width, num_experts) for task in tasks})

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Map inputs to the mixture (B, D, *) of each of ``tasks``."""
        below = self.trunk(inputs)
        read, experts = self.gate_input(below), self.experts(below)
        return Features({task: mix(self.gates[task](read), experts) for task in tasks})

    def last_shared(self) -> Sequence[nn.Module]:
        """Return the experts."""
        return list(self.experts.encoders)

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return each task's gate."""
        return {task: parameters_of(gate) for task, gate in self.gates.items()}

    def gating(self) -> dict[str, Gating]:
        """Return each task's gate."""
        experts = numbered("expert", len(self.experts.encoders))
        return {task: Gating(gate, experts, [task]) for task, gate in self.gates.items()}


class OMoE(MixtureOfExperts):
    """One-gate mixture of experts: as :class:`MMoE`, but all tasks get the mixture of a single, shared gate.

    The paper's comparison with a single gate: z = sum_e g(x)_e f_e(x) for every task. Everything is shared; what the
    experts add over one wider encoder is only that the gate chooses between them input by input.

    Args:
        spec: the input's spec; None where it is unknown, which needs a ``trunk`` that declares its ``out_features``.
        tasks: the tasks' names.
        encoder: one expert, as ``SharedBottom`` takes its encoder; made once per expert.
        num_experts: E.
        trunk: shared layers below the experts and the gate; none by default.
        gate_input: as in :class:`MMoE`.
    """

    def __init__(
        self,
        spec: InputSpec | None,
        tasks: Sequence[str],
        *,
        encoder: EncoderArgument = MLP,
        num_experts: int = 8,
        trunk: EncoderArgument | None = None,
        gate_input: EncoderArgument | None = None,
    ) -> None:
        super().__init__(spec, trunk, gate_input)
        self.experts = Experts(self.make_experts(encoder, num_experts, tasks))
        self.gate, self.served = Gate(self.gate_width, num_experts), list(tasks)

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Map inputs to the same mixture (B, D, *) for each of ``tasks``."""
        below = self.trunk(inputs)
        return Features(dict.fromkeys(tasks, mix(self.gate(self.gate_input(below)), self.experts(below))))

    def last_shared(self) -> Sequence[nn.Module]:
        """Return the experts."""
        return list(self.experts.encoders)

    def gating(self) -> dict[str, Gating]:
        """Return the one gate."""
        return {"all tasks": Gating(self.gate, numbered("expert", len(self.experts.encoders)), self.served)}
