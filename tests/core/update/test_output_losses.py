"""Auxiliary losses of the tasks' outputs: added to the objective, whatever the balancer differentiates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.balancing import Balancer, GradientNormBalancing
from tests.core.update.gradients.test_rows import ONE_STEP, gradients_after
from tests.helpers import make_batches, make_module, without

ENCODER = partial(MLP, hidden=[8, 6])
BATCHES = make_batches(2, 16)


class OutputsAlike(SharedBottom):
    """Punishes outputs of two tasks for being apart."""

    def output_losses(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not {"number", "vector"} <= {*outputs}:
            return {}
        return {"apart": 0.3 * (outputs["number"] - outputs["vector"]).square().mean()}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("reads", [None, {"vector": {"number": {"stop_gradient": False}}}], ids=["apart", "reads"])
@pytest.mark.parametrize("level", ["sum", "parameters", "features", "last_layer"])
def test_they_are_added_after_combining(level: Any, reads: Any, accumulate: int) -> None:
    balancer: Any = Balancer if level == "sum" else partial(GradientNormBalancing, level=level)
    options: dict[str, Any] = {"balancer": balancer, "optimizers": ONE_STEP, "reads": reads}
    plain = make_module(architecture=partial(SharedBottom, encoder=ENCODER), **options)
    module = make_module(architecture=partial(OutputsAlike, encoder=ENCODER), **options)
    batches, names = BATCHES[:accumulate], [name for name, _ in module.double().named_parameters()]
    terms = [module.run(batch["inputs"], ["number", "vector"])[1]["apart"] for batch in batches]
    own = torch.autograd.grad(torch.stack(terms).mean(), list(module.parameters()), materialize_grads=True)
    assert sum(bool(gradient.any()) for gradient in own) >= 6  # the encoder's, and those of two heads
    without_it, with_it = (gradients_after(m, batches, accumulate_grad_batches=accumulate) for m in (plain, module))
    for name, gradient in zip(names, own, strict=True):
        torch.testing.assert_close(with_it[name], without_it[name] + gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("level", ["sum", "features"])
def test_they_see_the_tasks_that_were_run(level: Any) -> None:
    balancer: Any = Balancer if level == "sum" else partial(GradientNormBalancing, level=level)
    options: dict[str, Any] = {"balancer": balancer, "optimizers": ONE_STEP, "allow_unlabelled": ["vector"]}
    found = [
        gradients_after(
            make_module(architecture=partial(cls, encoder=ENCODER), **options), [without(BATCHES[0], "vector")]
        )
        for cls in (SharedBottom, OutputsAlike)
    ]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=0)
