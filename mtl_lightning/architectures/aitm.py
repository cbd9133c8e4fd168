"""Adaptive information transfer: tasks in a chain, each of which takes what it needs from the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtl_lightning.architectures.base import Architecture, EncoderArgument
from mtl_lightning.architectures.copies import build_trunk, copies, parameters_of
from mtl_lightning.architectures.encoders import MLP
from mtl_lightning.types import ConfigurationError, Features, InputSpec


class AITM(Architecture):
    """Adaptive information transfer multi-task network, for tasks that follow one another, as in a purchase funnel.

    `Modeling the Sequential Dependence among Audience Multi-step Conversions with Multi-task Learning in Targeted
    Display Advertising <https://arxiv.org/abs/2105.08489>`_ (Xi et al. 2021). Task t has an encoder
    of its own, q_t = E_t(x). The first task's features are z_1 = q_1; for the others

        p = G_t-1(z_t-1),    z_t = sum over u in {q_t, p} of softmax_u(<Q u, K u> / sqrt(D)) V u,

    with G a linear layer and ReLU, and Q, K, V linear without bias, for each t anew.

    The behavioural expectation calibrator of the paper is the auxiliary loss ``calibration``: for tasks with one logit
    (B, 1) each, of an event and one that cannot happen without it,

        alpha * mean over rows of sum_t max(p_t - p_t-1, 0),    p_t = sigmoid(y_t).

    Departures: it is off by default, since tasks need not be yes or no (the paper's alpha is 0.6), and where a batch
    has no labels of a task, it compares those that follow and precede it. It makes the order of probabilities
    likelier; :class:`~mtl_lightning.architectures.Product` has it by construction.

    Roles: what lies before the last task's own encoder and transfer serves that task and others, so it is shared;
    with ``stop_gradient`` all but the trunk is its task's.

    Args:
        spec: the input's spec; None as for :class:`~mtl_lightning.architectures.SharedBottom`.
        tasks: the tasks' names.
        encoder: as for ``SharedBottom``, with vectors as features; made once per task
            (:func:`~mtl_lightning.architectures.copies.copies` says how).
        trunk: shared layers below the encoders, in the paper the embeddings; none by default.
        order: the tasks in the order in which they follow one another; by default that of ``tasks``.
        stop_gradient: no gradient of a task's loss reaches the task before. An option of this library.
        calibration: alpha; 0 for no such loss.

    Raises:
        ConfigurationError: for another set of tasks in ``order``, features that are no vectors, and with
            ``calibration`` a negative one, or outputs other than one a row.
    """

    def __init__(
        self,
        spec: InputSpec | None,
        tasks: Sequence[str],
        *,
        encoder: EncoderArgument = MLP,
        trunk: EncoderArgument | None = None,
        order: list[str] | None = None,
        stop_gradient: bool = False,
        calibration: float = 0.0,
    ) -> None:
        super().__init__()
        self.order = list(tasks if order is None else order)
        if sorted(self.order) != sorted(tasks):
            raise ConfigurationError(f"AITM: expected `order` to be an order of {list(tasks)}, found {order}.")
        self.stop_gradient, self.calibration = stop_gradient, calibration
        self.trunk, inner = build_trunk(trunk, spec)
        made, size = copies(encoder, inner, len(tasks))
        if len(size) != 1:
            raise ConfigurationError(
                f"AITM: expected an encoder with vectors (D,) as features, found {size}; let it pool or flatten."
            )
        self.encoders = nn.ModuleDict(dict(zip(self.order, made, strict=True)))
        self.transfers = nn.ModuleDict({task: Transfer(size[0]) for task in self.order[1:]})
        self.feature_sizes = dict.fromkeys(tasks, size)

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Map inputs to features (B, D) of ``tasks``; tasks behind the last of them in the chain are not run."""
        last = max([-1, *(self.order.index(task) for task in tasks)])
        features: dict[str, Tensor] = {}
        below, before = self.trunk(inputs), cast("Tensor | None", None)
        for task in self.order[: last + 1]:
            own = self.encoders[task](below)
            if before is not None:
                own = self.transfers[task](own, before.detach() if self.stop_gradient else before)
            features[task] = before = own
        return Features({task: features[task] for task in tasks})

    def output_losses(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``calibration``, of those of the tasks that have outputs; nothing if it is off."""
        chain = [task for task in self.order if task in outputs]
        if not self.calibration or len(chain) < 2:
            return {}
        if wrong := {task: tuple(outputs[task].shape[1:]) for task in chain if outputs[task].shape[1:] != (1,)}:
            raise ConfigurationError(
                f"AITM: `calibration` compares probabilities: expected one logit a row of each task, found outputs "
                f"of {wrong}. Leave it at 0, or give these tasks one yes-or-no label each."
            )
        probabilities = [outputs[task].to(torch.promote_types(outputs[task].dtype, torch.float32)) for task in chain]
        excess = [(after - before).relu() for before, after in pairwise(p.sigmoid() for p in probabilities)]
        return {"calibration": self.calibration * torch.cat(excess, dim=1).sum(1).mean()}

    def last_shared(self) -> Sequence[nn.Module]:
        """Return the first task's encoder, which all tasks go back to; with ``stop_gradient`` the trunk, if any."""
        return [self.trunk] if self.stop_gradient else [self.encoders[self.order[0]]]

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return the last task's encoder and transfer; with ``stop_gradient`` each task's."""
        return {
            task: parameters_of(self.encoders[task], *([self.transfers[task]] if task in self.transfers else []))
            for task in (self.order if self.stop_gradient else self.order[-1:])
        }


class Transfer(nn.Module):
    """z of one task from its own q and the z of the task before, all (B, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))

    def forward(self, own: Tensor, before: Tensor) -> Tensor:
        """Return the attention-weighted sum of the two values (B, D)."""
        both = torch.stack([own, self.gate(before)], dim=1)  # (B, 2, D)
        scores = (self.query(both) * self.key(both)).sum(-1, keepdim=True) / sqrt(both.shape[-1])
        return cast("Tensor", (scores.softmax(1) * self.value(both)).sum(1))
