"""torchjd's scalarizers as balancers: values, absent tasks, randomness, state, precision, training."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from torchjd.scalarization import (
    COSMOS,
    DWA,
    FAMO,
    IMTLL,
    PBI,
    STCH,
    UW,
    Constant,
    GeometricMean,
    Mean,
    Random,
    Scalarizer,
    Sum,
)

from mtl_lightning import MultiTaskModule
from mtl_lightning.balancing.rows import GramianBalancer, LossBalancer
from mtl_lightning.balancing.torchjd import TorchJDScalarizer
from mtl_lightning.types import ConfigurationError
from tests.balancing.loss_cases import flags, reloaded, weights_of
from tests.core.saved import BATCHES, PATH, trained
from tests.helpers import make_module

LOSSES = torch.tensor([1.0, 2.0, 4.0])
W, Z = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.1, 0.0, -1.0])
STATELESS: dict[str, tuple[type[Scalarizer], dict[str, float], dict[str, Tensor]]] = {  # arrays: an entry per task
    "Mean": (Mean, {}, {}),
    "Sum": (Sum, {}, {}),
    "GeometricMean": (GeometricMean, {}, {}),
    "Constant": (Constant, {}, {"weights": W}),
    "STCH": (STCH, {"mu": 0.5}, {}),
    "STCH with arrays": (STCH, {"mu": 0.5}, {"weights": W, "reference": Z}),
    "COSMOS": (COSMOS, {"lambda_": 2.0}, {"weights": W}),
    "PBI": (PBI, {"theta": 5.0}, {"weights": W, "reference": Z}),
}
STATEFUL: dict[str, Callable[[], Scalarizer]] = {
    "UW": lambda: UW(3),
    "IMTLL": lambda: IMTLL(3),
    "DWA": DWA,
    "FAMO": lambda: FAMO(3),
}
EVERYONE, SOME = torch.arange(3), torch.tensor([0, 2])
each_stateless = pytest.mark.parametrize("name", STATELESS)
each_stateful = pytest.mark.parametrize("name", STATEFUL)


def stateless(name: str, tasks: Tensor = EVERYONE) -> Scalarizer:
    """One that is made for the tasks with these indices."""
    cls, numbers, arrays = STATELESS[name]
    return cls(**numbers, **{key: array[tasks] for key, array in arrays.items()})


def adapted(scalarizer: Scalarizer, seed: int | None = 0) -> TorchJDScalarizer:
    return TorchJDScalarizer(3, scalarizer=scalarizer, seed=seed)


def losses_of(step: int) -> Tensor:
    return torch.rand(3, generator=torch.Generator().manual_seed(step)) + 0.2


def train(balancer: TorchJDScalarizer, steps: range, epoch: int = 3) -> list[float]:
    """Make updates, with an epoch's end after every third; return the objectives."""
    parameters = list(balancer.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1) if parameters else None
    found = []
    for step in steps:
        losses = losses_of(step).to(balancer.like).requires_grad_()
        objective = balancer(losses)
        torch.autograd.backward(objective)
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        after = losses_of(100 + step).to(balancer.like)
        balancer.after_update(after.clone)
        if (step + 1) % epoch == 0:
            balancer.after_epoch(losses_of(step), flags(1, 1, 1))
        found.append(objective.item())
    return found


# --------------------------------------------------------------------------------------------------------- no state
@each_stateless
def test_without_state_the_present_losses_are_all_it_sees(name: str) -> None:
    balancer = adapted(stateless(name))
    assert torch.equal(balancer(LOSSES), stateless(name)(LOSSES))
    some, losses = flags(1, 0, 1), torch.tensor([1.0, math.nan, 4.0])
    assert torch.equal(balancer(losses, some), stateless(name, SOME)(losses[SOME]))
    weights = weights_of(balancer, losses, some)
    assert weights[1] == 0
    assert weights[SOME].isfinite().all()
    assert torch.equal(balancer(LOSSES), stateless(name)(LOSSES))  # it is itself as it was
    assert balancer(losses, flags(0, 0, 0)) == 0


def test_arrays_that_were_exchanged_count() -> None:
    scalarizer = COSMOS(2.0, W)
    balancer = adapted(scalarizer)
    scalarizer.weights = W.flip(0)
    assert torch.equal(balancer(LOSSES), COSMOS(2.0, W.flip(0))(LOSSES))
    assert torch.equal(balancer(LOSSES, flags(1, 0, 1)), COSMOS(2.0, W.flip(0)[SOME])(LOSSES[SOME]))


class Both(Scalarizer):
    """A user's own, made of others."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.first, self.second = Constant(weights), STCH(1.0)
        self._share = 0.5

    def forward(self, values: Tensor, /) -> Tensor:
        return self._share * self.first(values) + self._share * self.second(values)


def test_arrays_inside_of_parts_need_every_task() -> None:
    balancer = adapted(Both(W))
    assert torch.equal(balancer(LOSSES), Both(W)(LOSSES))
    with pytest.raises(ConfigurationError, match="torchjd's Both keeps state for all 3 tasks at once"):
        balancer(LOSSES, flags(1, 1, 0))


# ------------------------------------------------------------------------------------------------------- randomness
def test_draws_follow_from_the_seed_and_the_update() -> None:
    first, second = adapted(Random(), seed=4), adapted(Random(), seed=4)
    found = []
    for step in range(3):
        torch.manual_seed(step)
        found.append(weights_of(first, LOSSES))
        assert torch.equal(weights_of(first, 2 * LOSSES), found[-1])
        assert torch.equal(weights_of(second, LOSSES), found[-1])
        first.after_update(lambda: LOSSES)
        second.after_update(lambda: LOSSES)
    assert not torch.equal(found[0], found[1])
    assert found[0].sum().item() == pytest.approx(1.0)
    assert not torch.equal(weights_of(adapted(Random(), seed=5), LOSSES), found[0])


def test_the_global_random_state_is_left_as_it_was() -> None:
    state = torch.random.get_rng_state()
    adapted(Random())(LOSSES)
    assert torch.equal(torch.random.get_rng_state(), state)


# ------------------------------------------------------------------------------------------------------------ state
@each_stateful
def test_does_what_the_scalarizer_does(name: str) -> None:
    plain = STATEFUL[name]()
    public = {n: p for n, p in plain.named_parameters() if not n.startswith("_")}
    optimizer = torch.optim.SGD(public.values(), lr=0.1) if public else None
    expected = []
    for step in range(9):
        objective = plain(losses_of(step).requires_grad_())
        torch.autograd.backward(objective)
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        if isinstance(plain, FAMO):
            plain.update(losses_of(100 + step))
        if isinstance(plain, DWA) and (step + 1) % 3 == 0:
            plain.step()
        expected.append(objective.item())
    assert train(adapted(STATEFUL[name]()), range(9)) == expected


@pytest.mark.parametrize(
    ("name", "learned"), [("UW", ["log_var"]), ("IMTLL", ["log_scale"]), ("DWA", []), ("FAMO", [])]
)
def test_only_what_the_users_optimizer_is_to_learn_is_a_parameter(name: str, learned: list[str]) -> None:
    balancer = adapted(STATEFUL[name]())
    assert [n for n, _ in balancer.named_parameters()] == [f"learned.{part}" for part in learned]
    assert balancer.owned() == {}


def test_only_one_that_counts_epochs_follows_them() -> None:
    assert [name for name in STATEFUL if adapted(STATEFUL[name]()).follows_epochs] == ["DWA"]


@pytest.mark.parametrize("steps", [0, 1, 4, 8])
@pytest.mark.parametrize("name", [*STATEFUL, "Random"])
def test_goes_on_after_a_reload(name: str, steps: int) -> None:
    make = {**STATEFUL, "Random": Random}[name]
    balancer = adapted(make())
    train(balancer, range(steps))
    fresh = reloaded(balancer, adapted(make(), seed=99))
    assert list(fresh.state_dict()) == list(balancer.state_dict())
    assert train(fresh, range(steps, 12)) == train(balancer, range(steps, 12))


def test_goes_back_to_an_earlier_state() -> None:
    balancer = adapted(FAMO(3))
    before = copy.deepcopy(balancer.state_dict())
    first = train(balancer, range(5))
    balancer.load_state_dict(before)
    assert train(balancer, range(5)) == first


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
@each_stateful
def test_copies_are_equal_and_apart(name: str, clone: Any) -> None:
    balancer = adapted(STATEFUL[name]())
    train(balancer, range(4))
    other = clone(balancer)
    found = train(other, range(4, 12))
    assert train(balancer, range(4, 12)) == found


@pytest.mark.parametrize(
    ("name", "ours"), [("UW", "UncertaintyWeighting"), ("IMTLL", "IMTLL"), ("DWA", "DWA"), ("FAMO", "FAMO")]
)
def test_state_needs_every_task(name: str, ours: str) -> None:
    balancer = adapted(STATEFUL[name]())
    with pytest.raises(ConfigurationError) as caught:
        balancer(LOSSES, flags(1, 0, 0))
    assert f"torchjd's {name} keeps state for all 3 tasks at once" in str(caught.value)
    assert r"found none of the tasks with the numbers [1, 2]. Use mtl_lightning.balancing." + ours in str(caught.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@each_stateful
def test_losses_that_are_not_finite_reach_no_state(name: str, bad: float) -> None:
    balancer, other = adapted(STATEFUL[name]()), adapted(STATEFUL[name]())
    train(balancer, range(4))
    train(other, range(4))
    assert not balancer(torch.tensor([1.0, bad, 1.0])).isfinite()  # the update is then skipped: no `after_update`
    assert train(balancer, range(4, 12)) == train(other, range(4, 12))
    balancer(losses_of(0))
    balancer.after_update(lambda: torch.tensor([1.0, bad, 1.0]))
    assert balancer(losses_of(1)).isfinite()


@each_stateful
def test_state_of_another_number_of_tasks_or_scalarizer_is_left_alone(name: str) -> None:
    balancer = adapted(STATEFUL[name]())
    train(balancer, range(4))
    state = balancer.get_extra_state()
    cls: Any = type(balancer.scalarizer)
    other = TorchJDScalarizer(2, scalarizer=DWA() if name == "DWA" else cls(2))
    other.set_extra_state(state)
    assert other(LOSSES[:2]).isfinite()
    mean = adapted(Mean())
    mean.set_extra_state(state)
    assert mean(LOSSES) == LOSSES.mean()


# -------------------------------------------------------------------------------------------------------- precision
@each_stateful
def test_follows_a_change_of_precision(name: str) -> None:
    balancer = adapted(STATEFUL[name]())
    train(balancer, range(4))
    balancer.double()
    assert all(p.dtype == torch.float64 for p in balancer.scalarizer.parameters())
    assert {id(p) for p in balancer.parameters()} <= {id(p) for p in balancer.scalarizer.parameters()}
    assert balancer(losses_of(0).double()).dtype == torch.float64
    train(balancer, range(4, 12))


@each_stateful
def test_is_never_below_float32(name: str) -> None:
    balancer, other = adapted(STATEFUL[name]()), adapted(STATEFUL[name]())
    train(balancer, range(4))
    train(other, range(4))
    balancer.half()
    assert train(balancer, range(4, 12)) == train(other, range(4, 12))


@each_stateless
def test_arrays_follow_a_change_of_precision(name: str) -> None:
    balancer = adapted(stateless(name)).double()
    assert balancer(LOSSES.double(), flags(1, 1, 0)).dtype == torch.float64
    arrays = [value for value in vars(balancer.scalarizer).values() if isinstance(value, Tensor)]
    assert all(array.dtype == torch.float64 for array in arrays)


# ---------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize("scalarizer", [UW(2), FAMO(4), Constant(W[:2]), STCH(1.0, W, Z[:2]), Both(W[:2])])
def test_another_number_of_tasks_is_refused(scalarizer: Scalarizer) -> None:
    with pytest.raises(ConfigurationError, match=r"of shape \(3,\), one entry per task, found \([24],\)"):
        adapted(scalarizer)


class Unsavable(Scalarizer):
    def __init__(self) -> None:
        super().__init__()
        self._source = torch.Generator()

    def forward(self, values: Tensor, /) -> Tensor:
        return values.sum()


def test_state_that_a_checkpoint_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Unsavable\._source: expected state of tensors"):
        adapted(Unsavable())


def test_what_makes_no_scalarizer_is_refused() -> None:
    other: Any = torch.nn.Identity
    with pytest.raises(ConfigurationError, match="expected as `scalarizer` one of torchjd, its class or a function"):
        TorchJDScalarizer(3, scalarizer=other)


# ---------------------------------------------------------------------------------------------------------- training
class Mu(STCH):
    """With the value of its argument that has no default."""

    def __init__(self) -> None:
        super().__init__(mu=0.5)


@pytest.mark.parametrize("part", [UW, DWA, FAMO, Mu, Random])
def test_trains_and_is_rebuilt_from_its_checkpoint(part: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = trained(make_module(balancer=part), BATCHES, max_epochs=2)
    assert isinstance(module.balancer, TorchJDScalarizer)
    loaded = MultiTaskModule.load_from_checkpoint(PATH, trusted=[__name__]).balancer
    assert isinstance(loaded, TorchJDScalarizer)
    assert type(loaded.scalarizer) is part
    assert torch.equal(loaded(LOSSES), module.balancer(LOSSES))
    if part is DWA:  # which knows two epochs then
        assert not torch.equal(weights_of(loaded, LOSSES), torch.ones(3))


class Sums(GramianBalancer):
    """The plainest gradient balancer."""

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        return torch.ones_like(losses)


def test_as_the_loss_balancer_of_a_gradient_balancer() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--losses", type=LossBalancer)
    init_args = {"scalarizer": "torchjd.scalarization.IMTLL", "seed": 3}
    part = {"class_path": "mtl_lightning.balancing.torchjd.TorchJDScalarizer", "init_args": init_args}
    balancer = Sums(3, losses=parser.instantiate(parser.parse_object({"losses": part})).losses)
    assert [p.shape for p in balancer.parameters()] == [(3,)]
    assert balancer(LOSSES).item() == 7.0
