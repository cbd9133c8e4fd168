"""Encoders, architectures and heads for dense targets, together, on pictures of bright rectangles."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_lightning.architectures import (
    MTAN,
    PLE,
    CrossStitch,
    DeepLabHead,
    ResNet,
    SegNet,
    SharedBottom,
    UpsamplingHead,
)
from mtl_lightning.types import TensorSpec

HEIGHT, WIDTH = 33, 40
SPEC, TASKS = TensorSpec((1, HEIGHT, WIDTH)), ["shape", "brightness"]
SEGNET = partial(SegNet, widths=(8, 12), convolutions=1)


def rectangles(number: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (B, 1, H, W) of a rectangle in noise, where it is (B, H, W) bool, and its brightness there."""
    top, left = torch.randint(2, 16, (2, number, 1, 1), generator=random)
    level = 1 + torch.rand(number, 1, 1, generator=random)
    y, x = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)
    inside = (y >= top) & (y < top + 14) & (x >= left) & (x < left + 18)
    pictures = inside * level + 0.3 * torch.randn(number, HEIGHT, WIDTH, generator=random)
    return pictures[:, None], inside, inside * level


@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        (partial(SharedBottom, encoder=SEGNET), UpsamplingHead),
        pytest.param(
            partial(SharedBottom, encoder=partial(ResNet, dilated=True, pool=False)),
            partial(DeepLabHead, channels=16),
            marks=pytest.mark.slow,
        ),
        (partial(MTAN, encoder=partial(SEGNET, upsampling="nearest")), UpsamplingHead),
        (partial(CrossStitch, encoder=partial(SEGNET, upsampling="nearest")), UpsamplingHead),
        (partial(PLE, encoder=partial(SEGNET, upsampling="nearest")), partial(UpsamplingHead, hidden=(8,))),
    ],
    ids=["SegNet", "dilated ResNet and DeepLab head", "MTAN", "CrossStitch", "PLE"],
)
def test_two_dense_tasks_are_learned(architecture: Any, head: Any) -> None:
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    network = architecture(SPEC, TASKS)
    heads = nn.ModuleDict({t: head(network.feature_sizes[t], 1, size=(HEIGHT, WIDTH)) for t in TASKS})
    optimizer = torch.optim.Adam([*network.parameters(), *heads.parameters()], lr=1e-2)
    for _ in range(30):
        pictures, inside, brightness = rectangles(5, random)
        features = network(pictures, TASKS).per_task
        outputs = {task: heads[task](features[task])[:, 0] for task in TASKS}
        loss = F.binary_cross_entropy_with_logits(outputs["shape"], inside.float())
        loss = loss + F.mse_loss(outputs["brightness"], brightness)
        optimizer.zero_grad()
        torch.autograd.backward([loss])
        optimizer.step()
    pictures, inside, brightness = rectangles(16, random)
    with torch.no_grad():
        features = network(pictures, TASKS).per_task
        right = ((heads["shape"](features["shape"])[:, 0] > 0) == inside).float().mean()
        error = F.mse_loss(heads["brightness"](features["brightness"])[:, 0], brightness)
    assert right > 0.93  # 81 % of the pixels are outside
    assert error < 0.4 * brightness.var()  # at stride 8 the edges stay blurred
