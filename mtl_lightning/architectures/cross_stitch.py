"""Cross-stitch networks: a network per task, and learned linear combinations of theirs between the stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtl_lightning.architectures.base import Architecture, EncoderArgument
from mtl_lightning.architectures.copies import parameters_of
from mtl_lightning.architectures.encoders import MLP
from mtl_lightning.architectures.stages import encoder_copies
from mtl_lightning.types import ConfigurationError, Features, InputSpec


class CrossStitch(Architecture):
    """Cross-stitch networks.

    `Cross-stitch Networks for Multi-task Learning <https://arxiv.org/abs/1604.03539>`_ (Misra et al. 2016), equation
    1: T copies of the encoder, one per task; with h_j the output of a stage of copy j, the input of the next stage of
    copy t is sum_j A[t, j] h_j. A is learned, one matrix per joint between two stages, or one per channel of it. It
    starts at alpha on the diagonal and (1 - alpha) / (T - 1) elsewhere, so that a row sums to 1 and activations keep
    their scale, as the paper's 0.9 and 0.1 for two tasks do. With alpha 1 it starts as single-task networks.

    The paper trains A at a rate 100 to 1000 times that of the copies; here that is a group:
    ``groups: {stitches: ["*.stitches.*"]}`` with an optimizer of its own. Departures: only joints between stages have
    an A, since one behind the last stage would be the head's business (LibMTL has a fourth matrix that is never
    used); LibMTL starts A at ones, which multiplies activations by T at each joint.

    Roles: all that stands before the last joint serves every task. Each copy's last stage, and the row of the last
    A that feeds it, is its task's.

    Args:
        spec: the input's spec.
        tasks: the tasks' names.
        encoder: an encoder with at least 2 ``stages`` (:mod:`~mtl_lightning.architectures.stages`); one copy is made
            per task (:func:`~mtl_lightning.architectures.copies.copies` says how).
        per_channel: one A per channel (axis 1 of a stage's output) instead of one per joint.
        alpha: the share of its own copy that each task starts with.
    """

    def __init__(
        self,
        spec: InputSpec | None,
        tasks: Sequence[str],
        *,
        encoder: EncoderArgument = MLP,
        per_channel: bool = False,
        alpha: float = 0.9,
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ConfigurationError(f"CrossStitch: expected `alpha` from 0 to 1, found {alpha}.")
        made, sizes = encoder_copies(encoder, spec, len(tasks))
        self.columns = nn.ModuleDict(dict(zip(tasks, made, strict=True)))
        self.stitches = nn.ModuleList(
            Stitch(len(tasks), alpha, size[0] if per_channel else None) for size in sizes[:-1]
        )
        self.feature_sizes = dict.fromkeys(tasks, sizes[-1])

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Map inputs to features (B, D, *) of ``tasks``; only the last stages of the other tasks are left out."""
        stages = {task: list(cast("nn.ModuleList", column)) for task, column in self.columns.items()}
        streams: dict[str, Any] = dict.fromkeys(stages, inputs)
        for number, stitch in enumerate(self.stitches):
            outputs = [stages[task][number](stream) for task, stream in streams.items()]
            streams = dict(zip(stages, stitch(outputs), strict=True))
        return Features({task: stages[task][-1](streams[task]) for task in tasks})

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return each task's last stage and its row of the last A."""
        rows = cast("Stitch", self.stitches[-1]).rows
        return {
            task: parameters_of(cast("nn.ModuleList", column)[-1], row)
            for (task, column), row in zip(self.columns.items(), rows, strict=True)
        }


class Stitch(nn.Module):
    """T linear combinations of T tensors (B, C, *): row t of A, (T,) or (T, C), makes the t-th.

    Args:
        tasks: T.
        alpha: the diagonal at the start.
        channels: C, for one A per channel; None for one A.
    """

    def __init__(self, tasks: int, alpha: float, channels: int | None) -> None:
        super().__init__()
        self.rows = nn.ParameterList()  # one each, so that a row can be one task's
        for task in range(tasks):
            row = torch.full((tasks,), (1 - alpha) / max(tasks - 1, 1))
            row[task] = alpha if tasks > 1 else 1.0
            self.rows.append(nn.Parameter(row if channels is None else row.unsqueeze(1).repeat(1, channels)))

    def forward(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Map T tensors (B, C, *) to their T combinations."""
        matrix, stacked = torch.stack(list(self.rows)), torch.stack(list(outputs))
        formula = "tjc,jbc...->tbc..." if matrix.dim() == 3 else "tj,jb...->tb..."
        return list(torch.einsum(formula, matrix.to(stacked.dtype), stacked).unbind())
