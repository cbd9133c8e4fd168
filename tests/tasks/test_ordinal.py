"""Levels in order: cumulative logits by hand, cut points that are learned and recovered, kappa, extreme outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit  # type: ignore[import-untyped]  # it ships no types
from sklearn.metrics import accuracy_score, cohen_kappa_score, mean_absolute_error
from torch import Tensor, nn
from torchmetrics.classification import MulticlassCohenKappa

from mtl_lightning import MultiTaskModule
from mtl_lightning.core.network import Network
from mtl_lightning.tasks import Ordinal, Task
from mtl_lightning.tasks.ordinal_metrics import QuadraticKappa
from mtl_lightning.types import ConfigurationError, TargetSpec, TensorSpec
from tests.helpers import NETWORK, fit, make_module
from tests.tasks.recovery import Floats, assert_recovered, fitted_head, most_likely

CUTS = np.array([-2.0, -0.5, 0.7, 2.5])
SLOPES = np.array([1.5, -0.8])


def ratings(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs (N, 2) and ratings 0..4 by a score that is linear in them, with logistic noise."""
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((rows, 2))
    latent = inputs @ SLOPES + random.logistic(size=rows)
    return torch.from_numpy(inputs), torch.from_numpy(np.searchsorted(CUTS, latent))


def test_proportional_odds_by_hand() -> None:
    task = Ordinal(num_classes=5).double()
    assert task.offsets is not None
    with torch.no_grad():
        task.offsets[0] = 2.0  # minus the first cut point
        task.offsets[1:] = torch.from_numpy(np.log(np.expm1(np.diff(CUTS))))
    torch.testing.assert_close(task.cut_points, torch.from_numpy(CUTS))
    score = torch.tensor([[0.3], [-4.0], [9.0]], dtype=torch.float64)
    above = expit(score.numpy() - CUTS)
    expected = -np.diff(np.hstack([np.ones((3, 1)), above, np.zeros((3, 1))]))
    with torch.no_grad():
        found, estimate = task.predict(task.complete(score)), task.estimate(task.complete(score))
    np.testing.assert_allclose(found["probability"], expected, rtol=1e-9)
    np.testing.assert_allclose(found["rank"], expected @ np.arange(5), rtol=1e-9)
    assert found["label"].tolist() == expected.argmax(1).tolist() == [3, 0, 4]
    np.testing.assert_allclose(estimate, above, rtol=1e-9)
    levels = torch.tensor([1, 0, -100])
    loss = task.loss(task.complete(score), levels)
    assert loss.item() == pytest.approx(-np.log(expected[0, 1]) - np.log(expected[1, 0]), rel=1e-9)


def test_at_the_start_all_levels_are_equally_likely() -> None:
    task = Ordinal(num_classes=7)
    found = task.predict(task.complete(torch.zeros(2, 1)))["probability"]
    torch.testing.assert_close(found, torch.full((2, 7), 1 / 7))


def test_cut_points_are_of_the_task_and_learned() -> None:
    torch.manual_seed(0)
    inputs, levels = ratings(64)
    tasks = {"stars": Ordinal(num_classes=5), "free": Ordinal(num_classes=5, proportional=False)}
    module = make_module(tasks={**tasks}, input_spec=TensorSpec((2,)))
    offsets = "tasks.stars.offsets"
    assert set(module.roles.tasks["stars"]) == {"heads.stars.map.weight", "heads.stars.map.bias", offsets}
    assert offsets in module.plan.groups["stars"]
    assert set(module.roles.tasks["free"]) == {"heads.free.map.weight", "heads.free.map.bias"}
    assert [module.heads.get_parameter(f"{name}.map.weight").shape[0] for name in tasks] == [1, 4]
    before = tasks["stars"].cut_points.clone()
    fit(module, [{"inputs": inputs, "targets": {"stars": levels, "free": levels}}] * 5)
    after = tasks["stars"].cut_points
    assert (after != before).all()
    assert (after.diff() > 0).all()
    assert offsets in module.state_dict()


def test_cut_points_survive_a_checkpoint(tmp_path: Any) -> None:
    inputs, levels = ratings(64)
    module = make_module(tasks={"stars": Ordinal(TargetSpec(classes=5))}, input_spec=TensorSpec((2,)))
    trainer = fit(module, [{"inputs": inputs, "targets": {"stars": levels}}] * 3)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = MultiTaskModule.load_from_checkpoint(tmp_path / "a.ckpt")
    stars = again.tasks["stars"]
    assert isinstance(stars, Ordinal)
    trained = module.tasks["stars"]
    assert isinstance(trained, Ordinal)
    torch.testing.assert_close(stars.cut_points, trained.cut_points.float(), rtol=0, atol=1e-6)


def test_a_network_of_ones_own_gives_a_score_or_complete_outputs() -> None:
    class Own(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.last = nn.Linear(2, size)

        def forward(self, inputs: Tensor) -> dict[str, Tensor]:
            return {"stars": self.last(inputs)}

    for size in (1, 4):
        network = Network({"stars": Ordinal(num_classes=5)}, Own(size), TensorSpec((2,)))
        assert network(torch.ones(3, 2))["stars"].shape == (3, 4)
        assert network.predict(torch.ones(3, 2))["stars"]["probability"].shape == (3, 5)
    with pytest.raises(ConfigurationError, match=r"expected outputs of shape \(B, 4\), found \(3, 2\)"):
        Network({"stars": Ordinal(num_classes=5)}, Own(2), TensorSpec((2,))).predict(torch.ones(3, 2))


def test_of_two_levels_it_is_a_binary_classification() -> None:
    task = Ordinal(num_classes=2)
    assert task.offsets is None
    output, target = torch.randn(6, 1), torch.tensor([0, 1, 1, 0, 1, -100])
    kept = target >= 0
    expected = nn.functional.binary_cross_entropy_with_logits(output[kept, 0], target[kept].float(), reduction="sum")
    torch.testing.assert_close(task.loss(output, target), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_outputs_give_finite_losses_gradients_and_probabilities(dtype: torch.dtype) -> None:
    task = Ordinal(num_classes=4)
    sizes = torch.tensor([-6e4, -300.0, -1.0, 0.0, 1.0, 300.0, 6e4])
    output = torch.cartesian_prod(sizes, sizes, sizes).to(dtype).requires_grad_()
    for level in range(4):
        loss = task.loss(output, torch.full((len(output),), level))
        assert loss.isfinite()
        (gradient,) = torch.autograd.grad(loss, output)
        assert gradient.isfinite().all()
    found = task.predict(output)["probability"]
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(len(found)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_agree_with_scikit_learn(weighted: bool) -> None:
    torch.manual_seed(1)
    task = Ordinal(num_classes=5)
    metrics = task.metrics("val")
    output, target = 2 * torch.randn(300, 4), torch.randint(0, 5, (300,))
    target[::7] = -100
    weight = torch.rand(300) if weighted else None
    for rows in (slice(0, 100), slice(100, 300)):
        task.update(metrics, output[rows], target[rows], None if weight is None else weight[rows])
    kept = target >= 0
    said, true = task.predict(output)["label"][kept], target[kept]
    sizes = None if weight is None else weight[kept]
    assert {name: value.item() for name, value in metrics.compute().items()} == pytest.approx(
        {
            "accuracy": accuracy_score(true, said, sample_weight=sizes),
            "mae": mean_absolute_error(true, said, sample_weight=sizes),
            "kappa": cohen_kappa_score(true, said, weights="quadratic", labels=range(5), sample_weight=sizes),
        },
        rel=1e-5,
    )
    if weight is None:
        theirs = MulticlassCohenKappa(num_classes=5, weights="quadratic")(said, true)
        torch.testing.assert_close(metrics["kappa"].compute(), theirs)


def test_kappa_of_a_constant_is_0() -> None:
    kappa = QuadraticKappa(3)
    kappa.update(torch.tensor([1, 1, 1]), torch.tensor([1, 1, 1]))
    assert kappa.compute() == 0
    kappa.update(torch.tensor([1, 1]), torch.tensor([0, 2]))
    assert kappa.compute() == 0


def test_the_trivial_predictor_gives_the_levels_shares() -> None:
    task = Ordinal(num_classes=4)
    rows = torch.tensor([0] * 5 + [1] * 3 + [3] * 12)
    weight = torch.ones(20)
    weight[:5] = 2.0
    found = task.predict(task.trivial_output(task.trivial_prediction(rows, weight))[None])["probability"][0]
    assert found[2] < 0.03
    torch.testing.assert_close(found[[0, 1, 3]] / found[0], torch.tensor([10, 3, 12]).double() / 10)


def test_reads_give_the_reader_cumulative_probabilities() -> None:
    tasks: dict[str, Task] = {"stars": Ordinal(num_classes=5), "kind": Ordinal(num_classes=3)}
    module = make_module(tasks=tasks, input_spec=TensorSpec((2,)), reads={"kind": ["stars"]}, architecture=NETWORK)
    assert module.heads.get_parameter("kind.map.weight").shape == (1, 6 + 4)


# ------------------------------------------------------------------------------------------------------------- recovery
def negative_log_likelihood(inputs: Tensor, levels: Tensor) -> Any:
    """McCullagh's, in NumPy: of (slopes, cut points)."""
    x, y = inputs.numpy(), levels.numpy()
    rows = np.arange(len(y))

    def negative(parameters: Floats) -> float:
        if (np.diff(parameters[2:]) <= 0).any():
            return 1e9
        upto = np.hstack([expit(parameters[2:] - (x @ parameters[:2])[:, None]), np.ones((len(y), 1))])
        upto = np.hstack([np.zeros((len(y), 1)), upto])
        return float(-np.log(upto[rows, y + 1] - upto[rows, y]).sum())

    return negative


def recover(rows: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Return slopes and cut points that are found, true, found independently, and their standard errors."""
    inputs, levels = ratings(rows)
    task = Ordinal(num_classes=5)
    head = fitted_head(task, inputs, levels)
    found = np.concatenate([head.weight[0].detach().numpy(), task.cut_points.numpy() - head.bias.item()])
    theirs, errors = most_likely(negative_log_likelihood(inputs, levels), np.array([0.0, 0.0, -1.5, -0.5, 0.5, 1.5]))
    return found, np.concatenate([SLOPES, CUTS]), theirs, errors


def test_cut_points_are_recovered() -> None:
    assert_recovered(*recover(4000))


@pytest.mark.slow
def test_cut_points_are_recovered_from_many_rows() -> None:
    assert_recovered(*recover(50_000))
