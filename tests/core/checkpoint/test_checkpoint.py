"""A module rebuilt from its checkpoint alone: from plain data, and from what is asked for by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR

from mtl_lightning import Edge, MultiTaskModule, Schedule
from mtl_lightning.architectures import MLPHead
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.core.checkpoint.random_state import RandomState
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.tasks import Regression
from mtl_lightning.types import ConfigurationError, TensorSpec
from tests.core.saved import BATCHES, PATH, Doubling, assert_alike, single, trained
from tests.helpers import (
    SPECS,
    ForeignData,
    TinyData,
    assert_same,
    fit,
    loader_of,
    make_batches,
    make_module,
    weights_of,
)


# -------------------------------------------------------------------------------------------------------- by plain data
def test_a_module_made_of_classes_and_partials_is_rebuilt_without_arguments() -> None:
    data = TinyData(standardize=True)
    module = make_module(
        tasks=data.tasks,
        balancer=partial(UncertaintyWeighting, init=0.5, bounds=(-3.0, 3.0)),
        heads={"default": partial(MLPHead, hidden=[5]), "kind": MLPHead},
        reads={"kind": ["number"], "vector": {"kind": Edge(stop_gradient=False)}},
        groups={"pair": ["task:number", "heads.kind.*"]},
        optimizers={"default": partial(SGD, lr=0.01, momentum=0.9), "pair": Adam},
        schedulers={
            "pair": Schedule(partial(StepLR, step_size=2), interval="step"),
            "shared": partial(StepLR, step_size=1),
        },
        gradient_clip={"pair": 1.0},
        allow_unlabelled=["kind"],
        on_nonfinite="ignore",
    )
    trained(module, data)
    loaded = MultiTaskModule.load_from_checkpoint(PATH)
    assert_alike(loaded, module)
    assert list(loaded.groups) == ["shared", "vector", "pair", "balancer"]
    assert loaded.graph.edges == module.graph.edges
    assert (loaded.plan.gradient_clip, loaded.labels.allowed, loaded.updates.on_nonfinite) == (
        {"pair": 1.0},
        ["kind"],
        "ignore",
    )
    assert loaded.tasks["number"].fitted
    assert loaded.sigmas(original_units=True) == module.sigmas(original_units=True)
    composite: Any = loaded.configure_optimizers()
    rates = [group["lr"] for group in composite["optimizer"].param_groups]
    assert rates == [0.01, 0.01, 0.001, 0.01]


def test_a_loaded_module_trains_on() -> None:
    data = TinyData()
    trained(make_module(tasks=data.tasks, balancer=UncertaintyWeighting), data)
    loaded = MultiTaskModule.load_from_checkpoint(PATH)
    before = weights_of(loaded)
    Path(PATH).unlink()
    trained(loaded, data)
    assert all(not torch.equal(weight, before[name]) for name, weight in weights_of(loaded).items())
    assert_alike(MultiTaskModule.load_from_checkpoint(PATH), loaded)  # the checkpoint of a loaded module


@pytest.mark.parametrize("path", [str, Path], ids=["str", "Path"])
def test_every_checkpoint_is_plain_data(path: Callable[[str], Any]) -> None:
    trained(make_module(balancer=UncertaintyWeighting), BATCHES)
    checkpoint = torch.load(path(PATH), weights_only=True)
    assert "hyper_parameters" not in checkpoint
    assert "hyper_parameters" not in checkpoint["mtl_lightning"]
    assert_alike(MultiTaskModule.load_from_checkpoint(path(PATH)), MultiTaskModule.load_from_checkpoint(PATH))


def test_numbers_of_numpy_are_written_as_plain_ones() -> None:
    rate = np.logspace(-3, -2, 3)[1]  # as in a sweep
    module = make_module(optimizers={"default": partial(SGD, lr=rate)}, gradient_clip={"shared": np.float64(2.0)})
    trained(module, BATCHES)
    torch.load(PATH, weights_only=True)
    loaded = MultiTaskModule.load_from_checkpoint(PATH)
    composite: Any = loaded.configure_optimizers()
    assert composite.param_groups[0]["lr"] == pytest.approx(10**-2.5)


def test_a_schema_that_is_not_plain_is_left_out() -> None:
    class Foreign(ForeignData):
        schema = object()  # a user's own attribute of that name

    fit(make_module(), Foreign(), callbacks=[ModelCheckpoint("saved", filename="model")])
    assert torch.load(PATH, weights_only=True)["mtl_lightning"]["schema"] is None


def test_a_checkpoint_of_the_weights_alone() -> None:
    saver = ModelCheckpoint("saved", filename="model", save_weights_only=True)
    module = make_module()
    fit(module, BATCHES, precision="32-true", callbacks=[saver])
    assert_alike(MultiTaskModule.load_from_checkpoint(PATH), module)
    with pytest.raises(ConfigurationError, match=r"model\.ckpt: .* contains only the model, without optimizer_states"):
        fit(make_module(), BATCHES, max_epochs=2, precision="32-true", ckpt_path=PATH)


def test_weights_only_may_be_said_but_not_denied() -> None:
    trained(make_module(), BATCHES)
    assert_alike(
        MultiTaskModule.load_from_checkpoint(PATH, weights_only=True), MultiTaskModule.load_from_checkpoint(PATH)
    )
    for refused in ({"weights_only": False}, {"hparams_file": "hparams.yaml"}):
        with pytest.raises(ConfigurationError, match="no `hparams_file` and no `weights_only=False`"):
            MultiTaskModule.load_from_checkpoint(PATH, **refused)


# --------------------------------------------------------------------------------------------------------------- errors
def rewrite(change: Callable[[dict[str, Any]], Any]) -> None:
    checkpoint = torch.load(PATH, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, PATH)


def test_a_class_that_is_gone() -> None:
    trained(make_module(architecture=Doubling), BATCHES)
    rewrite(lambda c: c["mtl_lightning"]["config"].update(architecture={"class_path": "tests.core.gone.Doubling"}))
    with pytest.raises(
        ConfigurationError,
        match=r"(?s)model\.ckpt cannot be rebuilt: .*tests\.core\.gone.*\nPass again: .*\(path, architecture=",
    ):
        MultiTaskModule.load_from_checkpoint(PATH)
    MultiTaskModule.load_from_checkpoint(PATH, architecture=Doubling)


def test_a_checkpoint_of_something_else() -> None:
    trained(make_module(), BATCHES)
    rewrite(lambda c: c.pop("mtl_lightning"))
    with pytest.raises(
        ConfigurationError, match=r"model\.ckpt: expected a checkpoint of a MultiTaskModule, found keys \["
    ):
        MultiTaskModule.load_from_checkpoint(PATH)


# ------------------------------------------------------------------------------------------- sizes from the first batch
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(BATCHES, id="a loader"),
        pytest.param({"a": loader_of(BATCHES), "b": loader_of(BATCHES)}, id="a dict of loaders"),
        pytest.param(ForeignData(), id="a foreign datamodule"),
    ],
)
def test_sizes_are_read_off_the_first_batch_and_saved(data: Any) -> None:
    module = make_module(input_spec=None)
    assert not hasattr(module, "heads")
    trainer = fit(module, data, callbacks=[ModelCheckpoint("saved", filename="model")])
    assert module.input_spec == TensorSpec((4,), "float64" if isinstance(data, ForeignData) else "float32")
    assert trainer.global_step in (3, 4)
    loaded = MultiTaskModule.load_from_checkpoint(PATH).double()
    assert loaded.input_spec == module.input_spec
    assert_same(weights_of(loaded), weights_of(module), atol=1e-6)  # read as float32


# ------------------------------------------------------------------------------------------------------- random numbers
def test_the_random_state_is_plain_and_comes_back(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float, float]:
        return random.random(), random.gauss(0, 1), float(np.random.rand()), float(torch.rand(()))

    random_state = RandomState(Runtime(make_module()))
    draw()
    torch.save(random_state.state_dict(), tmp_path / "state")
    first = draw()
    assert draw() != first
    random_state.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == first


def test_a_checkpoint_can_be_written_without_a_datamodule_or_a_validation() -> None:
    module = make_module()
    trainer: Trainer = fit(module, BATCHES, precision="32-true")
    trainer.save_checkpoint("saved/model.ckpt", weights_only=True)
    assert_alike(MultiTaskModule.load_from_checkpoint(PATH), module)


def test_targets_of_a_standardised_task_are_loaded_with_it() -> None:
    task = Regression(SPECS["number"], standardize=True)
    task.fit_target(torch.tensor([1.0, 3.0]))
    trained(make_module(tasks={"number": task}), single(make_batches(3, tasks=["number"])))
    loaded = MultiTaskModule.load_from_checkpoint(PATH)
    assert float(loaded.tasks["number"].target_mean) == 2.0  # type: ignore[arg-type]  # a buffer of Regression
