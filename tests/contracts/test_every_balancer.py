"""What every balancer promises of the update that it makes, those of torchjd included."""

from __future__ import annotations

import copy
import io
from collections.abc import Hashable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning.balancing import Balancer
from mtl_lightning.types import ConfigurationError
from tests.contracts.balancer_cases import CASES, Case, problem, train, update_of, with_permuted_draws
from tests.cover import covering, pairs_of

TASKS = 4
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_case_of_ours = pytest.mark.parametrize("case", [case for case in CASES if case.ours], ids=str)


def fresh(case: Case, tasks: int = TASKS) -> Balancer:
    return case.make(tasks).double()


def tolerance(case: Case) -> dict[str, Any]:
    """torchjd's NashMTL solves to 1e-3, its other iterative solvers to 1e-6 or so."""
    if "NashMTL" in case.name and not case.ours:
        return {"rtol": 1e-3, "atol": 1e-3}
    return {"rtol": 1e-9, "atol": 1e-9} if case.ours else {"rtol": 1e-3, "atol": 1e-4}


@every_case
def test_updates_are_finite_and_not_zero(case: Case) -> None:
    for update in train(fresh(case), 5):
        assert update.isfinite().all()
        assert update.norm() > 1e-6


@every_case
def test_permuting_the_tasks_changes_nothing(case: Case) -> None:
    order = [0, 2, 3, 1] if case.first_differs else [2, 0, 3, 1]
    plain, permuted = fresh(case), case.make(TASKS, order=order).double()
    jacobian, losses = problem(TASKS)
    if not case.ours and draws(case):  # torchjd draws from a global generator: compare many draws
        first, second = many_updates(plain, jacobian, losses), many_updates(permuted, jacobian[order], losses[order])
        error = (first.var(0) / len(first) + second.var(0) / len(second)).sqrt()
        assert ((first.mean(0) - second.mean(0)).abs() <= 5 * error + 1e-9).all()
        return
    with_permuted_draws(permuted, torch.tensor(order))
    found = update_of(permuted, jacobian[order], losses[order])
    torch.testing.assert_close(found, update_of(plain, jacobian, losses), **tolerance(case))


def draws(case: Case) -> bool:
    """Whether a method of torchjd draws: its adapter does not know, and has a generator at any rate."""
    jacobian, losses = problem(TASKS)
    first, second = (update_of(case.make(TASKS, seed=seed).double(), jacobian, losses) for seed in (0, 1))
    return not torch.equal(first, second)


def many_updates(balancer: Balancer, jacobian: Tensor, losses: Tensor, draws: int = 200) -> Tensor:
    updates = []
    for _ in range(draws):
        updates.append(update_of(balancer, jacobian, losses).detach())
        balancer.after_update(lambda: losses)
    return torch.stack(updates)


@every_case
def test_scale_is_as_declared(case: Case) -> None:
    trained = fresh(case)
    train(trained, 4)
    jacobian, losses = problem(TASKS, seed=7)
    expected = update_of(copy.deepcopy(trained), jacobian, losses)
    for factor in (0.1, 10.0):
        found = update_of(copy.deepcopy(trained), factor * jacobian, factor * losses)
        if trained.scale == "linear":
            torch.testing.assert_close(found, factor * expected, rtol=1e-4, atol=1e-6)
        elif trained.scale == "invariant":
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        else:
            assert trained.scale == "none"


@every_case
def test_k_steps_reload_k_steps_are_2k_steps(case: Case) -> None:
    whole, first = fresh(case), fresh(case)
    expected = train(whole, 6)[3:]
    train(first, 3)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = case.make(TASKS, seed=99).double()
    second.load_state_dict(torch.load(file, weights_only=True))
    for found, wanted in zip(train(second, 3, start=3), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@every_case
def test_an_absent_task_neither_moves_nor_is_moved(case: Case) -> None:
    present = torch.tensor([True, False, True, True])
    balancer = fresh(case)
    train(balancer, 2)
    before = per_task(balancer, 1)
    jacobian, losses = problem(TASKS, seed=5)
    changed, other = jacobian.clone(), copy.deepcopy(balancer)
    changed[1] = 1e3
    if refuses_absences(copy.deepcopy(balancer), jacobian, losses, present):
        assert not case.ours
        return
    update = update_of(balancer, jacobian, losses, present)
    torch.testing.assert_close(update_of(other, changed, losses.index_fill(0, torch.tensor(1), 1e3), present), update)
    train(balancer, 2, start=2, present=present)
    for name, value in per_task(balancer, 1).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, msg=name)


def refuses_absences(balancer: Balancer, jacobian: Tensor, losses: Tensor, present: Tensor) -> bool:
    """Whether it says, naming what to use instead, that it needs every task."""
    try:
        update_of(balancer, jacobian, losses, present)
    except ConfigurationError as error:
        return "expected every task to have a label in each update" in str(error) or pytest.fail(str(error))
    return False


def per_task(balancer: Balancer, index: int) -> dict[str, Any]:
    """The entries of all state of one length that belong to one task."""
    found = {}
    for name, value in balancer.state_dict().items():
        if isinstance(value, torch.Tensor) and value.dim() and len(value) == balancer.num_tasks:
            found[name] = value[index].clone()
    for parameter in balancer.owned().get(index, []):
        found[f"owned {len(found)}"] = parameter.detach().clone()
    return found


@every_case_of_ours
def test_one_task_alone_gets_its_own_direction(case: Case) -> None:
    jacobian, losses = problem(1)
    found = update_of(fresh(case, 1), jacobian, losses)
    cosine = torch.nn.functional.cosine_similarity(found, jacobian[0], dim=0)
    assert cosine > 1 - 1e-9 or (case.name.startswith("GradDrop") and found.isfinite().all())


SHAPES: dict[str, Any] = {
    "a zero row": lambda j: torch.cat([torch.zeros_like(j[:1]), j[1:]]),
    "identical rows": lambda j: j[:1].expand_as(j).clone(),
    "opposing rows": lambda j: torch.cat([j[:1], -j[:1], j[2:]]),
    "tiny rows": lambda j: 1e-6 * j,
    "huge rows": lambda j: 1e6 * j,
    "all zero": torch.zeros_like,
}


def _pairs(case: tuple[Any, ...]) -> set[Hashable]:
    """Of method, form and shape."""
    method, _, form = case[0].name.partition("-")
    return pairs_of(method, form, case[1])


@pytest.mark.parametrize(("case", "shape"), covering([*product(CASES, SHAPES)], _pairs))
def test_degenerate_rows_give_finite_updates(case: Case, shape: str) -> None:
    if shape == "all zero" and not case.ours:
        return  # torchjd's NashMTL refuses; nothing else is promised
    balancer = fresh(case)
    jacobian, losses = problem(TASKS)
    changed = SHAPES[shape](jacobian)
    if shape == "a zero row" and case.ours:
        losses[0] = 0.0  # torchjd's GeometricMean is defined for positive losses
    found = update_of(balancer, changed, losses)
    assert found.isfinite().all()
    if shape in ("identical rows", "tiny rows", "huge rows"):
        assert found.norm() > 0
    if shape == "all zero":
        assert found.norm() == 0


@every_case
def test_another_number_of_losses_is_refused(case: Case) -> None:
    with pytest.raises(ValueError, match=r"Expected losses of shape \(4,\), found"):
        fresh(case)(torch.ones(3))
