"""GradDrop: masks by hand, LibMTL's recorded numbers on features, torchjd's on parameters, leaks by name."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torchjd.aggregation import GradDrop as Reference

from mtl_lightning.balancing.gradients.graddrop import GradDrop, drop_masks
from mtl_lightning.types import ConfigurationError, Likelihood
from tests.balancing.matrices import DOUBLE, all_present, check_finite, check_order, check_resume, random_rows, update
from tests.golden import Case, cases

GAUSSIAN = Likelihood(0.5, 0.5, "log_var")


def test_masks_by_hand() -> None:
    signed = torch.tensor([[3.0, 3.0, 1.0, 0.0], [-1.0, -1.0, 2.0, 0.0]])  # P = 0.75, 0.75, 1, 0.5
    draws = torch.tensor([0.5, 0.8, 0.99, 0.2])
    found = drop_masks(signed, torch.tensor([[0.0], [0.25]]), draws)
    assert found.tolist() == [[1.0, 0.0, 1.0, 0.0], [0.25, 1.0, 1.0, 0.25]]


@pytest.mark.parametrize("case", cases("GradDrop"), ids=str)
def test_the_reference_on_features(case: Case) -> None:
    assert case.on_features
    for step in case.steps:
        signed = (step["features"].sign() * step["J_rep"]).sum(1)
        leaks = torch.full((case.tasks, 1), case.hyper["leak"], dtype=DOUBLE)
        masks = drop_masks(signed, leaks, step["random_draws"]["torch_rand_like"][0])
        sent = (masks.unsqueeze(1) * step["J_rep"]).sum(0)
        if sent.numel() == step["grad_shared"].numel():  # the features are the parameters themselves
            torch.testing.assert_close(sent.reshape(-1), step["grad_shared"], rtol=1e-9, atol=1e-12)
        else:  # Linear(4, 6): the gradient of its bias is that of the features, summed over the batch
            torch.testing.assert_close(sent.sum(0), step["grad_shared"][-6:], rtol=1e-9, atol=1e-12)
        assert bool((step["head_multiplier"] == 1).all())


@pytest.mark.parametrize("leak", [None, [0.1, 0.5, 0.0]])
def test_parameters_agree_with_torchjd(leak: list[float] | None) -> None:
    rows = random_rows(3, width=500)
    leaks = torch.zeros(3, dtype=DOUBLE) if leak is None else torch.tensor(leak, dtype=DOUBLE)
    torch.manual_seed(7)
    expected = Reference(leak=None if leak is None else leaks)(rows)
    torch.manual_seed(7)
    masks = drop_masks(rows, leaks.unsqueeze(1), torch.rand(500, dtype=DOUBLE))
    torch.testing.assert_close((masks * rows).sum(0), expected)


def test_parameters_use_the_balancers_own_draws() -> None:
    rows = random_rows(3, width=50)
    balancer = GradDrop(3, level="parameters", leak=[0.1, 0.5, 0.0], seed=3).double()
    masks = drop_masks(rows, balancer.leaks.unsqueeze(1), balancer.draws.uniform(50, like=rows))
    first = update(balancer, rows)
    torch.testing.assert_close(first, (masks * rows).sum(0))
    assert not torch.equal(update(balancer, rows), first)


def test_masks_are_the_same_until_the_update_is_made() -> None:
    balancer, signed = GradDrop(3), random_rows(3, width=50)
    assert torch.equal(balancer.masks(signed, all_present(3)), balancer.masks(signed, all_present(3)))


def test_the_chance_of_a_sign_is_its_purity() -> None:
    signed = torch.tensor([3.0, -1.0], dtype=DOUBLE).unsqueeze(1).expand(2, 20000)
    masks = GradDrop(2, seed=0).masks(signed, all_present(2))
    assert torch.equal(masks[0] + masks[1], torch.ones(20000, dtype=DOUBLE))
    assert masks[0].mean().item() == pytest.approx(0.75, abs=0.01)


def test_one_task_passes_whole() -> None:
    rows = random_rows(1)
    assert torch.equal(update(GradDrop(1, level="parameters"), rows), rows[0])


def test_leaks_follow_the_names_and_the_tasks_that_are_present() -> None:
    balancer = GradDrop(3, leak={"c": 0.3, "a": 0.1, "b": 0.2})
    balancer.bind(dict.fromkeys("abc", GAUSSIAN))
    torch.testing.assert_close(balancer.leaks, torch.tensor([0.1, 0.2, 0.3]))
    masks = balancer.masks(torch.zeros(2, 4), torch.tensor([True, False, True]))
    torch.testing.assert_close(masks, torch.tensor([[0.1], [0.3]]).expand(2, 4))


def test_leaks_by_name_need_binding_and_all_names() -> None:
    with pytest.raises(ConfigurationError, match=r"expected `bind` to tell which tasks \['a', 'b'\] are"):
        GradDrop(2, leak={"a": 0.1, "b": 0.2}).masks(torch.ones(2, 1), all_present(2))
    with pytest.raises(ConfigurationError, match=r"each of the tasks \['a', 'b'\], found some for \['a', 'x'\]"):
        GradDrop(2, leak={"a": 0.1, "x": 0.2}).bind(dict.fromkeys("ab", GAUSSIAN))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"leak": [0.1]}, r"one leak for each of 2 tasks, found 1: \[0.1\]"),
        ({"level": "last_layer"}, "`level` to be one of .*, found 'last_layer'"),
        ({"rescale": "norm"}, "`rescale` to be 'none' on features.*found 'norm'"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"GradDrop: expected {message}"):
        GradDrop(2, **settings)


def test_contract() -> None:
    make = functools.partial(GradDrop, level="parameters", leak=0.2, seed=1)
    check_resume(make)
    check_finite(make)
    check_order(make)
