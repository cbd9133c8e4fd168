"""What one update does to the weights, computed by hand from one gradient per task."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.architectures.base import Architecture
from mtl_lightning.balancing import (
    MGDA,
    AutoLambda,
    FixedWeighting,
    GradDrop,
    GradientNormBalancing,
    MoDo,
    UncertaintyWeighting,
)
from mtl_lightning.tasks import Regression
from mtl_lightning.types import Batch, BatchError, ConfigurationError, Features, MtlLightningWarning
from tests.helpers import fit, make_batches, make_module, make_tasks, weights_of, with_gaps, without

LR = 0.1
TASKS = ["number", "vector", "kind"]
ONE_STEP = {"default": partial(SGD, lr=LR)}
BATCH = with_gaps(make_batches(1, 16), share=0.3)[0]


def losses_by_hand(outputs: Mapping[str, Tensor], batch: Batch) -> list[Tensor]:
    """Means over labelled entries, as separate scalars."""
    number, vector, kind = (batch["targets"][name] for name in TASKS)
    known = ~number.isnan()
    entries = ~vector.isnan()
    return [
        ((outputs["number"][:, 0] - number.nan_to_num()).square() * known).sum() / known.sum(),
        ((outputs["vector"] - vector.nan_to_num()).abs() * entries).sum() / entries.sum(),
        F.cross_entropy(outputs["kind"], kind, ignore_index=-100),
    ]


def gradients_after(module: MultiTaskModule, batches: Sequence[Batch] = (BATCH,), **trainer: Any) -> dict[str, Tensor]:
    """What one update of plain descent moved each parameter by, as a gradient; training mode for all."""
    before = weights_of(module.double())
    fit(module, list(batches), **trainer)
    return {name: (before[name] - weight) / LR for name, weight in weights_of(module).items()}


def assert_moved(
    found: Mapping[str, Tensor], module: MultiTaskModule, expected: Mapping[str, Sequence[Tensor]]
) -> None:
    """Compare with gradients of the architecture (``shared``) and of each head."""
    parts = {"shared": "architecture.", **{name: f"heads.{name}." for name in TASKS}}
    for part, gradients in expected.items():
        names = [name for name, _ in module.named_parameters() if name.startswith(parts[part])]
        for name, gradient in zip(names, gradients, strict=True):
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-10, msg=f"{name}: {{}}".format)


class ByHand:
    """The network of a module, its losses on a batch, and what can be differentiated."""

    def __init__(self, module: MultiTaskModule, batch: Batch = BATCH) -> None:
        module = copy.deepcopy(module).double()
        architecture: Any = module.architecture
        self.trunk, self.heads = architecture.encoder, module.heads
        self.shared = list(self.trunk.parameters())
        self.features: Tensor = self.trunk(batch["inputs"])
        outputs = {name: self.heads[name](self.features) for name in TASKS}
        self.losses = losses_by_hand(outputs, batch)

    def rows(self, towards: Tensor | Sequence[Tensor]) -> Tensor:
        """One flat gradient per task."""
        inputs = [towards] if isinstance(towards, Tensor) else list(towards)
        found = [torch.autograd.grad(loss, inputs, retain_graph=True) for loss in self.losses]
        return torch.stack([torch.cat([part.reshape(-1) for part in parts]) for parts in found])

    def sum_of(self, weights: Tensor, towards: Sequence[Tensor]) -> Sequence[Tensor]:
        total = sum(weight * loss for weight, loss in zip(weights, self.losses, strict=True))
        assert isinstance(total, Tensor)
        return torch.autograd.grad(total, list(towards), retain_graph=True)

    def of_heads(self, weights: Tensor) -> dict[str, Sequence[Tensor]]:
        pairs = zip(TASKS, weights, strict=True)
        return {name: self.sum_of(weights, list(self.heads[name].parameters())) for name, _ in pairs}


def alpha_of(balancer: Any, rows: Tensor, losses: Sequence[Tensor]) -> Tensor:
    weights: Tensor = (
        balancer(3)
        .double()
        .task_weights(rows @ rows.T, torch.stack(list(losses)).detach(), torch.ones(3, dtype=torch.bool))
    )
    return weights


ONES = torch.ones(3, dtype=torch.float64)


# --------------------------------------------------------------------------------------------------------------- levels
@pytest.mark.parametrize("weight_heads", [True, False])
@pytest.mark.parametrize("level", ["parameters", "features", "last_layer"])
def test_weights_follow_from_the_rows_of_a_level(level: Any, weight_heads: bool) -> None:
    balancer = partial(GradientNormBalancing, level=level, weight_heads=weight_heads)
    module = make_module(balancer=balancer, optimizers=ONE_STEP)
    hand = ByHand(module)
    last = [parameter for parameter in hand.shared if parameter.dim() > 1][-1]
    towards = {"parameters": hand.shared, "features": hand.features, "last_layer": last}[level]
    alpha = alpha_of(balancer, hand.rows(towards), hand.losses)
    expected = {"shared": hand.sum_of(alpha, hand.shared), **hand.of_heads(alpha if weight_heads else ONES)}
    assert_moved(gradients_after(module), module, expected)


@pytest.mark.parametrize("level", ["parameters", "features", "last_layer"])
def test_loss_weights_come_first(level: Any) -> None:
    weights = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    losses = partial(FixedWeighting, weights=weights.tolist())
    balancer = partial(MGDA, level=level, losses=losses, weight_heads=False)
    module = make_module(balancer=balancer, optimizers=ONE_STEP)
    hand = ByHand(module)
    last = [parameter for parameter in hand.shared if parameter.dim() > 1][-1]
    towards = {"parameters": hand.shared, "features": hand.features, "last_layer": last}[level]
    alpha = alpha_of(balancer, weights.unsqueeze(1) * hand.rows(towards), hand.losses)
    expected = {"shared": hand.sum_of(alpha * weights, hand.shared), **hand.of_heads(weights)}
    assert_moved(gradients_after(module), module, expected)


def test_features_are_masked_entry_by_entry() -> None:
    module = make_module(balancer=partial(GradDrop, seed=7), optimizers=ONE_STEP)
    hand = ByHand(module)
    gradients = hand.rows(hand.features).view(3, *hand.features.shape)
    signed = (gradients * hand.features.sign()).sum(1)
    masks = GradDrop(3, seed=7).double().masks(signed.detach(), torch.ones(3, dtype=torch.bool))
    assert 0 < masks.mean() < 1
    back = (masks.unsqueeze(1) * gradients).sum(0)
    shared = torch.autograd.grad(hand.features, hand.shared, back, retain_graph=True)
    assert_moved(gradients_after(module), module, {"shared": shared, **hand.of_heads(ONES)})


def test_an_open_edge_lets_a_readers_loss_reach_the_head_it_reads() -> None:
    reads = {"kind": {"number": {"stop_gradient": False}}}
    found = []
    for level in ("features", "parameters"):
        balancer = partial(FixedGramian, level=level)
        module = make_module(balancer=balancer, optimizers=ONE_STEP, reads=reads)
        found.append(gradients_after(module))
    plain = gradients_after(make_module(optimizers=ONE_STEP, reads=reads))
    for name, gradient in plain.items():  # all weights are 1: any level gives the sum
        torch.testing.assert_close(found[0][name], gradient, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-9, atol=1e-10)


class FixedGramian(MGDA):
    """Weights of 1, whatever the Gramian."""

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        return torch.ones_like(losses)


class Apart(Architecture):
    """Features of its own for each task, of one shared layer."""

    def __init__(self, spec: Any, tasks: Sequence[str]) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 6)
        self.feature_sizes = dict.fromkeys(tasks, (6,))

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        return Features({name: self.encoder(inputs) + index for index, name in enumerate(tasks)})


def test_features_must_be_the_same_for_all_tasks() -> None:
    module = make_module(architecture=Apart, balancer=partial(MGDA, level="features"))
    with pytest.raises(ConfigurationError, match=r"such as SharedBottom, found Apart. Use `level: parameters`"):
        fit(module, [BATCH])


class WithAux(SharedBottom):
    """Adds a penalty on its weights."""

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        features = super().forward(inputs, tasks)
        penalty = torch.stack([parameter.square().sum() for parameter in self.parameters()]).sum()
        return Features(features.per_task, {"penalty": 0.1 * penalty})


@pytest.mark.parametrize("level", ["parameters", "features", "last_layer"])
def test_auxiliary_losses_are_added_after_combining(level: Any) -> None:
    architecture = partial(WithAux, encoder=partial(MLP, hidden=[8, 6]))
    plain = make_module(architecture=partial(SharedBottom, encoder=partial(MLP, hidden=[8, 6])), **_norm(level))
    module = make_module(architecture=architecture, **_norm(level))
    before = weights_of(module.double())
    without_aux, with_aux = gradients_after(plain), gradients_after(module)
    for name, gradient in with_aux.items():
        own = 0.2 * before[name] if name.startswith("architecture.") else 0.0
        torch.testing.assert_close(gradient, without_aux[name] + own, rtol=1e-9, atol=1e-9)


def _norm(level: Any) -> dict[str, Any]:
    return {"balancer": partial(GradientNormBalancing, level=level), "optimizers": ONE_STEP}


@pytest.mark.parametrize("level", ["parameters", "features", "last_layer"])
def test_an_absent_tasks_head_stays(level: Any) -> None:
    module = make_module(**_norm(level), allow_unlabelled=["vector"])
    found = gradients_after(module, [without(BATCH, "vector")])
    assert not any(gradient.any() for name, gradient in found.items() if name.startswith("heads.vector."))
    assert all(gradient.any() for name, gradient in found.items() if not name.startswith("heads.vector."))


@pytest.mark.parametrize("balancer", [MGDA, partial(MGDA, level="features"), GradDrop])
def test_without_shared_parameters_heads_get_their_own_gradients_and_it_is_said_once(balancer: Any) -> None:
    class Nothing(nn.Module):
        out_features = 4

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs

    losses = {"balancer": partial(balancer, weight_heads=False)} if balancer is not GradDrop else {"balancer": GradDrop}
    module = make_module(architecture=partial(SharedBottom, encoder=Nothing()), optimizers=ONE_STEP, **losses)
    plain = make_module(architecture=partial(SharedBottom, encoder=Nothing()), optimizers=ONE_STEP)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = gradients_after(module)
    messages = [str(w.message) for w in said if issubclass(w.category, MtlLightningWarning)]
    assert len(messages) == 1
    assert "combines gradients of shared parameters, and this network has none" in messages[0]
    for name, gradient in gradients_after(plain).items():
        torch.testing.assert_close(found[name], gradient)


# --------------------------------------------------------------------------------------------------------------- splits
def test_parts_of_the_batch_give_independent_rows() -> None:
    batch = make_batches(1, 18)[0]
    module = make_module(balancer=MoDo, optimizers=ONE_STEP)
    cuts = [slice(0, 6), slice(6, 12), slice(12, 18)]
    parts = [
        ByHand(module, {"inputs": batch["inputs"][c], "targets": {n: t[c] for n, t in batch["targets"].items()}})
        for c in cuts
    ]
    rows = torch.stack([part.rows(part.shared) for part in parts])
    losses = torch.stack([torch.stack(part.losses).detach() for part in parts]).mean(0)
    gradient = MoDo(3).double().gradient(rows, losses, torch.ones(3, dtype=torch.bool))
    pieces = torch.split(gradient, [parameter.numel() for parameter in parts[0].shared])
    shared = [piece.view_as(parameter) for piece, parameter in zip(pieces, parts[0].shared, strict=True)]
    of_heads = [part.of_heads(ONES) for part in parts]
    heads = {name: [torch.stack(g).mean(0) for g in zip(*(h[name] for h in of_heads), strict=True)] for name in TASKS}
    assert_moved(gradients_after(module, [batch]), module, {"shared": shared, **heads})


def test_a_batch_of_fewer_rows_than_parts_is_refused() -> None:
    with pytest.raises(BatchError, match="expected at least 3 rows, found 2"):
        fit(make_module(balancer=MoDo), make_batches(1, 2))


# ------------------------------------------------------------------------------------------- steps tried, target scales
def test_a_tried_step_leaves_no_trace() -> None:
    balancer = partial(AutoLambda, init=1.0, lr=0.05)
    module = make_module(balancer=balancer, optimizers=ONE_STEP)
    plain = make_module(optimizers=ONE_STEP)
    batch = make_batches(1, 16)[0]
    found = gradients_after(module, [batch])
    learned = module.balancer.lambdas
    assert isinstance(learned, Tensor)
    assert ((learned - 1).abs() > 0.01).all()
    expected = gradients_after(plain, [batch])
    for name in TASKS:  # heads get their own loss's gradient times the weight that was learned before the update
        weight = learned[TASKS.index(name)].double()
        key = f"heads.{name}.map.weight"
        torch.testing.assert_close(found[key], weight * expected[key], rtol=1e-6, atol=1e-8)


def test_lambda_falls_where_a_step_for_the_task_hurts_the_validation_part() -> None:
    batch = make_batches(1, 16)[0]
    batch["targets"]["number"][:8] += 100.0  # the first part teaches what the second one contradicts
    module = make_module(balancer=partial(AutoLambda, init=1.0, lr=0.05, primary=["number"]), optimizers=ONE_STEP)
    fit(module, [batch])
    learned = module.balancer.lambdas
    assert isinstance(learned, Tensor)
    assert learned[0] < 1


def test_popart_changes_no_prediction_and_reaches_the_targets_scale() -> None:
    tasks = {**make_tasks("kind"), "number": Regression(make_tasks()["number"].spec, popart=0.2)}
    torch.manual_seed(0)
    module = make_module(tasks=tasks, balancer=UncertaintyWeighting, optimizers={"default": partial(SGD, lr=0.0)})
    batches = [without(batch, "vector") for batch in make_batches(40, 16)]
    for batch in batches:
        batch["targets"]["number"] = 50 + 20 * batch["targets"]["number"]
    inputs = batches[0]["inputs"]
    before = module.double().predict_step({"inputs": inputs}, 0)["number"].clone()
    fit(module, batches)
    task = module.tasks["number"]
    assert isinstance(task, Regression)
    values = torch.cat([batch["targets"]["number"] for batch in batches])
    torch.testing.assert_close(task.target_mean[0], values.mean(), rtol=0.15, atol=0)
    torch.testing.assert_close(task.target_std[0], values.std(), rtol=0.3, atol=0)
    torch.testing.assert_close(module.predict_step({"inputs": inputs}, 0)["number"], before, rtol=1e-9, atol=1e-9)


def test_popart_needs_a_head_that_it_can_rewrite() -> None:
    tasks = {"number": Regression(make_tasks()["number"].spec, popart=0.2)}
    with pytest.raises(ConfigurationError, match="last_affine"):
        make_module(tasks=tasks, heads={"default": lambda size, outputs: nn.Sequential(nn.Linear(size[0], outputs))})
