"""What every exported callback promises; a new one is tested without editing this file."""

from __future__ import annotations

import copy
import inspect
import pickle
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mtl_lightning import MultiTaskModule, callbacks
from mtl_lightning.architectures import MLPHead
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.types import ConfigurationError
from tests.helpers import TinyData, assert_same, make_module, make_trainer, weights_of

EXPORTED: list[Any] = [
    cls for cls in (getattr(callbacks, name) for name in callbacks.__all__) if issubclass(cls, Callback)
]
UPDATES = 120  # more than twice the default distance of samples
each = pytest.mark.parametrize("cls", EXPORTED)
all_at_once = pytest.mark.parametrize(
    "classes", [EXPORTED, *(pytest.param([cls], marks=pytest.mark.slow, id=cls.__name__) for cls in EXPORTED)]
)
"""All in one run by default, each alone under ``slow``."""


class Foreign(LightningModule):
    """A module that knows nothing of tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: Tensor) -> Tensor:
        loss: Tensor = self.layer(batch).sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(*with_callbacks: Callback, **options: Any) -> tuple[MultiTaskModule, Trainer]:
    """Train with dropout, and validate, test and predict afterwards."""
    data = TinyData(standardize=True)
    heads = {"default": partial(MLPHead, dropout=0.2)}
    module = make_module(tasks=data.tasks, heads=heads, balancer=UncertaintyWeighting)
    defaults: dict[str, Any] = {"precision": "32-true", "max_steps": UPDATES, "max_epochs": -1}
    trainer = make_trainer(callbacks=[*with_callbacks], **{**defaults, **options})
    trainer.fit(module, data)
    for stage in (trainer.validate, trainer.test):
        stage(module, data, verbose=False)
    trainer.predict(module, data)
    return module, trainer


@cache
def plain() -> tuple[dict[str, Tensor], Tensor]:
    """The weights after a run without callbacks, and the random state."""
    torch.manual_seed(0)
    module, _ = run()
    return weights_of(module), torch.get_rng_state()


@cache
def ran() -> tuple[dict[Any, Any], Trainer]:
    """Callbacks that have served a run, one of each class, and the run's trainer."""
    made = {cls: cls() for cls in EXPORTED}
    _, trainer = run(*made.values(), max_steps=60)
    return made, trainer


def hooks_on(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


@each
def test_needs_no_arguments_and_says_what_it_is(cls: Any) -> None:
    assert isinstance(cls(), Callback)
    assert inspect.cleandoc(cls.__doc__).splitlines()[0]
    assert "Args:" in cls.__doc__


@all_at_once
def test_changes_nothing_of_a_run(classes: list[Any]) -> None:
    """Weights, learned uncertainties and the random state are the same bit for bit; nothing is left on the network."""
    weights, expected = plain()
    torch.manual_seed(0)
    watched, _ = run(*(cls() for cls in classes))
    assert_same(weights_of(watched), weights)
    assert torch.equal(torch.get_rng_state(), expected)
    assert hooks_on(watched) == 0
    assert all(parameter.grad is None for parameter in watched.parameters())


@all_at_once
def test_serves_several_runs_and_accumulation(classes: list[Any]) -> None:
    made = [ran()[0][cls] for cls in classes]
    module, trainer = run(*made, max_steps=60, accumulate_grad_batches=2)
    assert trainer.global_step == 60
    assert hooks_on(module) == 0


@each
def test_refuses_a_module_without_tasks_before_it_trains(cls: Any) -> None:
    module = Foreign()
    before = weights_of(module)
    loader = DataLoader(cast("Dataset[Any]", torch.ones(4, 2)))
    with pytest.raises(ConfigurationError, match=f"{cls.__name__} .* expected a MultiTaskModule, found Foreign"):
        make_trainer(callbacks=[cls()], precision="32-true").fit(module, loader)
    assert_same(weights_of(module), before)


@each
def test_is_chosen_in_yaml_by_its_short_name_or_path(cls: Any) -> None:
    for path in (cls.__name__, f"mtl_lightning.callbacks.{cls.__name__}"):
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--callbacks", type=list[Callback])
        made = parser.instantiate(parser.parse_object({"callbacks": [{"class_path": path}]}))
        assert [type(callback) for callback in made.callbacks] == [cls]


@each
def test_is_printed_in_a_config_that_can_be_read_again(cls: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "callback")
    text = parser.dump(parser.get_defaults())
    assert parser.dump(parser.parse_string(text)) == text


@each
def test_is_copied_and_pickled_before_and_after_a_run(cls: Any) -> None:
    """As strategies that spawn processes and tuners do."""
    for callback in (cls(), ran()[0][cls]):
        assert type(pickle.loads(pickle.dumps(copy.deepcopy(callback)))) is cls


@each
def test_its_state_is_plain_data(cls: Any, tmp_path: Path) -> None:
    made, trainer = ran()
    callback = made[cls]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"].get(callback.state_key, {})
    fresh = cls()
    fresh.load_state_dict(saved)
    assert fresh.state_dict() == callback.state_dict() == saved


@all_at_once
def test_works_on_two_processes(classes: list[Any]) -> None:
    data, module = TinyData(), make_module(heads={"default": MLPHead})
    options: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork", "precision": "32-true", "max_steps": 51}
    trainer = make_trainer(callbacks=[cls() for cls in classes], **{**options, "max_epochs": -1})
    trainer.fit(module, data)
    trainer.predict(module, data, return_predictions=False)
