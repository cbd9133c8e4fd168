"""torchjd's aggregators as balancers: all of them, absent tasks, state, draws, thresholds, what is refused."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torchjd import Stateful
from torchjd.aggregation import (
    IMTLG,
    MGDA,
    PCD,
    Aggregator,
    AlignedMTL,
    ConFIG,
    Constant,
    CRMOGMWeighting,
    DualProj,
    ExcessMTL,
    FairGrad,
    GradDrop,
    GradVac,
    GramianWeightedAggregator,
    Krum,
    Mean,
    NashMTL,
    PCGrad,
    Random,
    Sum,
    TrimmedMean,
    UPGrad,
    UPGradWeighting,
)
from torchjd.linalg import QuadprogProjector

from mtl_lightning import balancing
from mtl_lightning.balancing.build import BalancerArgument, build_balancer
from mtl_lightning.balancing.torchjd import TorchJD
from mtl_lightning.balancing.torchjd import aggregator as adapter
from mtl_lightning.types import ConfigurationError
from tests.balancing.matrices import DOUBLE, check_finite, check_resume, random_rows, saved_and_loaded, update

PARTIAL = torch.tensor([True, False, True, True])
DETERMINISTIC: dict[str, Callable[[], Aggregator]] = {
    "AlignedMTL": AlignedMTL,
    "ConFIG": ConFIG,
    "DualProj": DualProj,
    "IMTLG": IMTLG,
    "MGDA": MGDA,
    "Mean": Mean,
    "Sum": Sum,
    "UPGrad": UPGrad,
    "Krum": lambda: Krum(n_byzantine=0),
    "TrimmedMean": lambda: TrimmedMean(trim_number=1),
    "FairGrad": lambda: FairGrad(alpha=1.0),
}
DRAWING: dict[str, Callable[[], Aggregator]] = {"GradDrop": GradDrop, "PCGrad": PCGrad, "Random": Random}
STATEFUL: dict[str, Callable[[], Aggregator]] = {
    "ExcessMTL": lambda: ExcessMTL(n_warmup_steps=1),
    "GradVac": GradVac,
    "PCD": PCD,
    "CRMOGM": lambda: GramianWeightedAggregator(CRMOGMWeighting(UPGradWeighting())),
}


class Counting(Aggregator, Stateful):
    """A user's: weights that follow the calls, in NumPy; a part that only a first call makes, as NashMTL does."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.n_tasks = n_tasks
        self.reset()

    def reset(self) -> None:
        self.calls = 0
        self.history: list[float] = []
        self.last = np.ones(self.n_tasks, dtype=np.float32)

    def forward(self, matrix: Tensor, /) -> Tensor:
        if self.calls == 0:
            self.solver = object()
        assert self.solver is not None
        self.calls += 1
        self.last = (0.5 * self.last + matrix.detach().norm(dim=1).numpy()).astype(np.float32)
        self.history.append(float(self.last.sum()))
        return torch.from_numpy(self.last).to(matrix) @ matrix / len(self.history)


def make(factory: Callable[..., Aggregator], tasks: int = 4, **settings: Any) -> TorchJD:
    return TorchJD(tasks, aggregator=factory(), seed=0, **settings)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_present_rows_are_aggregated(name: str) -> None:
    rows = random_rows(4)
    balancer = make(DETERMINISTIC[name])
    torch.testing.assert_close(update(balancer, rows), DETERMINISTIC[name]()(rows))
    torch.testing.assert_close(update(balancer, rows, PARTIAL), DETERMINISTIC[name]()(rows[PARTIAL]))


@pytest.mark.parametrize("name", DRAWING)
def test_draws_follow_the_seed_and_the_updates_alone(name: str) -> None:
    rows = random_rows(4, width=20)
    balancer, other = make(DRAWING[name]), make(DRAWING[name])
    before = torch.random.get_rng_state()
    first, second = update(balancer, rows), update(balancer, rows)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(123)
    assert torch.equal(update(other, rows), first)
    assert torch.equal(update(other, rows), second)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", DRAWING)
def test_draws_go_on_after_a_resume(name: str) -> None:
    check_resume(lambda tasks: make(DRAWING[name], tasks), tasks=4)


@pytest.mark.parametrize("name", ["MGDA", "Mean", "UPGrad", "AlignedMTL", "IMTLG"])
def test_degenerate_rows(name: str) -> None:
    check_finite(lambda tasks: make(DETERMINISTIC[name], tasks))


def test_the_loss_balancer_and_the_scale_are_options() -> None:
    rows = random_rows(4)
    torch.testing.assert_close(update(make(MGDA, rescale="norm"), rows).norm(), rows.sum(0).norm())


def test_half_precision_rows_are_aggregated_in_float32() -> None:
    rows = random_rows(4).bfloat16()
    found = update(make(UPGrad), rows)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, UPGrad()(rows.float()).bfloat16())


# ----------------------------------------------------------------------------------------------------- numbers per task
@pytest.mark.parametrize("aggregator", [UPGrad, DualProj, AlignedMTL, ConFIG])
def test_preferences_of_the_present_tasks(aggregator: Any) -> None:
    vector, rows = torch.tensor([0.1, 0.2, 0.3, 0.4]), random_rows(4)
    balancer = TorchJD(4, aggregator=aggregator(pref_vector=vector))
    expected = aggregator(pref_vector=vector[PARTIAL].double())(rows[PARTIAL])
    torch.testing.assert_close(update(balancer, rows, PARTIAL), expected)
    assert isinstance(balancer.aggregator, aggregator)
    assert torch.equal(balancer.aggregator.pref_vector, vector)
    torch.testing.assert_close(update(balancer, rows), aggregator(pref_vector=vector.double())(rows))


def test_constant_weights_and_leaks_of_the_present_tasks() -> None:
    vector, rows = torch.tensor([0.1, 0.2, 0.3, 0.4]), random_rows(4)
    found = update(TorchJD(4, aggregator=Constant(vector)), rows, PARTIAL)
    torch.testing.assert_close(found, vector[PARTIAL].double() @ rows[PARTIAL])
    found = update(TorchJD(4, aggregator=GradDrop(leak=torch.ones(4))), rows, PARTIAL)
    torch.testing.assert_close(found, rows[PARTIAL].sum(0))


# ---------------------------------------------------------------------------------------------------------------- state
@pytest.mark.parametrize("name", STATEFUL)
def test_state_is_that_of_the_aggregator_alone(name: str) -> None:
    balancer, reference = make(STATEFUL[name]), STATEFUL[name]()
    for seed in range(4):
        rows = random_rows(4, seed=seed)
        with balancer.draws.forked(rows.device):
            expected = reference(rows)
        torch.testing.assert_close(update(balancer, rows), expected)


def resumed(factory: Callable[..., Any], tasks: int = 4) -> tuple[list[Tensor], list[Tensor]]:
    """Six updates in a row, and three, a checkpoint, and three more."""
    rows = [random_rows(tasks, seed=seed) for seed in range(6)]
    straight, first = (TorchJD(tasks, aggregator=factory, seed=0) for _ in range(2))
    expected = [update(straight, r) for r in rows]
    found = [update(first, r) for r in rows[:3]]
    fresh = TorchJD(tasks, aggregator=factory, seed=0)
    assert first.state_dict().keys() == fresh.state_dict().keys()
    second = saved_and_loaded(first, fresh)
    return found + [update(second, r) for r in rows[3:]], expected


@pytest.mark.parametrize("factory", [*(lambda _, name=name: STATEFUL[name]() for name in STATEFUL), Counting])
def test_state_is_saved_and_loaded(factory: Any) -> None:
    found, expected = resumed(factory)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem")
def test_nash_mtl_is_saved_and_loaded() -> None:
    pytest.importorskip("cvxpy")
    pytest.importorskip("ecos")
    found, expected = resumed(NashMTL)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_loading_replaces_what_was_remembered() -> None:
    factory = STATEFUL["GradVac"]
    early, late = make(factory), make(factory)
    update(late, random_rows(4))
    loaded = saved_and_loaded(early, late)
    assert torch.equal(update(loaded, random_rows(4, seed=1)), update(early, random_rows(4, seed=1)))


def test_what_another_aggregator_remembered_is_left_aside() -> None:
    balancer = make(STATEFUL["GradVac"])
    update(balancer, random_rows(4))
    loaded = saved_and_loaded(balancer, make(PCGrad))
    assert isinstance(loaded, TorchJD)
    assert loaded.draws.updates == 1


@pytest.mark.parametrize("name", STATEFUL)
def test_state_follows_the_rows_to_another_precision(name: str) -> None:
    balancer, reference = make(STATEFUL[name]), make(STATEFUL[name])
    for seed in range(3):
        update(balancer, random_rows(4, seed=seed).float())
        update(reference, random_rows(4, seed=seed))
    rows = random_rows(4, seed=3)
    torch.testing.assert_close(update(balancer, rows), update(reference, rows), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "ours"), [("ExcessMTL", "ExcessMTL"), ("GradVac", "GradVac"), ("PCD", "PCD"), ("CRMOGM", "CRMOGM")]
)
def test_state_needs_every_task(name: str, ours: str) -> None:
    balancer = make(STATEFUL[name])
    update(balancer, random_rows(4))
    message = rf"keeps state for all 4 tasks.*none of the tasks with the numbers \[1\].*balancing.{ours}, whose"
    with pytest.raises(ConfigurationError, match=message):
        update(balancer, random_rows(4), PARTIAL)


def test_a_users_stateful_aggregator_needs_every_task_too() -> None:
    with pytest.raises(ConfigurationError, match=r"Counting.* keeps state.* Use a balancer of ours"):
        update(TorchJD(4, aggregator=Counting), random_rows(4), PARTIAL)


def test_nothing_of_the_aggregator_is_in_the_module_tree() -> None:
    class Learned(Mean):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.ones(3))

    balancer = TorchJD(4, aggregator=Learned())
    assert not list(balancer.parameters())
    assert [name for name, _ in balancer.named_modules()] == ["", "losses", "draws"]


def test_copies_are_apart() -> None:
    balancer = make(STATEFUL["GradVac"])
    update(balancer, random_rows(4))
    other, reference = copy.deepcopy(balancer), copy.deepcopy(balancer)
    for seed in range(1, 4):
        update(other, random_rows(4, seed=seed))
    rows = random_rows(4, seed=5)
    assert torch.equal(update(balancer, rows), update(reference, rows))


# ----------------------------------------------------------------------------------------------------------- thresholds
@pytest.mark.parametrize("aggregator", [UPGrad, DualProj])
def test_small_gradients_are_not_taken_for_zero(aggregator: Any) -> None:
    rows = torch.tensor([[1.0, 0.0], [-2.0, 1.0]], dtype=DOUBLE)
    expected = update(TorchJD(2, aggregator=aggregator), rows)
    torch.testing.assert_close(update(TorchJD(2, aggregator=aggregator), 1e-6 * rows), 1e-6 * expected)
    assert not torch.allclose(aggregator()(1e-6 * rows), 1e-6 * expected, atol=0.0)  # what torchjd does


def test_a_users_threshold_stays() -> None:
    chosen = UPGrad(projector=QuadprogProjector(norm_eps=0.25))
    TorchJD(2, aggregator=chosen)
    assert isinstance(chosen.projector, QuadprogProjector)
    assert chosen.projector.norm_eps == 0.25


def test_cagrad_on_small_gradients() -> None:
    pytest.importorskip("cvxpy")
    from torchjd.aggregation import CAGrad

    rows = random_rows(3)
    balancer = functools.partial(TorchJD, 3, aggregator=functools.partial(CAGrad, c=0.5))
    torch.testing.assert_close(update(balancer(), 1e-5 * rows), 1e-5 * update(balancer(), rows), rtol=1e-4, atol=0)


# ------------------------------------------------------------------------------------------------- making, and refusing
def test_works_from_the_number_of_tasks_alone() -> None:
    for tasks in (1, 3):
        rows = random_rows(tasks)
        torch.testing.assert_close(update(TorchJD(tasks), rows), UPGrad()(rows), rtol=1e-6, atol=1e-9)


def test_classes_factories_and_instances() -> None:
    rows = random_rows(3)
    for aggregator in (MGDA, MGDA(), functools.partial(MGDA, max_iters=100), lambda _: MGDA(max_iters=100)):
        assert torch.equal(update(TorchJD(3, aggregator=aggregator), rows), MGDA()(rows))


def test_the_number_of_tasks_is_filled_in() -> None:
    built = build_balancer(Counting, 3)
    assert isinstance(built, TorchJD)
    assert isinstance(built.aggregator, Counting)
    assert built.aggregator.n_tasks == 3


@pytest.mark.parametrize(
    "init_args",
    [None, {"aggregator": {"class_path": "torchjd.aggregation.PCGrad"}, "rescale": "norm"}],
)
def test_from_yaml(init_args: dict[str, Any] | None) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--balancer", type=BalancerArgument)
    part = {"class_path": "mtl_lightning.balancing.torchjd.TorchJD", "init_args": init_args or {}}
    parsed = parser.instantiate(parser.parse_object({"balancer": part})).balancer
    built = build_balancer(parsed, 3)
    assert isinstance(built, TorchJD)
    assert isinstance(built.aggregator, UPGrad if init_args is None else PCGrad)


@pytest.mark.parametrize(
    ("aggregator", "message"),
    [
        (Krum(n_byzantine=1), r"Krum.* cannot combine the gradients of 3 of 3 tasks.*at least 4 rows"),
        (Krum(n_byzantine=0, n_selected=4), r"Krum.* cannot combine the gradients of 3 of 3 tasks.*at least 4 rows"),
        (TrimmedMean(trim_number=2), r"TrimmedMean.* cannot combine the gradients of 3 of 3 tasks.*at least 5 rows"),
        (Constant(torch.ones(2)), r"Constant.* cannot combine the gradients of 3 of 3 tasks.*should have 2 rows"),
        (GradDrop(leak=torch.ones(4)), r"GradDrop.* cannot combine the gradients of 3 of 3 tasks.*exactly 4 rows"),
        (UPGrad(pref_vector=torch.ones(2)), r"UPGrad.* cannot combine the gradients of 3 of 3 tasks.*have 2 rows"),
        (TrimmedMean, "TrimmedMean could not be made: .*missing.*'trim_number'.*functools.partial"),
        (lambda _: 3, "TorchJD: expected as `aggregator` one of torchjd.*found 3"),
    ],
)
def test_what_cannot_be_right_is_refused_at_once(aggregator: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TorchJD(3, aggregator=aggregator)


def test_too_few_present_tasks_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"TrimmedMean.* cannot combine the gradients of 2 of 4 tasks"):
        update(make(DETERMINISTIC["TrimmedMean"]), random_rows(4), torch.tensor([True, False, False, True]))


def test_missing_packages_are_named_with_the_extra() -> None:
    class Unsolvable(NashMTL):
        def __init__(self) -> None:
            raise ImportError("requires ['no_such_solver'] to be installed.")

    with pytest.raises(ConfigurationError, match=r"no_such_solver.*pip install \"mtl-lightning\[solvers\]\""):
        TorchJD(3, aggregator=Unsolvable)


def test_losses_are_as_many_as_tasks() -> None:
    assert make(UPGrad)(torch.ones(4)).item() == 4.0


def test_ours_are_named_where_we_have_them() -> None:
    assert set(adapter._OURS) <= set(balancing.__all__)
