"""One encoder for all tasks but for its normalisation layers, of which each task has its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mtl_lightning.architectures.base import Architecture, EncoderArgument, build_encoder
from mtl_lightning.architectures.encoders import MLP
from mtl_lightning.architectures.norms import BatchNorm
from mtl_lightning.architectures.sizes import feature_size
from mtl_lightning.types import ConfigurationError, Features, InputSpec


def is_norm(layer: nn.Module) -> bool:
    """Whether a layer is one of PyTorch's batch, instance, layer, group or root-mean-square normalisations."""
    return isinstance(layer, _NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm)


class TaskConditionedNorm(Architecture):
    """A shared encoder with normalisation layers of each task's own.

    For one dataset per task, or one domain: batches of different origin have different statistics, and one batch
    normalisation for all of them fits none. `Universal representations: The missing link between faces, text,
    planktons, and cat breeds <https://arxiv.org/abs/1701.07275>`_ (Bilen and Vedaldi 2017) shares the convolutions
    between datasets and keeps the normalisations apart, their statistics, scale and shift; with task t's normalisations
    N_t, its features are E(x; W, N_t).

    The encoder is run once for each task that is asked for: once per batch with one dataset per task, T times where
    all tasks have labels on the same rows. It is kept once per task, with the weights that all tasks share being the
    same parameters, so ``state_dict()`` lists these under each task's name.

    Roles: a task's normalisations are its own, all other weights are shared.

    Args:
        spec: the input's spec; None as for :class:`~mtl_lightning.architectures.SharedBottom`.
        tasks: the tasks' names.
        encoder: as for ``SharedBottom``, with normalisation layers; by default a perceptron with batch normalisation.
        own: tells of each module inside the encoder whether every task is to have its own.

    Raises:
        ConfigurationError: if the encoder has no such layer.
    """

    def __init__(
        self,
        spec: InputSpec | None,
        tasks: Sequence[str],
        *,
        encoder: EncoderArgument | None = None,
        own: Callable[[nn.Module], bool] = is_norm,
    ) -> None:
        super().__init__()
        first = build_encoder(partial(MLP, norm=BatchNorm) if encoder is None else encoder, spec)
        self.feature_sizes = dict.fromkeys(tasks, feature_size(first, spec))
        self.own = own
        if not any(own(module) for module in first.modules()):
            raise ConfigurationError(
                f"TaskConditionedNorm: expected an encoder with normalisation layers, found none in "
                f"{type(first).__name__}. Give one that has them (`norm: torch.nn.LayerNorm` for an MLP), or say with "
                "`own` which layers are meant."
            )
        self.encoders = nn.ModuleDict(
            {task: _with_own(first, own) if number else first for number, task in enumerate(tasks)}
        )

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Map inputs to features (B, D, *) of each of ``tasks``, one run of the encoder for each."""
        return Features({task: self.encoders[task](inputs) for task in tasks})

    def last_shared(self) -> Sequence[nn.Module]:
        """Return an encoder, whose weights all tasks' encoders share."""
        return [next(iter(self.encoders.values()))]

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return each task's normalisation layers."""
        declared = {}
        for task, encoder in self.encoders.items():
            mine = [p for module in encoder.modules() if self.own(module) for p in module.parameters()]
            declared[task] = list(dict.fromkeys(mine))  # once, where such layers stand inside others
        return declared


def _with_own(encoder: nn.Module, own: Callable[[nn.Module], bool]) -> nn.Module:
    """Return a copy of an encoder that has the same parameters, not equal ones, outside of the layers of its own."""
    apart = {id(p) for module in encoder.modules() if own(module) for p in module.parameters()}
    return copy.deepcopy(encoder, {id(p): p for p in encoder.parameters() if id(p) not in apart})
