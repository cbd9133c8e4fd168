"""Fine-tuning: what stays keeps its weights and its optimizer state, whatever comes, goes or is replaced."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import SGD, Adam

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLPHead
from mtl_lightning.balancing import FixedWeighting, UncertaintyWeighting
from mtl_lightning.types import ConfigurationError
from tests.core.saved import PATH, single
from tests.helpers import assert_same, fit, make_batches, make_module, make_tasks, weights_of

OPTIMIZERS = {"shared": partial(Adam, lr=0.01), "default": partial(SGD, lr=0.1, momentum=0.9)}
Options = dict[str, Any]


class Beginning(Callback):
    """Keeps the optimizer states by parameter name, as they are when the training begins."""

    def __init__(self) -> None:
        self.states: dict[str, dict[str, Tensor]] = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = {id(p): name for name, p in pl_module.named_parameters()}
        for parameter, state in trainer.optimizers[0].state.items():
            self.states[names[id(parameter)]] = {key: value.clone() for key, value in state.items()}


def train(module: MultiTaskModule, *callbacks: Callback, **options: Any) -> Trainer:
    return fit(
        module,
        single(make_batches(3, tasks=list(module.tasks))),
        precision="32-true",
        callbacks=list(callbacks),
        **options,
    )


def before(*tasks: str, **options: Any) -> tuple[MultiTaskModule, dict[str, dict[str, Tensor]]]:
    """Train a module, and write its checkpoint; return its optimizer states by name, too."""
    options = {"balancer": UncertaintyWeighting, "optimizers": OPTIMIZERS, **options}
    module = make_module(tasks=make_tasks(*tasks), **options)
    trainer = train(module, ModelCheckpoint("saved", filename="model"))
    names = {id(p): name for name, p in module.named_parameters()}
    return module, {names[id(p)]: dict(state) for p, state in trainer.optimizers[0].state.items()}


def go_on(**options: Any) -> tuple[MultiTaskModule, dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Load with changes and train; return the module, its weights and its optimizer states at the beginning."""
    module = MultiTaskModule.load_from_checkpoint(PATH, strict=False, **options)
    weights = weights_of(module)
    module.restore_optimizers(PATH)
    beginning = Beginning()
    train(module, beginning)
    return module, weights, beginning.states


@pytest.mark.parametrize(
    ("tasks", "change", "renamed", "new"),
    [
        pytest.param(
            ("number", "kind"), {"tasks": ("number", "vector", "kind")}, {"balancer.log_vars.2": "balancer.log_vars.1"},
            ("heads.vector.", "balancer.log_vars.1"), id="a task added",
        ),
        pytest.param(
            ("number", "vector", "kind"), {"tasks": ("kind", "number")},
            {"balancer.log_vars.0": "balancer.log_vars.2", "balancer.log_vars.1": "balancer.log_vars.0"},
            (), id="a task taken away, the others turned round",
        ),
        pytest.param(
            ("number", "kind"), {"heads": {"kind": partial(MLPHead, hidden=[5])}}, {},
            ("heads.kind.",), id="a head replaced",
        ),
    ],
)  # fmt: skip
def test_what_stays_keeps_its_weights_and_its_optimizer_state(
    tasks: tuple[str, ...], change: Options, renamed: dict[str, str], new: tuple[str, ...]
) -> None:
    module, states = before(*tasks)
    options = {**change, "tasks": make_tasks(*change.get("tasks", tasks))}
    _, weights, found = go_on(**options)
    begin_anew = {name for name in weights if name not in found}
    assert begin_anew == {name for name in weights if name.startswith(new)}
    assert bool(begin_anew) == bool(new)
    for name, state in found.items():
        old = renamed.get(name, name)
        assert_same(state, states[old])
        assert torch.equal(weights[name], module.state_dict()[old])
    assert {key for state in found.values() for key in state} == {"step", "exp_avg", "exp_avg_sq", "momentum_buffer"}


def test_the_learning_rate_is_the_new_one() -> None:
    before("number", "kind")
    faster = {"default": partial(SGD, lr=0.5, momentum=0.9), "shared": partial(Adam, lr=0.5)}
    module, _, found = go_on(optimizers=faster)
    assert {group["lr"] for group in module.trainer.optimizers[0].param_groups} == {0.5}
    assert any("exp_avg" in state for state in found.values())
    assert any("momentum_buffer" in state for state in found.values())


def test_another_class_of_optimizer_begins_without_a_state() -> None:
    before("number", "kind")
    _, _, found = go_on(optimizers={**OPTIMIZERS, "shared": partial(SGD, lr=0.1)})
    assert found
    assert not any("exp_avg" in state for state in found.values())
    module = MultiTaskModule.load_from_checkpoint(PATH, optimizers={"default": torch.optim.RMSprop})
    module.restore_optimizers(PATH)
    with pytest.raises(ConfigurationError, match=r"expected some parameters with the name.*found none"):
        train(module)


def test_a_resumed_run_has_the_state_of_its_own_checkpoint() -> None:
    module, states = before("number", "kind")
    module.restore_optimizers(PATH)
    beginning = Beginning()
    train(module, beginning, ckpt_path=PATH, max_epochs=2)
    assert list(beginning.states) == list(states)
    for name, state in states.items():
        assert_same(beginning.states[name], state)


def test_without_asking_optimizers_begin_afresh() -> None:
    before("number", "kind")
    module = MultiTaskModule.load_from_checkpoint(PATH, strict=False)
    beginning = Beginning()
    train(module, beginning)
    assert not beginning.states


def test_a_balancers_vectors_follow_the_tasks_names() -> None:
    module, _ = before("number", "kind", balancer=partial(UncertaintyWeighting, init="first_batch"))
    assert module.state_dict()["balancer.started"].all()
    loaded = MultiTaskModule.load_from_checkpoint(PATH, strict=False, tasks=make_tasks("vector", "kind"))
    assert loaded.state_dict()["balancer.started"].tolist() == [False, True]


def test_state_of_another_balancer_is_left_out() -> None:
    before("number", "kind")
    loaded = MultiTaskModule.load_from_checkpoint(PATH, strict=False, balancer=FixedWeighting)
    fresh = make_module(tasks=make_tasks("number", "kind"), balancer=FixedWeighting).state_dict()
    assert_same(
        {name: value for name, value in loaded.state_dict().items() if name.startswith("balancer")},
        {name: value for name, value in fresh.items() if name.startswith("balancer")},
    )


def test_a_checkpoint_of_the_weights_alone() -> None:
    module = make_module(balancer=UncertaintyWeighting)
    train(module, ModelCheckpoint("saved", filename="model", save_weights_only=True))
    loaded = MultiTaskModule.load_from_checkpoint(PATH)
    with pytest.raises(
        ConfigurationError, match=r"model\.ckpt: expected a checkpoint with the states of the groups' optimizers"
    ):
        loaded.restore_optimizers(PATH)
