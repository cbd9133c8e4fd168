from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning.architectures import MLP, LeNet, TabularEncoder
from mtl_lightning.architectures.stages import encoder_copies, stage_sizes, stages_of
from mtl_lightning.types import ConfigurationError, TableSpec, TensorSpec

PICTURES = TensorSpec((1, 12, 12))


class Listed(nn.Module):
    """A user's encoder that lists its stages, and may do something behind them."""

    def __init__(self, pools: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
        self.stages = [self.first, self.second]
        self.pools = pools

    def forward(self, pictures: Tensor) -> Tensor:
        maps: Tensor = self.second(self.first(pictures))
        return maps.mean((2, 3)) if self.pools else maps


def test_stages_are_listed_or_the_children_of_a_sequential() -> None:
    listed, sequential = Listed(), nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    assert stages_of(listed) == [listed.first, listed.second]
    assert stages_of(sequential) == list(sequential)
    assert len(stages_of(LeNet(PICTURES))) == 3


def test_sizes_are_found_by_a_trial_run_that_leaves_no_trace() -> None:
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert stage_sizes(encoder, PICTURES) == [(4, 10, 10), (4, 10, 10), (400,)]
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert stage_sizes(Listed(), TensorSpec((1, None, 9))) == [(4, 30, 7), (6, 28, 5)]


def test_a_table_goes_through_stages_too() -> None:
    spec = TableSpec(("age",), {"work": 5})
    sizes = stage_sizes(TabularEncoder(spec, hidden=(7, 3), embedding=2), spec)
    assert sizes == [(3,), (7,), (3,)]


def test_each_column_has_stages_of_its_own() -> None:
    made, sizes = encoder_copies(MLP, TensorSpec((4,)), 2)
    assert sizes == [(128,), (64,)]
    assert [len(column) for column in made] == [2, 2]
    assert not {id(p) for p in made[0].parameters()} & {id(p) for p in made[1].parameters()}


# --------------------------------------------------------------------------------------------------------------- errors
class WithNumber(nn.Module):
    stages = 3


class WithTuples(nn.Module):
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(self.Pair(), nn.Identity())

    def forward(self, x: Tensor) -> Any:
        return self.stages(x)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (nn.Linear(144, 3), "Linear: expected an attribute `stages` .* found none. Set `self.stages = nn.Sequential"),
        (WithNumber(), "WithNumber: expected an attribute `stages` .* found int"),
        (WithTuples(), r"WithTuples: expected every stage to give a tensor \(B, D, \*\), found \['tuple', 'tuple'\]"),
        (Listed(pools=True), r"Listed: expected its 2 stages.* of shape \(6,\) a row; found \(6, 8, 8\) or other"),
    ],
)
def test_says_what_is_wrong_with_the_stages(encoder: nn.Module, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        stage_sizes(encoder, PICTURES)


def test_stages_that_give_other_values_of_the_same_shape_are_noticed() -> None:
    class Doubling(MLP):
        def forward(self, inputs: Tensor) -> Tensor:
            return 2 * super().forward(inputs) + 1

    with pytest.raises(ConfigurationError, match="Doubling: expected its 2 stages, run one after the other"):
        stage_sizes(Doubling(PICTURES), PICTURES)


def test_one_stage_leaves_nothing_to_join() -> None:
    with pytest.raises(
        ConfigurationError, match=r"Sequential: expected at least 2 stages, .* found 1. Cut the encoder"
    ):
        encoder_copies(nn.Sequential(nn.Linear(4, 3)), TensorSpec((4,)), 2)
