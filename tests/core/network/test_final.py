"""The network with final outputs gives what `predict` gives, computes what is asked for, and stays in evaluation."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.core.network.final import FinalNetwork
from mtl_lightning.tasks import MulticlassClassification, Regression
from mtl_lightning.types import ConfigurationError, TargetSpec
from tests.helpers import INPUTS, make_module

X = torch.randn(6, INPUTS, generator=torch.Generator().manual_seed(0))
DROPPING = partial(SharedBottom, encoder=partial(MLP, hidden=[8], dropout=0.5))


def test_the_final_outputs_are_the_predictions() -> None:
    task = Regression(TargetSpec(), standardize=True)
    task.fit_target(torch.tensor([100.0, 300.0]))
    module = make_module(tasks={"price": task, "kind": MulticlassClassification(TargetSpec(classes=4))})
    found, predicted = FinalNetwork(module)(X), module.predict(X)
    assert list(found) == ["price", "kind"]
    torch.testing.assert_close(found["price"], predicted["price"], rtol=0, atol=0)
    torch.testing.assert_close(found["kind"], predicted["kind"]["probability"], rtol=0, atol=0)


def test_float64_is_kept_where_float32_would_round() -> None:
    task = Regression(TargetSpec(), standardize=True)
    task.fit_target(torch.tensor([1.6e9, 1.6e9 + 60.0], dtype=torch.float64))  # seconds since 1970
    found = FinalNetwork(make_module(tasks={"time": task}))(X)
    assert found["time"].dtype == torch.float64


def test_only_the_tasks_that_are_asked_for_and_those_they_read_are_computed() -> None:
    module, ran = make_module(reads={"kind": ["number"]}), []
    for name, head in module.heads.items():
        head.register_forward_hook(lambda *_, name=name: ran.append(name))
    final = FinalNetwork(module, ["kind"])
    assert list(final(X)) == final.tasks == ["kind"]
    assert ran == ["number", "kind"]


def test_it_stays_in_evaluation_mode() -> None:
    final = FinalNetwork(make_module(architecture=DROPPING)).train()
    assert not any(part.training for part in final.modules())
    torch.testing.assert_close(final(X), final(X), rtol=0, atol=0)


class Bounds(Regression):
    """A user's own task, which predicts more than one thing."""

    def predict(self, output: Tensor) -> dict[str, Tensor]:  # type: ignore[override]  # wider in the base
        return {"low": output[:, 0] - 1, "high": output[:, 0] + 1}


def test_what_a_users_task_predicts_goes_by_its_keys() -> None:
    found = FinalNetwork(make_module(tasks={"number": Bounds(TargetSpec())}))(X)
    assert list(found) == ["number.low", "number.high"]
    torch.testing.assert_close(found["number.high"] - found["number.low"], torch.full((6,), 2.0))


def test_what_cannot_be_predicted_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'number'"):
        FinalNetwork(make_module(), ["nmber"])
    with pytest.raises(ConfigurationError, match="fit_target"):
        FinalNetwork(make_module(tasks={"number": Regression(TargetSpec(), standardize=True)}))


def test_a_head_of_ones_own_is_run() -> None:
    module = make_module(heads={"number": lambda size, outputs: nn.Sequential(nn.Linear(size[0], outputs), nn.Tanh())})
    assert FinalNetwork(module)(X * 100)["number"].abs().max() <= 1
