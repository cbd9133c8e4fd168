"""Tables of embeddings with sparse gradients, trained."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, SparseAdam

from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.balancing import MGDA, UncertaintyWeighting
from mtl_lightning.core import MultiTaskModule
from mtl_lightning.types import ConfigurationError
from tests.contracts.architecture_cases import LISTS, rows
from tests.helpers import assert_same, fit, make_batches, make_module, weights_of

GROUPS = {"embeddings": ["*.embedding.*"]}
ITEMS = "architecture.encoder.stages.0.embedding.0.weight"


def module_of(sparse: bool, **options: Any) -> MultiTaskModule:
    encoder = partial(TabularEncoder, hidden=(5,), sparse=sparse)
    return make_module(architecture=partial(SharedBottom, encoder=encoder), input_spec=LISTS, **options)


def batches(number: int = 3) -> list[Any]:
    torch.manual_seed(1)
    return [{**batch, "inputs": rows(LISTS, 8)} for batch in make_batches(number)]


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3}])
@pytest.mark.parametrize("balancer", [None, UncertaintyWeighting])
def test_the_updates_are_those_of_dense_gradients(balancer: Any, options: dict[str, Any]) -> None:
    found: dict[bool, dict[str, Tensor]] = {}
    for sparse in (True, False):
        given = {"balancer": balancer} if balancer is not None else {}
        module = module_of(sparse, optimizers={"default": partial(SGD, lr=0.1)}, **given)
        before = weights_of(module)
        fit(module, batches(), **options)
        found[sparse] = weights_of(module)
        assert (found[sparse][ITEMS] != before[ITEMS].double()).any()
    assert_same(found[True], found[False], atol=1e-12)


def test_a_group_of_their_own_moves_only_the_codes_of_a_batch() -> None:
    optimizers = {"default": Adam, "embeddings": partial(SparseAdam, lr=0.1)}
    module = module_of(True, groups=GROUPS, optimizers=optimizers).double()
    before = weights_of(module)
    (batch,) = batches(1)
    batch["inputs"] = {name: tensor % 5 if name != "numeric" else tensor for name, tensor in batch["inputs"].items()}
    fit(module, [batch])
    met = {*batch["inputs"]["categorical"][:, 0].tolist(), *batch["inputs"]["lists"][:, 5:].flatten().tolist()} - {0}
    moved = (weights_of(module)[ITEMS] != before[ITEMS]).any(1).nonzero().flatten().tolist()
    assert {*moved} - {0} == met
    assert len(met) < 8  # of the 8 that there are, beside 0


SGD_ALONE: dict[str, Any] = {"default": partial(SGD, lr=0.1)}


@pytest.mark.parametrize(
    ("options", "trainer", "message"),
    [
        ({"optimizers": None}, {}, r"found Adam with 3 embeddings .* Give these SparseAdam in a group of their own"),
        ({"balancer": MGDA}, {}, r"MGDA takes one whole gradient per task"),
        ({}, {"gradient_clip_val": 1.0}, r"Gradient clipping: .* not sparse, found .* in the group 'shared'"),
        ({"gradient_clip": {"embeddings": 1.0}, "groups": GROUPS}, {}, r"sparse` in the group 'embeddings'"),
    ],
)
def test_what_takes_no_sparse_gradients_is_refused_before_the_first_batch(
    options: dict[str, Any], trainer: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fit(module_of(True, **{"optimizers": SGD_ALONE, **options}), batches(1), **trainer)


def test_other_groups_may_be_clipped() -> None:
    module = module_of(True, optimizers=SGD_ALONE, groups=GROUPS, gradient_clip={"number": 1.0})
    fit(module, batches(1), gradient_clip_val=0.0)
