"""Uncertainty weighting: its terms by hand and against torchjd, absent tasks, bounds, options."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from torchjd.scalarization import UW

from mtl_lightning.balancing import Balancer, UncertaintyWeighting
from mtl_lightning.tasks.likelihoods import BERNOULLI, GAUSSIAN, HUBER, LAPLACE, SOFTMAX
from mtl_lightning.types import ConfigurationError, Likelihood
from tests.balancing.uncertainty_cases import (
    LIKELIHOODS,
    each_likelihood,
    make,
    s_of,
    set_s,
)


# ------------------------------------------------------------------------------------------------------------ the value
def test_gaussian_term_by_hand() -> None:
    balancer = make({"a": GAUSSIAN, "b": GAUSSIAN})
    set_s(balancer, [math.log(4.0), math.log(0.5)])  # sigma^2 of 4 and of 1/2
    expected = (8.0 / (2 * 4) + math.log(2.0)) + (3.0 / (2 * 0.5) + 0.5 * math.log(0.5))
    assert balancer(torch.tensor([8.0, 3.0])).item() == pytest.approx(expected, abs=1e-12)


def test_laplace_term_by_hand() -> None:
    balancer = make({"a": LAPLACE})
    set_s(balancer, [math.log(3.0)])
    assert balancer(torch.tensor([6.0])).item() == pytest.approx(6 / 3 + math.log(3.0), abs=1e-12)


@pytest.mark.parametrize("likelihood", [HUBER, SOFTMAX, BERNOULLI])
def test_terms_with_a_whole_loss_and_half_a_log_by_hand(likelihood: Likelihood) -> None:
    balancer = make({"a": likelihood})
    set_s(balancer, [math.log(9.0)])
    assert balancer(torch.tensor([4.5])).item() == pytest.approx(4.5 / 9 + math.log(3.0), abs=1e-12)


def test_liebel_koerner_terms_by_hand() -> None:
    balancer = make({"a": GAUSSIAN, "b": LAPLACE}, regularizer="liebel_koerner")
    set_s(balancer, [math.log(4.0), math.log(3.0)])  # c^2 = 4; a scale of 3
    expected = 8.0 / (2 * 4) + math.log(1 + 4) + 6.0 / 3 + math.log(1 + 9)
    assert balancer(torch.tensor([8.0, 6.0])).item() == pytest.approx(expected, abs=1e-12)


@each_likelihood
def test_liebel_koerner_is_never_negative(name: str) -> None:
    balancer = make({name: LIKELIHOODS[name]}, regularizer="liebel_koerner")
    for s in np.linspace(-8, 8, 33):
        set_s(balancer, [float(s)])
        assert balancer(torch.tensor([1e-6])).item() > 0


def test_kendall_goes_below_zero() -> None:
    balancer = make({"a": GAUSSIAN})
    set_s(balancer, [-4.0])
    assert balancer(torch.tensor([0.01])).item() < 0


def test_agrees_with_torchjd() -> None:
    torch.manual_seed(0)
    s = torch.randn(4, dtype=torch.float64)
    ours, theirs = UncertaintyWeighting(4).double(), UW(4).double()
    set_s(ours, s.tolist())
    with torch.no_grad():
        theirs.log_var.copy_(s)
    losses = torch.rand(4, dtype=torch.float64, requires_grad=True)
    gradients = []
    for scalarizer, parameters in ((ours, list(ours.log_vars)), (theirs, [theirs.log_var])):
        value = scalarizer(losses)
        gradients.append((value, *torch.autograd.grad(value, [losses, *parameters])))
    (value, to_losses, *to_s), (expected, to_losses_expected, to_s_expected) = gradients
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(to_losses, to_losses_expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(torch.cat(to_s), to_s_expected, rtol=1e-14, atol=1e-15)


# ----------------------------------------------------------------------------------------------------- absent, bounds
def test_an_absent_task_leaves_its_s_alone() -> None:
    balancer = make({"a": GAUSSIAN, "b": LAPLACE, "c": SOFTMAX})
    set_s(balancer, [0.3, -0.4, 0.5])
    losses = torch.tensor([1.0, float("nan"), 2.0], dtype=torch.float64)
    objective = balancer.objective(losses, torch.tensor([True, False, True]))
    assert objective.item() == pytest.approx(0.5 * math.exp(-0.3) + 0.15 + 2 * math.exp(-0.5) + 0.25, abs=1e-12)
    torch.autograd.backward(objective)
    gradients = [s.grad.item() for s in balancer.log_vars if s.grad is not None]
    assert gradients[1] == 0.0
    assert all(math.isfinite(g) and g != 0 for g in (gradients[0], gradients[2]))


def test_bounds_are_applied_after_the_step_and_leave_the_gradient_alive() -> None:
    balancer = UncertaintyWeighting(2, bounds=(-1.0, 2.0))
    set_s(balancer, [-5.0, 7.0])
    losses = torch.tensor([100.0, 0.001])
    balancer(losses).backward()
    assert all(s.grad is not None and s.grad.item() != 0 for s in balancer.log_vars)
    kept = [id(s) for s in balancer.log_vars]
    balancer.after_update(losses.clone)
    assert s_of(balancer).tolist() == [-1.0, 2.0]
    assert [id(s) for s in balancer.log_vars] == kept
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.01)
    optimizer.zero_grad()
    balancer(losses).backward()
    optimizer.step()
    low, high = s_of(balancer).tolist()
    assert low > -1.0  # both turn back
    assert high < 2.0


def test_a_loss_of_zero_stops_at_the_lower_bound() -> None:
    balancer = UncertaintyWeighting(1)
    optimizer = torch.optim.Adam(balancer.parameters(), lr=0.5)
    for _ in range(50):
        optimizer.zero_grad()
        balancer(torch.zeros(1)).backward()
        optimizer.step()
        balancer.after_update(torch.zeros(1).clone)
    assert s_of(balancer).item() == -8.0


# ------------------------------------------------------------------------------------------------------------ numbers
@pytest.fixture
def default_dtype() -> Iterator[Callable[[torch.dtype], None]]:
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@pytest.mark.parametrize(
    ("default", "expected"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_made_under_another_default_dtype(
    default: torch.dtype, expected: torch.dtype, default_dtype: Callable[[torch.dtype], None]
) -> None:
    default_dtype(default)
    balancer = UncertaintyWeighting(2)
    assert {s.dtype for s in balancer.log_vars} == {balancer.a.dtype} == {expected}


def test_sigmas_are_those_of_the_likelihoods() -> None:
    balancer = make({"a": GAUSSIAN, "b": LAPLACE, "c": SOFTMAX})
    set_s(balancer, [math.log(4.0), math.log(3.0), math.log(9.0)])
    assert balancer.sigmas().tolist() == pytest.approx([2.0, 3.0 * math.sqrt(2), 3.0])


def test_start_and_state() -> None:
    balancer = UncertaintyWeighting(2, init=-0.5)
    assert s_of(balancer).tolist() == [-0.5, -0.5]
    assert sorted(balancer.state_dict()) == ["log_vars.0", "log_vars.1", "started"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": (2.0, 1.0)}, r"the smaller one first, found \(2.0, 1.0\)"),
        ({"init": 9.0}, r"within the bounds \(-8.0, 8.0\), or 'first_batch', found 9.0"),
        ({"init": math.nan}, "found nan"),
        ({"init": "first"}, "found 'first'"),
        ({"regularizer": "liebel"}, r"one of \['kendall', 'liebel_koerner'\], found 'liebel'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        UncertaintyWeighting(2, **options)


def test_another_number_of_likelihoods_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"likelihoods of 2 tasks, found \['a'\]"):
        UncertaintyWeighting(2).bind({"a": GAUSSIAN})


@pytest.mark.parametrize("fields", [(0.0, 1.0, "log_var"), (1.0, -1.0, "log_var"), (1.0, 1.0, "variance")])
def test_a_likelihood_without_an_optimum_is_refused_by_name(fields: tuple[Any, Any, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Task 'own': expected a likelihood with positive a and b"):
        UncertaintyWeighting(1).bind({"own": Likelihood(*fields)})


@pytest.mark.parametrize("init", ["first_batch", -1.5])
def test_from_yaml(init: str | float) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--balancer", type=Callable[[int], Balancer])
    options = {"init": init, "bounds": [-4, 4.0], "regularizer": "liebel_koerner"}
    part = {"class_path": "mtl_lightning.balancing.UncertaintyWeighting", "init_args": options}
    balancer = parser.instantiate(parser.parse_object({"balancer": part})).balancer(2)
    assert isinstance(balancer, UncertaintyWeighting)
    assert balancer.bounds == (-4.0, 4.0)
    assert balancer.affine == (init != "first_batch")
    assert s_of(balancer).tolist() == [0.0 if init == "first_batch" else init] * 2
