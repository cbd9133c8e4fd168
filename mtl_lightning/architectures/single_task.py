"""No sharing: a network per task, the baseline of every comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from mtl_lightning.architectures.base import Architecture, EncoderArgument
from mtl_lightning.architectures.copies import copies, parameters_of
from mtl_lightning.architectures.encoders import MLP
from mtl_lightning.types import Features, InputSpec


class SingleTaskNetworks(Architecture):
    """One encoder per task, y_t = D_t(E_t(x)): T single-task networks that are trained in one run.

    What a way of sharing is to be compared with. No parameter is shared, so with the plain sum as the balancer and an
    optimizer that works parameter by parameter (SGD, Adam) each task is trained as if alone, on the same batches.

    Args:
        spec: the input's spec; None as for :class:`~mtl_lightning.architectures.SharedBottom`.
        tasks: the tasks' names.
        encoder: as for ``SharedBottom``, made once per task
            (:func:`~mtl_lightning.architectures.copies.copies` says how).
    """

    def __init__(self, spec: InputSpec | None, tasks: Sequence[str], *, encoder: EncoderArgument = MLP) -> None:
        super().__init__()
        made, size = copies(encoder, spec, len(tasks))
        self.encoders = nn.ModuleDict(dict(zip(tasks, made, strict=True)))
        self.feature_sizes = dict.fromkeys(tasks, size)

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Map inputs to features (B, D, *) of each of ``tasks``; the other tasks' encoders are not run."""
        return Features({task: self.encoders[task](inputs) for task in tasks})

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return everything: each encoder is its task's."""
        return {task: parameters_of(encoder) for task, encoder in self.encoders.items()}
