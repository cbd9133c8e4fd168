"""What a group's optimizer is made of: no decay of log-variances, fused kernels, no closures."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, AdamW, SparseAdam

from mtl_lightning import MultiTaskModule
from mtl_lightning.balancing import DWA, FAMO, MGDA, GeometricMean, UncertaintyWeighting, UPGrad
from mtl_lightning.core.optim.build import build_optimizers
from mtl_lightning.core.optim.composite import CompositeOptimizer
from mtl_lightning.types import ConfigurationError
from tests.helpers import fit, make_batches, make_module, weights_of


def optimizer_of(module: MultiTaskModule) -> CompositeOptimizer:
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, CompositeOptimizer)
    return optimizer


@pytest.mark.parametrize(
    ("optimizers", "message"),
    [
        pytest.param(
            {"default": Adam, "knid": Adam},
            r"`optimizers`: .* found 'knid'\. Did you mean 'kind'\?",
            id="unknown group",
        ),
        pytest.param(
            {"shared": Adam, "number": Adam},
            r"No optimizer is given for the groups \['vector', 'kind'\]: .* `default`, found \['number', 'shared'\]",
            id="none for a group",
        ),
        pytest.param(
            {"default": Adam, "kind": LBFGS},
            r"`optimizers\.kind`: LBFGS re-evaluates the loss in a closure",
            id="LBFGS",
        ),
    ],
)
def test_optimizers_that_cannot_be_right(optimizers: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fit(make_module(optimizers=optimizers), make_batches(1))


def test_the_balancers_optimizer_may_be_given_though_it_learns_nothing() -> None:
    module = make_module(optimizers={"default": Adam, "balancer": SGD})
    assert "balancer" not in optimizer_of(module).optimizers


@pytest.mark.parametrize(
    "groups", [None, {"all": ["*"]}, {"mix": ["balancer.*", "task:kind"]}], ids=["own", "all", "mixed"]
)
@pytest.mark.parametrize("make", [AdamW, partial(AdamW, weight_decay=0.5), partial(SGD, weight_decay=0.5)])
def test_log_variances_never_decay(make: Any, groups: dict[str, list[str]] | None) -> None:
    module = make_module(balancer=UncertaintyWeighting, groups=groups, optimizers={"default": partial(make, lr=0.1)})
    decays = {id(p): group["weight_decay"] for group in optimizer_of(module).param_groups for p in group["params"]}
    assert {decays[id(p)] for p in module.balancer.parameters()} == {0.0}
    assert all(decays[id(p)] > 0 for name, p in module.named_parameters() if not name.startswith("balancer."))


def fused(module: MultiTaskModule) -> dict[str, Any]:
    return {group["name"]: group.get("fused", "no such option") for group in optimizer_of(module).param_groups}


class Embedding(nn.Embedding):
    """A user's network of integers (B, 1)."""

    out_features = 6

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs[:, 0])


def test_fused_kernels_are_used_where_the_user_left_it_open() -> None:
    optimizers = {
        "shared": Adam,
        "number": partial(Adam, fused=False),
        "vector": partial(AdamW, foreach=True),
        "kind": torch.optim.RMSprop,  # has none
    }
    found = fused(make_module(optimizers=optimizers))
    assert found == {"shared": True, "number": False, "vector": None, "kind": "no such option"}


@pytest.mark.parametrize("sparse", [False, True])
def test_fused_kernels_are_not_used_for_sparse_gradients(sparse: bool) -> None:
    module = make_module(architecture=Embedding(5, 6, sparse=sparse), optimizers={"default": SGD})
    found = fused(module)
    assert found == {"shared": None if sparse else True, "number": True, "vector": True, "kind": True}


def test_sparse_gradients_are_stepped() -> None:
    module = make_module(architecture=Embedding(5, 6, sparse=True), optimizers={"default": partial(SGD, lr=0.1)})
    before = weights_of(module.double())
    (batch,) = make_batches(1)
    fit(module, [{**batch, "inputs": torch.tensor([[1], [1], [3], [3], [1], [1], [3], [3]])}])
    after = weights_of(module)["architecture.network.weight"]
    moved = (after != before["architecture.network.weight"]).any(1)
    assert moved.tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("optimizers", "message"),
    [
        (None, r"`optimizers\.shared`: .* found Adam with 1 embeddings of .* among 1 parameters"),
        ({"default": partial(SGD, lr=0.1), "shared": torch.optim.RMSprop}, r"`optimizers\.shared`: .* found RMSprop"),
        ({"default": SparseAdam}, r"`optimizers\.number`: .* found SparseAdam with 0 embeddings"),
    ],
    ids=["the default", "another", "dense gradients"],
)
def test_optimizers_that_take_other_gradients_are_refused(optimizers: Any, message: str) -> None:
    module = make_module(architecture=Embedding(5, 6, sparse=True), optimizers=optimizers)
    with pytest.raises(ConfigurationError, match=message):
        module.configure_optimizers()


def test_a_group_of_its_own_for_sparse_gradients() -> None:
    optimizers = {"default": Adam, "shared": partial(SparseAdam, lr=0.1)}
    module = make_module(architecture=Embedding(5, 6, sparse=True), optimizers=optimizers).double()
    before = weights_of(module)
    (batch,) = make_batches(1)
    fit(module, [{**batch, "inputs": torch.tensor([[1], [1], [3], [3], [1], [1], [3], [3]])}])
    moved = (weights_of(module)["architecture.network.weight"] != before["architecture.network.weight"]).any(1)
    assert moved.tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("balancer", "options"),
    [
        (MGDA, {}),
        (UPGrad, {}),
        (partial(MGDA, level="features"), {}),
        (DWA, None),
        (FAMO, {"accumulate_grad_batches": 2}),
    ],
    ids=["MGDA", "UPGrad", "features", "a balancer of losses", "one that is not affine, accumulated"],
)
def test_balancers_of_gradients_refuse_sparse_ones_before_the_first_batch(balancer: Any, options: Any) -> None:
    architecture = Embedding(5, 6, sparse=True)
    module = make_module(architecture=architecture, balancer=balancer, optimizers={"default": partial(SGD, lr=0.1)})
    batches = [{**batch, "inputs": torch.ones(8, 1, dtype=torch.int64)} for batch in make_batches(2)]
    if options is None:
        fit(module, batches)
        return
    with pytest.raises(
        ConfigurationError, match=r"takes one whole gradient per task: .* `nn\.Embedding\(sparse=True\)`"
    ):
        fit(module, [{}], **options)


@pytest.mark.parametrize("balancer", [GeometricMean, partial(UncertaintyWeighting, init="first_batch")])
def test_several_datasets_under_a_balancer_that_is_not_affine_refuse_sparse_ones(balancer: Any) -> None:
    def made() -> MultiTaskModule:
        optimizers: Any = {"default": partial(SGD, lr=0.1)}
        return make_module(architecture=Embedding(5, 6, sparse=True), balancer=balancer, optimizers=optimizers)

    rows = torch.ones(8, 1, dtype=torch.int64)
    both: Any = {**make_batches(1)[0], "inputs": rows}
    one, other = ({"inputs": rows.clone(), "targets": {n: both["targets"][n]}} for n in ("number", "kind"))
    fit(made(), [both])
    with pytest.raises(ConfigurationError, match="one that is not affine takes them from a single dataset alone"):
        fit(made(), [{"a": one, "b": other}])


def test_optimizers_can_be_made_without_a_trainer() -> None:
    module = make_module()
    made = build_optimizers(module.groups, {"default": SGD}, module.roles, sparse=set())
    assert [type(optimizer) for optimizer in made.optimizers.values()] == [SGD] * 4
