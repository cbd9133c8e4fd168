"""Multi-task attention network: one shared encoder, and a soft mask per task on the features of each stage."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_lightning.architectures.base import Architecture, EncoderArgument, build_encoder
from mtl_lightning.architectures.copies import parameters_of
from mtl_lightning.architectures.encoders import MLP
from mtl_lightning.architectures.norms import BatchNorm
from mtl_lightning.architectures.sizes import probe
from mtl_lightning.architectures.stages import stage_sizes, stages_of
from mtl_lightning.types import ConfigurationError, Features, InputSpec

_POINTWISE: dict[int, Any] = {1: nn.Linear, 2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}  # by the axes of a row


class MTAN(Architecture):
    """Multi-task attention network.

    `End-to-End Multi-Task Learning with Attention <https://arxiv.org/abs/1803.10704>`_ (Liu et al. 2019), equations
    1 and 2. Stage i of the shared encoder gives u_i, before its last layer, and p_i, its output. Task t keeps
    a_t,i = M_t,i * p_i, element by element, where its mask M_t,i in 0..1 is Att_t,i([u_i, F_i(a_t,i-1)]) (on the first
    stage Att_t,1(u_1)). Att is two pointwise layers, the first with batch normalisation and ReLU, the second with
    batch normalisation and a sigmoid; F brings the task's features of the last stage to the channels and the space of
    this one. The features of task t are those it keeps of the last stage.

    The generic rule for any encoder with ``stages``: a stage that is an ``nn.Sequential`` is cut before its last layer
    if that layer keeps the shape of what it gets, as the last block of a ResNet's stage or an activation does; of any
    other stage u is p. Departures: F, which is one layer shared by all tasks here as in the authors' code
    (github.com/lorenmt/mtan, c36c30b, ``im2im_pred/model_segnet_mtan.py``), is a 3 x 3 convolution (on vectors a linear
    map) with batch normalisation and ReLU, and ends with maximum pooling to the next stage's height and width, whatever
    these are; where a stage turns maps into vectors, they are averaged over space first. Vectors have linear layers in
    place of 1 x 1 convolutions.

    Give the encoder normalised stages: masks are normalised by batch statistics, and where stages are not, the running
    means that take their place in evaluation lag behind the features (two digits, LeNet: 88 % right by batch
    statistics, 35 % by running ones).

    Roles: the encoder and F are shared; the attention is its task's.

    Args:
        spec: the input's spec.
        tasks: the tasks' names.
        encoder: an encoder with ``stages`` (:mod:`~mtl_lightning.architectures.stages`), made once.
        reduction: the mask's hidden layer has C / reduction channels; 1 as for plain blocks, 4 is usual with a
            ResNet of bottlenecks.
    """

    def __init__(
        self,
        spec: InputSpec | None,
        tasks: Sequence[str],
        *,
        encoder: EncoderArgument = MLP,
        reduction: int = 1,
    ) -> None:
        super().__init__()
        made = build_encoder(encoder, spec)
        sizes = stage_sizes(made, spec)
        self.cuts = nn.ModuleList(_cut(stages_of(made), spec))
        self.steps = nn.ModuleList(_Step(before, after) for before, after in pairwise(sizes))
        self.attention = nn.ModuleDict(
            {
                task: nn.ModuleList(
                    _Attention(size, size[0] * (2 if number else 1), max(1, size[0] // reduction))
                    for number, size in enumerate(sizes)
                )
                for task in tasks
            }
        )
        self.feature_sizes = dict.fromkeys(tasks, sizes[-1])

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Map inputs to the features (B, D, *) that each of ``tasks`` keeps of the last stage."""
        kept: dict[str, Tensor] = {}
        stream = inputs
        for number, cut in enumerate(self.cuts):
            before, stream = cut(stream)
            for task in tasks:
                read = before
                if number:
                    step = self.steps[number - 1]
                    read = torch.cat([before, step(kept[task], before)], dim=1)
                kept[task] = cast("nn.ModuleList", self.attention[task])[number](read) * stream
        return Features(kept)

    def last_shared(self) -> Sequence[nn.Module]:
        """Return the last stage of the shared network."""
        return [self.cuts[-1]]

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return each task's attention."""
        return {task: parameters_of(attention) for task, attention in self.attention.items()}


class _Cut(nn.Module):
    """A stage in two parts; gives what stands between them, u, and the output, p, of the same shape."""

    def __init__(self, first: nn.Module, last: nn.Module | None) -> None:
        super().__init__()
        self.first, self.last = first, last

    def forward(self, inputs: Any) -> tuple[Tensor, Tensor]:
        before: Tensor = self.first(inputs)
        return before, before if self.last is None else self.last(before)


def _cut(stages: Sequence[nn.Module], spec: InputSpec | None) -> list[nn.Module]:
    """Cut each stage before its last layer, where that layer keeps the shape."""
    cuts: list[nn.Module] = []
    for stage in stages:
        cut = _Cut(stage, None)
        if isinstance(stage, nn.Sequential) and len(stage) > 1:
            halves = _Cut(stage[:-1], stage[-1])
            before, after = probe(nn.Sequential(*_layers_of(cuts), halves), spec)
            cut = halves if before.shape == after.shape else cut
        cuts.append(cut)
    return cuts


def _layers_of(cuts: Sequence[nn.Module]) -> list[nn.Module]:
    """Return cut stages as layers that give their output alone."""
    return [layer for cut in cuts for layer in cut.children()]


class _Attention(nn.Module):
    """A mask in 0..1: pointwise, normalise, ReLU, pointwise, normalise, sigmoid."""

    def __init__(self, size: tuple[int, ...], channels: int, hidden: int) -> None:
        super().__init__()
        pointwise = _pointwise(size)
        self.layers = nn.Sequential(
            *_layer(pointwise, channels, hidden, nn.ReLU()), *_layer(pointwise, hidden, size[0], nn.Sigmoid())
        )

    def forward(self, read: Tensor) -> Tensor:
        mask: Tensor = self.layers(read)
        return mask


class _Step(nn.Module):
    """F: brings what a task keeps of one stage to the channels and the space of the next one."""

    def __init__(self, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        super().__init__()
        self.to_vector = len(after) == 1
        layer = nn.Linear if self.to_vector or len(before) == 1 else _pointwise(before)
        options = {} if layer is nn.Linear else {"kernel_size": 3, "padding": 1}
        self.layers = nn.Sequential(layer(before[0], after[0], bias=False, **options), BatchNorm(after[0]), nn.ReLU())

    def forward(self, kept: Tensor, like: Tensor) -> Tensor:
        kept = kept.flatten(2).mean(-1) if self.to_vector and kept.dim() > 2 else kept
        kept = self.layers(kept)
        if kept.dim() < like.dim():
            return kept.reshape(*kept.shape, *(1,) * (like.dim() - 2)).expand(-1, -1, *like.shape[2:])
        return _fit(kept, like)


def _fit(maps: Tensor, like: Tensor) -> Tensor:
    """Pool or repeat maps (B, C, *) to the space of others."""
    if maps.shape[2:] == like.shape[2:]:
        return maps
    if all(here >= there for here, there in zip(maps.shape[2:], like.shape[2:], strict=True)):
        pools: dict[int, Any] = {3: F.adaptive_max_pool1d, 4: F.adaptive_max_pool2d, 5: F.adaptive_max_pool3d}
        pooled: Tensor = pools[maps.dim()](maps, like.shape[2:])
        return pooled
    return F.interpolate(maps, size=like.shape[2:], mode="nearest")


def _pointwise(size: tuple[int, ...]) -> Any:
    if len(size) not in _POINTWISE:
        raise ConfigurationError(
            f"MTAN: expected stages that give (D,) or (D, *) with at most 3 further axes a row, found {size}."
        )
    return _POINTWISE[len(size)]


def _layer(pointwise: Any, before: int, after: int, activation: nn.Module) -> list[nn.Module]:
    options = {} if pointwise is nn.Linear else {"kernel_size": 1}
    return [pointwise(before, after, bias=False, **options), BatchNorm(after), activation]
