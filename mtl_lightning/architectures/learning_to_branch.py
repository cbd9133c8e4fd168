"""Learning to branch: a tree of stages whose branches are sampled while training and fixed afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_lightning.architectures.base import Architecture, EncoderArgument
from mtl_lightning.architectures.copies import parameters_of
from mtl_lightning.architectures.encoders import MLP
from mtl_lightning.architectures.stages import encoder_copies
from mtl_lightning.types import Features, InputSpec


class LearningToBranch(Architecture):
    """A tree-shaped network whose branching points are learned.

    `Learning to Branch for Multi-Task Learning <https://arxiv.org/abs/2006.01895>`_ (Guo et al. 2020). Each stage has
    T copies; the t-th of the last stage serves task t. Every copy of a later stage has one parent among the copies of
    the stage before. While training the parent is drawn anew in each forward, for the whole batch: the argmax of
    logits alpha plus Gumbel noise, with the gradient of a softmax of temperature tau (straight-through). For
    evaluation the parent is the argmax of alpha, so that predictions are deterministic; :meth:`tree` tells the tree.

    A buffer counts the updates n, so that a resumed run goes on where it was, and however many micro-batches or
    processes an update has. During the first ``warmup`` of them a copy reads the mean of all copies below, weighed by
    softmax(alpha), which trains each of them before the choice begins; from then on
    tau = temperature / sqrt(1 + (n - warmup) / period).

    Departures: LibMTL's schedule counts epochs and needs their number in advance, sums the parents in its warm-up,
    and goes on sampling at evaluation. The paper trains the tree that was found once more, from the start; that is a
    second run, with a network of one's own. All copies are run at evaluation too, chosen or not.

    Roles: the last copy of a task and its row of alpha are the task's, everything below may serve any of them.

    Args:
        spec: the input's spec.
        tasks: the tasks' names.
        encoder: an encoder with at least 2 ``stages`` (:mod:`~mtl_lightning.architectures.stages`); one copy is made
            per task (:func:`~mtl_lightning.architectures.copies.copies` says how).
        temperature: tau at the end of the warm-up.
        period: the number of updates after which tau has fallen by a factor of sqrt(2).
        warmup: the number of updates before branches are drawn.
    """

    tensors_only = True
    seen: Tensor

    def __init__(
        self,
        spec: InputSpec | None,
        tasks: Sequence[str],
        *,
        encoder: EncoderArgument = MLP,
        temperature: float = 10.0,
        period: int = 500,
        warmup: int = 500,
    ) -> None:
        super().__init__()
        self.temperature, self.period, self.warmup = temperature, period, warmup
        made, sizes = encoder_copies(encoder, spec, len(tasks))
        self.columns = nn.ModuleDict(dict(zip(tasks, made, strict=True)))
        self.logits = nn.ModuleList(  # one row per copy, so that the last ones can be their task's
            nn.ParameterList(nn.Parameter(torch.zeros(len(tasks))) for _ in tasks) for _ in sizes[1:]
        )
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.feature_sizes = dict.fromkeys(tasks, sizes[-1])

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Map inputs to features (B, D, *) of ``tasks``, through the tree drawn for this forward."""
        stages = {task: list(cast("nn.ModuleList", column)) for task, column in self.columns.items()}
        streams: dict[str, Any] = dict.fromkeys(stages, inputs)
        for number, joint in enumerate(self.logits):
            outputs = torch.stack([stages[task][number](stream) for task, stream in streams.items()])
            parents = self._parents(torch.stack(list(cast("nn.ParameterList", joint)))).to(outputs.dtype)
            streams = dict(zip(stages, torch.einsum("tj,j...->t...", parents, outputs).unbind(), strict=True))
        return Features({task: stages[task][-1](streams[task]) for task in tasks})

    @torch.no_grad()
    def after_update(self) -> None:
        """Count the update."""
        self.seen.add_(1)

    def _parents(self, logits: Tensor) -> Tensor:
        """Map logits (T, T) to the weights with which each copy reads the T below: one 1 a row after the warm-up."""
        if not self.training:
            return F.one_hot(logits.argmax(-1), len(logits)).to(logits.dtype)
        noise = -torch.empty_like(logits).exponential_().log()
        soft = ((logits + noise) / self.tau()).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), len(logits)).to(soft.dtype)
        return torch.where(self.seen < self.warmup, logits.softmax(-1), hard + (soft - soft.detach()))

    def tau(self) -> Tensor:
        """Return the temperature () at which training forwards draw until the next update."""
        waited = (self.seen - self.warmup).clamp(min=0)
        return self.temperature / torch.sqrt(1 + waited / self.period)

    @torch.no_grad()
    def tree(self) -> list[list[list[str]]]:
        """Return, for each stage from the inputs up, the groups of tasks that share a copy of it at evaluation.

        ``[[["a", "b", "c"]], [["a", "b"], ["c"]], [["a"], ["b"], ["c"]]]`` shares the first stage and splits c off
        behind it.
        """
        tasks = list(self.columns)
        copies = list(range(len(tasks)))  # of each task, on the stage looked at
        levels = [copies]
        for joint in reversed(self.logits):
            parents = [int(row.argmax()) for row in cast("nn.ParameterList", joint)]
            copies = [parents[number] for number in copies]
            levels.insert(0, copies)
        return [
            [[t for t, c in zip(tasks, level, strict=True) if c == number] for number in dict.fromkeys(level)]
            for level in levels
        ]

    def last_shared(self) -> Sequence[nn.Module]:
        """Return the copies of the last stage but one."""
        return [cast("nn.ModuleList", column)[-2] for column in self.columns.values()]

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return each task's copy of the last stage and its row of the last logits."""
        rows = cast("nn.ParameterList", self.logits[-1])
        return {
            task: parameters_of(cast("nn.ModuleList", column)[-1], row)
            for (task, column), row in zip(self.columns.items(), rows, strict=True)
        }
