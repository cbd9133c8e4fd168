"""SDMGrad: its minimum, LibMTL's recorded numbers, torchjd's weighting, absent tasks, reloads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchjd.aggregation import SDMGradWeighting

from mtl_lightning.balancing.gradients.sdmgrad import SDMGrad
from mtl_lightning.types import ConfigurationError
from tests.balancing.matrices import DOUBLE, all_present, check_finite, check_order, check_resume, random_rows, update
from tests.golden import Case, cases

REFERENCE_ORDER = [1, 2, 0]  # the reference's first sample gives the gradient, here it is the last


def test_finds_the_minimum() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=DOUBLE)
    balancer = SDMGrad(2, pull=0.5, step_size=0.1, steps=500).double()
    # min over w of (w + 1/4)^2 + 4 (5/4 - w)^2: w = 0.95
    found = update(balancer, rows.expand(3, 2, 2))
    torch.testing.assert_close(found, torch.tensor([1.2, 2 * 0.3], dtype=DOUBLE) / 1.5)


@pytest.mark.parametrize("case", cases("SDMGrad"), ids=str)
def test_the_reference(case: Case) -> None:
    settings = {"pull": case.hyper["SDMGrad_lamda"], "steps": case.hyper["SDMGrad_niter"], "step_size": 5.0}
    balancer = SDMGrad(case.tasks, **settings).double()
    balancer.shares.fill_(1 / case.tasks)
    for step in case.steps:
        found = balancer.gradient(step["J"][REFERENCE_ORDER], step["losses"].mean(0), all_present(case.tasks))
        torch.testing.assert_close(found, step["grad_shared"], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(balancer.shares, step["state_after"]["w"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("preference", [None, [1.0, 3.0, 0.0]])
def test_agrees_with_torchjd(preference: list[float] | None) -> None:
    balancer = SDMGrad(3, pref_vector=preference).double()
    vector = None if preference is None else torch.tensor(preference, dtype=DOUBLE) / sum(preference)
    reference = SDMGradWeighting(pref_vector=vector)
    for seed in range(4):
        noise = random_rows(3, seed=seed, samples=3)
        samples = random_rows(3, seed=99) + 0.1 * noise
        expected = reference(samples[0] @ samples[1].T) @ samples[2]
        torch.testing.assert_close(update(balancer, samples), expected, rtol=1e-5, atol=1e-5)


def test_the_weights_do_not_depend_on_the_scale() -> None:
    samples = random_rows(3, samples=3)
    expected = update(SDMGrad(3), samples)
    for factor in (1e-12, 1e-6, 1e6):
        torch.testing.assert_close(update(SDMGrad(3), factor * samples) / factor, expected, rtol=1e-6, atol=1e-9)


def test_samples_that_agree_on_nothing_leave_the_weights() -> None:
    rows = random_rows(2)
    balancer = SDMGrad(2)
    found = update(balancer, torch.stack([rows, -rows, rows]))
    assert balancer.shares.tolist() == [0.5, 0.5]
    torch.testing.assert_close(found, rows.mean(0))


def test_absent_tasks_keep_their_share() -> None:
    balancer = SDMGrad(3, step_size=0.1).double()
    update(balancer, random_rows(3, seed=4, samples=3))
    before = balancer.shares.clone()
    update(balancer, random_rows(3, seed=5, samples=3), torch.tensor([True, False, True]))
    assert balancer.shares[1] == before[1]
    torch.testing.assert_close(balancer.shares.sum(), before.sum())


def test_one_task_gives_the_gradient_of_the_third_sample() -> None:
    samples = random_rows(1, samples=3)
    torch.testing.assert_close(update(SDMGrad(1), samples), samples[2, 0])


def test_contract() -> None:
    check_resume(SDMGrad, samples=3)
    check_finite(SDMGrad, samples=3)
    check_order(SDMGrad, samples=3, tolerance=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"pref_vector": [1.0]},
        {"pref_vector": [0.0, 0.0]},
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="SDMGrad: expected") as caught:
        SDMGrad(2, **settings)
    assert str(next(iter(settings.values()))) in str(caught.value)
