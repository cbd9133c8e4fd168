"""Affinities worked out by hand, a run that goes on as without, and planted groups that are found."""

from __future__ import annotations

import csv
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]  # it ships no types
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from mtl_lightning.architectures import GroupedNetworks, SingleTaskNetworks
from mtl_lightning.balancing import AutoLambda, Balancer, FixedWeighting, PCGrad, UncertaintyWeighting
from mtl_lightning.callbacks import TaskAffinity
from mtl_lightning.types import ConfigurationError
from tests.callbacks.planted import GROUPS, planted
from tests.cli import CONFIGS, only, run
from tests.helpers import TinyData, assert_same, fit, make_batches, make_module, make_trainer, without


class Noisy(nn.Module):
    """Layers whose forward draws numbers and changes buffers."""

    out_features = 5

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.3))

    def forward(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.layers(inputs)
        return features


# ---------------------------------------------------------------------------------------------------------- by hand
def losses_of(module: Any, batch: Any) -> Tensor:
    outputs = module(batch["inputs"])
    targets = batch["targets"]
    return torch.stack([task.loss(outputs[n], targets[n]) / task.count(targets[n]) for n, task in module.tasks.items()])


@pytest.mark.parametrize("balancer", [Balancer, partial(FixedWeighting, weights=[1.0, 9.0, 0.1]), PCGrad])
def test_affinities_are_those_of_the_formula(balancer: Any) -> None:
    """Steps of single tasks' own gradients, whatever the balancer weighs; heads stay."""
    (batch,) = make_batches(1)
    callback = TaskAffinity(every_n_steps=1, step=0.05)
    fit(make_module(balancer=balancer), [batch], callbacks=[callback])
    module = make_module(balancer=balancer).double()
    shared = list(module.roles.shared.values())
    before = losses_of(module, batch)
    length = 0.05 * torch.cat([p.flatten() for p in shared]).norm()
    for task, row in zip(module.tasks, callback.matrix.values(), strict=True):
        gradients = torch.autograd.grad(losses_of(module, batch)[list(module.tasks).index(task)], shared)
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        with torch.no_grad():
            for parameter, gradient in zip(shared, gradients, strict=True):
                parameter.sub_(length / norm * gradient)
            expected = 1 - losses_of(module, batch) / before
            for parameter, gradient in zip(shared, gradients, strict=True):
                parameter.add_(length / norm * gradient)
        assert list(row.values()) == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-9)
        assert row[task] > 0


def test_absent_tasks_have_no_value_and_means_are_over_samples() -> None:
    batches = make_batches(3)
    together = TaskAffinity(every_n_steps=1)
    fit(make_module(), [without(batches[0], "kind"), *batches[1:]], callbacks=[together])
    assert together.state_dict()["samples"] == [[3, 3, 2], [3, 3, 2], [2, 2, 2]]
    first = TaskAffinity(every_n_steps=1)
    fit(make_module(allow_unlabelled=["kind"]), [without(batches[0], "kind")], callbacks=[first])
    assert math.isnan(first.matrix["number"]["kind"])
    assert math.isfinite(first.matrix["number"]["vector"])


def test_an_accumulated_window_is_one_sample() -> None:
    parts, whole = TaskAffinity(every_n_steps=1), TaskAffinity(every_n_steps=1)
    fit(make_module(), TinyData(batch_size=8, n=16), callbacks=[parts], accumulate_grad_batches=2)
    fit(make_module(), TinyData(batch_size=16, n=16), callbacks=[whole])
    for one, other in zip(parts.matrix.values(), whole.matrix.values(), strict=True):
        assert list(one.values()) == pytest.approx(list(other.values()), rel=1e-6)


# ------------------------------------------------------------------------------------------------- nothing changes
@pytest.mark.parametrize("balancer", [Balancer, UncertaintyWeighting, PCGrad, AutoLambda])
def test_a_run_goes_on_bit_for_bit(balancer: Any) -> None:
    def trained(*callbacks: Any) -> dict[str, Tensor]:
        torch.manual_seed(1)
        optimizers = {"default": partial(torch.optim.SGD, lr=0.05, momentum=0.9)}
        module = make_module(architecture=Noisy(), balancer=balancer, optimizers=optimizers)
        make_trainer(max_epochs=2, callbacks=[*callbacks]).fit(module, TinyData(n=40))
        return {**module.state_dict(), "random": torch.get_rng_state()}

    callback = TaskAffinity(every_n_steps=1)
    assert_same(trained(callback), trained())
    assert callback.state_dict()["samples"][0][0] == 10


def test_an_interrupted_run_goes_on_with_its_samples(tmp_path: Path) -> None:
    whole, half, rest = (TaskAffinity(every_n_steps=2) for _ in range(3))
    fit(make_module(), TinyData(), max_epochs=2, callbacks=[whole])
    saver = ModelCheckpoint(tmp_path, save_last=True)
    fit(make_module(), TinyData(), max_epochs=1, callbacks=[half, saver])
    fit(make_module(), TinyData(), max_epochs=2, callbacks=[rest], ckpt_path=saver.last_model_path)
    assert rest.state_dict() == whole.state_dict() != half.state_dict()


# ---------------------------------------------------------------------------------------------------- what it writes
def test_it_writes_scalars_a_picture_and_files(tmp_path: Path) -> None:
    callback, logger = TaskAffinity(every_n_steps=4), TensorBoardLogger(tmp_path)
    fit(make_module(), TinyData(), max_epochs=2, callbacks=[callback], logger=logger)
    events = EventAccumulator(logger.log_dir).Reload()
    assert [event.step for event in events.Scalars("watch/affinity/number/kind")] == [3, 7, 11, 15]
    mean = sum(event.value for event in events.Scalars("watch/affinity/number/kind")) / 4
    assert callback.matrix["number"]["kind"] == pytest.approx(mean, rel=1e-4)
    assert events.Images("watch/affinity")[-1].width >= 256
    written = json.loads(only(tmp_path, "affinity.json").read_text())
    assert written == {
        "affinity": callback.matrix,
        "samples": {task: dict.fromkeys(callback.matrix, 4) for task in callback.matrix},
        "split": callback.split,
    }
    rows = list(csv.DictReader(only(tmp_path, "affinity.csv").open()))
    assert len(rows) == 9
    assert float(rows[2]["affinity"]) == callback.matrix["number"]["kind"]
    changes = yaml.safe_load(only(tmp_path, "split.yaml").read_text())["model"]["architecture"]
    assert changes["init_args"]["groups"] == callback.split
    assert changes["init_args"]["encoder"]["init_args"]["hidden"] == [8, 6]  # of the architecture that was measured


def test_its_proposal_is_a_config_of_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = "--model.architecture.init_args.encoder.init_args.hidden=[7]"
    short = ("--data.init_args.n=200", "--trainer.max_epochs=1", "--test_after_fit=false", "--trainer.accelerator=cpu")
    config = str(CONFIGS / "synthetic.yaml")
    callback = ("--trainer.callbacks+=TaskAffinity", "--trainer.callbacks.every_n_steps=5")
    run(monkeypatch, "fit", "--config", config, *short, hidden, *callback)
    proposal = only(tmp_path, "split.yaml")
    run(monkeypatch, "fit", "--config", config, "--config", str(proposal), *short)
    saved = yaml.safe_load(only(tmp_path / "lightning_logs" / "version_1", "config.yaml").read_text())
    architecture = saved["model"]["architecture"]
    assert architecture["class_path"].endswith(".GroupedNetworks")
    assert architecture["init_args"]["encoder"]["init_args"]["hidden"] == [7]
    assert {task for tasks in architecture["init_args"]["groups"].values() for task in tasks} == {"y1", "y2"}


def test_without_anything_shared_it_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"TaskAffinity takes steps of the shared parameters: .* found none"):
        fit(make_module(architecture=SingleTaskNetworks), TinyData(), callbacks=[TaskAffinity()])
    fit(make_module(architecture=SingleTaskNetworks), TinyData(), callbacks=[TaskAffinity(every_n_steps=0)])


# -------------------------------------------------------------------------------------------------- planted groups
def check_planted(seed: int) -> None:
    def trained(module: Any, data: Any, *callbacks: Any) -> float:
        trainer = make_trainer(precision="32-true", max_epochs=8, check_val_every_n_epoch=8, callbacks=[*callbacks])
        trainer.fit(module, data)
        return float(trainer.callback_metrics["val/loss_normalised"])

    callback = TaskAffinity()
    one = trained(*planted(seed), callback)
    found = callback.split
    assert sorted(map(sorted, found.values())) == sorted(GROUPS.values())
    assert trained(*planted(seed, GroupedNetworks, groups=found)) < one


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_groups_are_found_and_the_split_beats_one_network(seed: int) -> None:
    check_planted(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 10))
def test_it_does_so_for_ten_seeds_of_ten(seed: int) -> None:
    check_planted(seed)
