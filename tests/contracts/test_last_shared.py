"""The last shared layer: which it is depends on no order of names or of registration, and symmetric tasks are alike."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning import MultiTaskModule, Network
from mtl_lightning.architectures import AITM, Architecture, CrossStitch, MMoE, Product, SharedBottom, SingleTaskNetworks
from mtl_lightning.balancing import GradNorm
from mtl_lightning.tasks import BinaryClassification, Regression
from mtl_lightning.types import ConfigurationError, TargetSpec, TensorSpec
from tests.contracts.architecture_cases import exported
from tests.helpers import fit

NAMES = ("a", "b", "c")
SPEC = TensorSpec((6,))
X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))


def stages(spec: Any) -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Linear(6, 5), nn.Tanh()), nn.Sequential(nn.Linear(5, 4), nn.Tanh()), nn.Linear(4, 4)
    )


def layers(architecture: Any, names: Sequence[str], tasks: Any = Regression) -> list[tuple[tuple[int, ...], str]]:
    """The last shared layer's shapes, and where they are, with the tasks' names left out."""
    network = Network({name: tasks(TargetSpec(classes=None)) for name in names}, architecture, SPEC)
    found = {id(weight) for weight in network.last_shared_weights(X)}
    named = [(tuple(p.shape), name.split(".")) for name, p in network.named_parameters() if id(p) in found]
    return sorted((shape, ".".join("*" if part in NAMES else part for part in parts)) for shape, parts in named)


class Backwards(nn.Module):
    """Registers its layers in another order than that in which it runs them."""

    def __init__(self, out_features: int = 4) -> None:
        super().__init__()
        self.last, self.bias = nn.Linear(5, 4), nn.Parameter(torch.zeros(4))
        self.side = nn.Linear(6, 4)
        self.first = nn.Linear(6, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        side = self.side(inputs)
        return torch.as_tensor(self.last(self.first(inputs).relu()) + self.bias + side)


@pytest.mark.parametrize("architecture", exported(Architecture))
def test_names_and_their_order_never_matter(architecture: Any) -> None:
    tasks = BinaryClassification  # which a product takes, too
    if architecture is SingleTaskNetworks:
        with pytest.raises(ConfigurationError, match=r"expected one that is trained in SingleTaskNetworks, found none"):
            layers(architecture, NAMES, tasks)
        return
    found = layers(architecture, NAMES, tasks)
    assert found
    assert found == layers(architecture, NAMES[::-1], tasks)


def test_the_layer_that_runs_last_and_not_the_one_registered_last() -> None:
    network = Network({"a": Regression(TargetSpec())}, partial(SharedBottom, encoder=Backwards), SPEC)
    (weight,) = network.last_shared_weights(X)
    assert weight is network.get_parameter("architecture.encoder.last.weight")


def test_experts_and_columns_are_taken_together() -> None:
    made = layers(partial(MMoE, encoder=stages, num_experts=3), "ab")
    assert [shape for shape, _ in made] == [(4, 4)] * 3
    assert layers(partial(CrossStitch, encoder=stages), NAMES) == [((4, 5), "architecture.columns.*.1.0.weight")] * 3
    assert [shape for shape, _ in layers(partial(AITM, encoder=stages), NAMES)] == [(4, 4)]


def gradnorm_weights(architecture: Any, order: str) -> dict[str, float]:
    """The weights that GradNorm gives two tasks that are the same in all but their names."""
    torch.manual_seed(0)
    module = MultiTaskModule(
        tasks={name: Regression(TargetSpec()) for name in order},
        architecture=partial(architecture, encoder=stages),
        input_spec=SPEC,
        balancer=partial(GradNorm, lr=0.1),
    )
    columns = getattr(module.architecture, "columns", None)
    if columns is not None:  # the same weights for both
        columns["b"].load_state_dict(columns["a"].state_dict())
    for part in (module.heads, getattr(module.architecture, "gates", nn.ModuleDict())):
        if "a" in part:
            part["b"].load_state_dict(part["a"].state_dict())
    target = X.sum(1)
    fit(module.double(), [{"inputs": X.double(), "targets": {n: target.double() for n in order}}] * 3)
    weights = [module.balancer(unit).item() for unit in torch.eye(2, dtype=torch.float64)]
    return dict(zip(order, weights, strict=True))


@pytest.mark.parametrize("architecture", [CrossStitch, MMoE, SharedBottom])
def test_tasks_that_are_the_same_get_the_same_weight(architecture: Any) -> None:
    one, other = gradnorm_weights(architecture, "ab"), gradnorm_weights(architecture, "ba")
    assert one["a"] == pytest.approx(one["b"], rel=1e-6)
    assert other == pytest.approx(one, rel=1e-6)


class Outputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.a = nn.Linear(6, 4), nn.Linear(4, 1)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"a": self.a(self.trunk(inputs))}


class Declared(Outputs):
    def last_shared(self) -> list[nn.Module]:
        return [self.trunk]


def test_a_network_of_outputs_is_refused_unless_it_declares_the_layer() -> None:
    tasks = {"a": Regression(TargetSpec())}
    with pytest.raises(ConfigurationError, match=r"GradNorm looks at the last .*: expected an architecture whose `las"):
        Network(tasks, Outputs, SPEC, balancer=GradNorm)
    network = Network(tasks, Declared, SPEC, balancer=GradNorm)
    assert [tuple(weight.shape) for weight in network.last_shared_weights(X)] == [(4, 6)]


def test_a_frozen_layer_is_refused() -> None:
    network = Network(
        {"a": Regression(TargetSpec())}, partial(SharedBottom, encoder=Backwards), SPEC, balancer=GradNorm
    )
    network.get_parameter("architecture.encoder.last.weight").requires_grad_(False)
    with pytest.raises(ConfigurationError, match=r"expected one that is trained in SharedBottom, found none\."):
        network.last_shared_weights(X)


def test_nothing_shared_is_no_error() -> None:
    Network({n: Regression(TargetSpec()) for n in "ab"}, SingleTaskNetworks, SPEC, balancer=GradNorm)


def test_a_product_asks_its_inner_architecture() -> None:
    inner = partial(Product, architecture=partial(SharedBottom, encoder=stages))
    assert layers(inner, "ab", BinaryClassification) == [((4, 4), "architecture.architecture.encoder.2.weight")]
