from __future__ import annotations

from functools import partial
from math import exp
from typing import Any

import pytest
import torch
from torch import nn

from mtl_lightning.architectures import MTAN, BatchNorm, LeNet, ResNet, SegNet
from mtl_lightning.types import TensorSpec
from tests.architectures.scalars import NUMBER, ONE, put, values_of, weight

TASKS = ["a", "b"]


def exact(network: nn.Module) -> None:
    """Make the normalisations of a network pass everything on, in eval mode."""
    for module in network.eval().modules():
        if isinstance(module, BatchNorm):
            module.eps = 1e-30  # 1 + eps is 1; newer PyTorch takes no 0


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def test_a_task_keeps_the_masked_part_of_each_stage() -> None:
    doubled = nn.Sequential(weight(2), weight(3))  # u = 2x, p = 6x
    network = MTAN(NUMBER, ["a"], encoder=nn.Sequential(doubled, nn.Sequential(weight(-1), nn.ReLU())))
    exact(network)
    put(network.get_parameter("attention.a.0.layers.0.weight"), [[0.5]])
    put(network.get_parameter("attention.a.0.layers.3.weight"), [[2.0]])
    put(network.get_parameter("steps.0.layers.0.weight"), [[0.25]])
    put(network.get_parameter("attention.a.1.layers.0.weight"), [[0.3, 0.7]])
    put(network.get_parameter("attention.a.1.layers.3.weight"), [[1.5]])
    # x = -1: u = -2 and p = -6 on the first stage, whose mask is the sigmoid of 2 ReLU(0.5 u) = 0
    kept = sigmoid(0) * -6
    # the second stage turns -6 into u = 6 and p = 6; the step gives ReLU(0.25 kept) = 0
    assert max(0.25 * kept, 0) == 0
    assert values_of(network(-ONE, ["a"]))["a"] == pytest.approx(sigmoid(1.5 * 0.3 * 6) * 6)
    # with the step's sign turned, what the task kept of the first stage counts in the second mask
    put(network.get_parameter("steps.0.layers.0.weight"), [[-0.25]])
    expected = sigmoid(1.5 * (0.3 * 6 + 0.7 * -0.25 * kept)) * 6
    assert values_of(network(-ONE, ["a"]))["a"] == pytest.approx(expected)
    # x = 1: the first mask is the sigmoid of 2 * 0.5 * 2, and the second stage lets nothing through
    mask = network.get_submodule("attention.a.0")(2 * ONE)
    assert mask.item() == pytest.approx(sigmoid(2))
    assert values_of(network(ONE, ["a"]))["a"] == 0.0


def test_every_task_has_masks_and_all_share_the_rest() -> None:
    network = MTAN(TensorSpec((1, 12, 12)), TASKS, encoder=partial(LeNet, channels=(4, 6), width=8))
    names = {name for name, _ in network.named_parameters()}
    owned = {id(p) for own in network.task_parameters().values() for p in own}
    own = {name for name, p in network.named_parameters() if id(p) in owned}
    assert own == {name for name in names if name.startswith("attention.")}
    assert {name.split(".")[0] for name in names - own} == {"cuts", "steps"}


@pytest.mark.parametrize(
    ("encoder", "size"),
    [
        (partial(LeNet, channels=(4, 6), width=8), (8,)),
        (partial(ResNet, pool=False), (512, 2, 2)),
        (partial(SegNet, widths=(4, 6), upsampling="nearest"), (4, 33, 40)),
    ],
)
def test_masks_lie_between_0_and_1_on_features_of_any_shape(encoder: Any, size: tuple[int, ...]) -> None:
    spec = TensorSpec((1, 33, 40))
    network = MTAN(spec, TASKS, encoder=encoder).eval()
    inputs = torch.rand(2, 1, 33, 40)
    features = network(inputs, TASKS).per_task
    stream: Any = inputs
    for cut in network.cuts:
        _, stream = cut(stream)
    there = stream.abs() > 1e-4
    for task in TASKS:
        assert features[task].shape == (2, *size)
        ratio = features[task][there] / stream[there]
        assert ratio.min() > 0
        assert ratio.max() < 1
    assert not torch.equal(features["a"], features["b"])


def test_a_stage_is_cut_before_a_last_layer_that_keeps_the_shape() -> None:
    resnet = MTAN(TensorSpec((3, 40, 40)), TASKS, encoder=ResNet, reduction=4)
    split = [[name for name, _ in cut.named_children()] for cut in resnet.cuts]
    assert split == [["first"], *[["first", "last"]] * 3, ["first"]]  # pooling ends the stem and layer4
    assert resnet.get_parameter("attention.a.1.layers.0.weight").shape == (16, 128, 1, 1)
    assert resnet.get_parameter("attention.a.0.layers.0.weight").shape == (16, 64, 1, 1)
