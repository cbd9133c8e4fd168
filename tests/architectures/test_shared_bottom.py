from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning.architectures import MLP, LeNet, SharedBottom
from mtl_lightning.types import ConfigurationError, TensorSpec

PICTURES, TASKS = TensorSpec((1, 12, 12)), ["left", "right"]


class Own(nn.Module):
    """A user's network, which knows nothing of this library."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.map = nn.Linear(144, width)

    def forward(self, pictures: Tensor) -> Tensor:
        output: Tensor = self.map(pictures.flatten(1))
        return output


def test_every_task_reads_the_same_features_of_one_run() -> None:
    network = SharedBottom(PICTURES, TASKS)
    calls: list[Any] = []
    network.encoder.register_forward_hook(lambda *_: calls.append(1))
    features = network(torch.randn(3, 1, 12, 12), TASKS)
    assert features.per_task["left"] is features.per_task["right"]
    assert len(calls) == 1
    assert features.aux == {}
    assert network.task_parameters() == {}


def test_the_features_are_the_encoders() -> None:
    encoder, inputs = MLP(PICTURES), torch.randn(3, 1, 12, 12)
    network = SharedBottom(PICTURES, TASKS, encoder=encoder)
    assert network.encoder is encoder
    assert torch.equal(network(inputs, ["right"]).per_task["right"], encoder(inputs))


@pytest.mark.parametrize(
    ("encoder", "made", "size"),
    [
        (LeNet, LeNet, (1024,)),
        (partial(LeNet, width=7), LeNet, (7,)),
        (lambda spec: MLP(spec, hidden=[9]), MLP, (9,)),
        (Own, Own, (5,)),
        (partial(Own, width=6), Own, (6,)),
        (lambda _: Own(8), Own, (8,)),
        (nn.Flatten, nn.Flatten, (144,)),
        (nn.Conv2d(1, 4, 3), nn.Conv2d, (4, 10, 10)),
    ],
)
def test_takes_any_encoder(encoder: Any, made: type, size: tuple[int, ...]) -> None:
    network = SharedBottom(PICTURES, TASKS, encoder=encoder)
    assert type(network.encoder) is made
    assert network.feature_sizes == {"left": size, "right": size}
    assert network(torch.randn(3, 1, 12, 12), TASKS).per_task["left"].shape == (3, *size)


def test_needs_no_spec_where_the_network_declares_its_features() -> None:
    network = SharedBottom(None, TASKS, encoder=nn.Linear(10, 4))
    assert network.feature_sizes == {"left": (4,), "right": (4,)}
    assert network(torch.randn(3, 10), TASKS).per_task["left"].shape == (3, 4)


def test_says_that_sizes_are_needed() -> None:
    with pytest.raises(ConfigurationError, match="MLP takes its sizes from the data: expected an `input_spec`, found"):
        SharedBottom(None, TASKS)
    with pytest.raises(ConfigurationError, match="Cannot tell the output size of Own: expected an `input_spec` or"):
        SharedBottom(None, TASKS, encoder=Own)


def test_refuses_an_encoder_that_returns_outputs() -> None:
    class Outputs(nn.Module):
        def forward(self, pictures: Tensor) -> dict[str, Tensor]:
            return {"left": pictures.flatten(1)}

    with pytest.raises(ConfigurationError, match=r"Encoder Outputs: expected a tensor .* found a dict; give it as"):
        SharedBottom(PICTURES, TASKS, encoder=Outputs())
