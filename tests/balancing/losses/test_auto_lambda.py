"""Auto-lambda: its slope against the exact one, through a small network with a lookahead of its own."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mtl_lightning.balancing.lookahead import Lookahead
from mtl_lightning.balancing.losses.auto_lambda import AutoLambda
from mtl_lightning.types import ConfigurationError, Likelihood

LIKELIHOODS = dict.fromkeys("abc", Likelihood(0.5, 0.5, "log_var"))
ALL = torch.ones(3, dtype=torch.bool)


class Network(nn.Module):
    """A hidden layer that three tasks share, and one output for each."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.heads = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.heads(torch.tanh(self.trunk(x)))
        return outputs


class TwoLayers(Lookahead):
    """A lookahead of that network, with an SGD that has momentum, weight decay and a rate per parameter."""

    def __init__(self, seed: int = 0, rates: Sequence[float] = (0.1,) * 4, momentum: float = 0.0) -> None:
        torch.manual_seed(seed)
        self.network = Network().double()
        self.parts = [(torch.randn(16, 4).double(), torch.randn(16, 3).double()) for _ in range(2)]
        self.weights = dict(self.network.named_parameters())
        self.momentum = [momentum * torch.randn_like(weight) for weight in self.weights.values()]
        self.decay, self._rates = momentum, list(rates)
        self.calls: list[str] = []

    def losses(self, shift: Sequence[Tensor] | None, part: int) -> Tensor:
        inputs, targets = self.parts[part]
        changes = [torch.zeros_like(weight) for weight in self.weights.values()] if shift is None else shift
        pairs = zip(self.weights.items(), changes, strict=True)
        moved = {name: weight + change for (name, weight), change in pairs}
        found: Tensor = (functional_call(self.network, moved, (inputs,)) - targets).square().mean(0)
        return found

    def losses_at(self, shift: Sequence[Tensor], part: int) -> Tensor:
        self.calls.append("losses")
        return self.losses(shift, part).detach()

    def gradient_of(self, weights: Tensor, part: int, shift: Sequence[Tensor] | None = None) -> list[Tensor]:
        self.calls.append("gradient")
        with torch.enable_grad():
            return [*torch.autograd.grad((weights * self.losses(shift, part)).sum(), [*self.weights.values()])]

    def step(self, gradient: Sequence[Tensor]) -> list[Tensor]:
        parts = zip(self._rates, gradient, self.momentum, self.weights.values(), strict=True)
        return [-rate * (slope + gathered + self.decay * weight) for rate, slope, gathered, weight in parts]

    def rates(self) -> list[float]:
        return self._rates

    def exact_slope(self, lambdas: Tensor, primary: Tensor) -> Tensor:
        """The derivative of the primary tasks' validation losses after the virtual step, by autograd through it."""
        free = lambdas.clone().requires_grad_()
        loss = (free * self.losses(None, 0)).sum()
        gradient = torch.autograd.grad(loss, [*self.weights.values()], create_graph=True)
        (found,) = torch.autograd.grad((primary * self.losses(self.step(gradient), 1)).sum(), free)
        return found


class Recorded(AutoLambda):
    """Keeps the slope that it learns from."""

    slope: Tensor

    def learn(self, gradients: Tensor, present: Tensor | None = None) -> None:
        self.slope = gradients
        super().learn(gradients, present)


@pytest.mark.parametrize("rates", [(0.1,) * 4, (0.1, 0.1, 0.5, 0.02)], ids=["one rate", "several rates"])
@pytest.mark.parametrize("momentum", [0.0, 0.3])
@pytest.mark.parametrize("primary", [None, [0], [0, 2]])
def test_slope_is_that_of_validation_after_the_step(
    primary: list[str | int] | None, momentum: float, rates: tuple[float, ...]
) -> None:
    lookahead, balancer = TwoLayers(rates=rates, momentum=momentum), Recorded(3, primary=primary).double()
    chosen = torch.tensor([primary is None or index in primary for index in range(3)]).double()
    expected = lookahead.exact_slope(balancer.lambdas, chosen)
    balancer.before_update(lookahead, ALL)
    torch.testing.assert_close(balancer.slope, expected, rtol=1e-3, atol=1e-6)
    assert sorted(lookahead.calls) == ["gradient", "gradient", "losses", "losses"]


def test_the_first_step_of_adam_is_its_rate() -> None:
    lookahead, balancer = TwoLayers(), Recorded(3, lr=0.01).double()
    balancer.before_update(lookahead, ALL)
    torch.testing.assert_close(balancer.lambdas, 0.1 - 0.01 * balancer.slope.sign(), rtol=1e-5, atol=0)


def test_a_useless_task_loses_weight_and_a_useful_one_gains() -> None:
    lookahead, balancer = TwoLayers(), AutoLambda(3, primary=[0], lr=1e-2).double()
    map_ = torch.randn(4).double()
    for inputs, targets in lookahead.parts:
        targets[:, 0] = targets[:, 1] = inputs @ map_  # task 1 is task 0 once more
        targets[:, 2] *= 5  # noise
    for _ in range(30):
        balancer.before_update(lookahead, ALL)
        gradient = lookahead.gradient_of(balancer.lambdas, 0)
        with torch.no_grad():
            for weight, slope in zip(lookahead.weights.values(), gradient, strict=True):
                weight.sub_(0.1 * slope)
    assert balancer.lambdas[:2].gt(0.2).all()
    assert balancer.lambdas[:2].min() > balancer.lambdas[2] + 0.05


def test_the_networks_weights_stay() -> None:
    lookahead = TwoLayers()
    before = [weight.clone() for weight in lookahead.weights.values()]
    AutoLambda(3).double().before_update(lookahead, ALL)
    assert all(torch.equal(weight, old) for weight, old in zip(lookahead.weights.values(), before, strict=True))


def test_absent_tasks_keep_their_weight_and_without_a_primary_one_all_do() -> None:
    balancer = AutoLambda(3, primary=[0], lr=0.01).double()
    start = balancer.lambdas.clone()
    balancer.before_update(TwoLayers(), torch.tensor([True, True, False]))
    assert (balancer.lambdas != start).tolist() == [True, True, False]
    assert balancer.adam.steps.tolist() == [1, 1, 0]
    before = balancer.lambdas.clone()
    balancer.before_update(TwoLayers(), torch.tensor([False, True, True]))
    assert torch.equal(balancer.lambdas, before)


def test_where_nothing_can_be_learned_nothing_is() -> None:
    lookahead, balancer = TwoLayers(), AutoLambda(3, lr=0.01).double()
    with torch.no_grad():
        for index, (inputs, _) in enumerate(lookahead.parts):
            lookahead.parts[index] = (inputs, lookahead.network(inputs))
    start = balancer.lambdas.clone()
    balancer.before_update(lookahead, ALL)
    assert torch.equal(balancer.lambdas, start)


def test_a_floor_holds() -> None:
    free, held = (AutoLambda(3, lr=0.08, floor=floor).double() for floor in (None, 0.0))
    slope = torch.tensor([1.0, -1.0, 1.0]).double()
    for balancer in (free, held):
        for _ in range(3):
            balancer.learn(slope)
    assert free.lambdas.tolist() == pytest.approx([-0.14, 0.34, -0.14])
    assert held.lambdas.tolist() == pytest.approx([0.0, 0.34, 0.0])


def test_the_objective_weighs_the_losses() -> None:
    balancer, losses = AutoLambda(3, init=0.5), torch.tensor([1.0, 2.0, float("nan")])
    assert balancer.objective(losses, torch.tensor([True, True, False])).item() == pytest.approx(1.5)
    assert balancer.affine
    assert balancer.parts == 2
    assert not list(balancer.parameters())


def test_primary_tasks_by_name() -> None:
    named, placed = (AutoLambda(3, primary=primary).double() for primary in (["c", "a"], [0, 2]))
    with pytest.raises(ConfigurationError, match=r"expected `bind` to tell which tasks \['c', 'a'\] are"):
        named.before_update(TwoLayers(), ALL)
    for balancer in (named, placed):
        balancer.bind(LIKELIHOODS)
        balancer.before_update(TwoLayers(), ALL)
    assert torch.equal(named.lambdas, placed.lambdas)
    with pytest.raises(ConfigurationError, match=r"some of the tasks \['a', 'b', 'c'\], found \['d'\] among them"):
        AutoLambda(3, primary=["a", "d"]).bind(LIKELIHOODS)


def test_resuming_goes_on_as_if_nothing_had_happened() -> None:
    whole, first, second = (AutoLambda(3, lr=0.01) for _ in range(3))
    slopes = torch.randn(6, 3)
    for slope in slopes[:3]:
        whole.learn(slope)
        first.learn(slope)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True), strict=True)
    for slope in slopes[3:]:
        whole.learn(slope)
        second.learn(slope)
    assert torch.equal(second.lambdas, whole.lambdas)
    assert not torch.equal(second.lambdas, first.lambdas)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": -0.1, "floor": 0.0}, "not below the `floor`, found -0.1 and 0.0"),
        ({"primary": [3]}, r"indices from 0 to 2, found \[3\]"),
        ({"primary": []}, r"found \[\]"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        AutoLambda(3, **options)
