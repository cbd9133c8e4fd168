"""What ``val/loss_normalised`` compares with: constants of the training labels, by hand, resumed, in any order."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import SegNet, SharedBottom
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.core.update import label_sample
from mtl_lightning.core.update.label_sample import Sample
from mtl_lightning.data import SyntheticShapes
from mtl_lightning.tasks import DepthEstimation, MulticlassClassification, Regression
from mtl_lightning.types import Batch, Likelihood, MtlLightningWarning, TargetSpec
from tests.helpers import (
    TinyData,
    assert_same,
    fit,
    loader_of,
    make_batches,
    make_module,
    make_tasks,
    make_trainer,
    with_gaps,
    without,
)

TRAIN, VAL = with_gaps(make_batches(6)), with_gaps(make_batches(3, seed=5), seed=2)
STILL = {"default": partial(torch.optim.SGD, lr=0.0)}
KEY = "val/loss_normalised"


def joined(batches: list[Batch], name: str) -> Tensor:
    return torch.cat([batch["targets"][name] for batch in batches])


def trivial_losses(train: list[Batch], val: list[Batch]) -> dict[str, float]:
    """By hand: the losses over ``val`` of the mean, the medians and the shares of ``train``."""
    number, vector, kind = (joined(train, name) for name in ("number", "vector", "kind"))
    counts = torch.stack([(kind == k).sum() for k in range(4)]).double()
    assert counts.min() > 0
    true = joined(val, "kind")
    shares = (counts / counts.sum()).log()
    return {
        "number": float((joined(val, "number") - number.nanmean()).square().nanmean()),
        "vector": float((joined(val, "vector") - vector.nanmedian(0).values).abs().nanmean()),
        "kind": -float(shares[true[true != -100]].mean()),
    }


def found_by(module: MultiTaskModule) -> dict[str, Tensor]:
    assert module.trivial_predictions is not None
    return dict(module.trivial_predictions)


def expected(metrics: Any, trivial: dict[str, float]) -> float:
    return sum(float(metrics[f"val/loss/{name}"]) / loss for name, loss in trivial.items()) / len(trivial)


# -------------------------------------------------------------------------------------------------------------- by hand
def test_losses_over_those_of_the_trivial_predictors() -> None:
    metrics = fit(make_module(), TRAIN, VAL, max_epochs=2).callback_metrics
    assert float(metrics[KEY]) == pytest.approx(expected(metrics, trivial_losses(TRAIN, VAL)), rel=1e-6)


def test_sample_weights_count_in_both() -> None:
    weights = [torch.linspace(0, 2 + i, 8, dtype=torch.float64) for i in range(6)]
    train = [without({**b, "weights": w}, "kind", "vector") for b, w in zip(TRAIN, weights, strict=True)]
    val = [without({**b, "weights": weights[0]}, "kind", "vector") for b in VAL]
    module = make_module(tasks=make_tasks("number"))
    metrics = fit(module, train, val).callback_metrics
    number, weight = joined(train, "number"), torch.cat(weights)
    there = ~number.isnan()
    mean = (number[there] * weight[there]).sum() / weight[there].sum()
    assert found_by(module)["number"].tolist() == pytest.approx([float(mean)])
    held, sizes = joined(val, "number"), torch.cat([weights[0]] * 3)
    there = ~held.isnan()
    trivial = ((held[there] - mean).square() * sizes[there]).sum() / sizes[there].sum()
    assert float(metrics[KEY]) == pytest.approx(float(metrics["val/loss/number"] / trivial), rel=1e-6)


def test_of_a_constant_network_that_knows_the_constants_it_is_1() -> None:
    module = make_module(optimizers=STILL)
    fit(module, TRAIN, VAL)
    for name, head in module.heads.items():
        for parameter in head.parameters():
            torch.nn.init.zeros_(parameter)
        bias: Any = head.get_submodule("layer").bias if hasattr(head, "layer") else list(head.parameters())[-1]
        bias.data.copy_(found_by(module)[name])
    trainer = make_trainer()
    trainer.validate(module, loader_of(VAL), verbose=False)
    assert float(trainer.callback_metrics[KEY]) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("factor", [1.0, 1000.0])
def test_no_scale_decides(factor: float) -> None:
    """Another unit of a target changes nothing, if the network's outputs are as much larger."""
    batches = [{**b, "targets": {**b["targets"], "number": factor * b["targets"]["number"]}} for b in (*TRAIN, *VAL)]
    module = make_module(optimizers=STILL)
    for parameter in module.heads["number"].parameters():
        parameter.data *= factor
    found = fit(module, batches[:6], batches[6:]).callback_metrics[KEY]
    plain = fit(make_module(optimizers=STILL), TRAIN, VAL).callback_metrics[KEY]
    assert float(found) == pytest.approx(float(plain), rel=1e-6)


@pytest.mark.parametrize("popart", [None, 0.3])
def test_standardised_units_change_nothing(popart: float | None) -> None:
    """Also where the units move from one validation to the next."""
    number = Regression(TargetSpec(), popart=popart) if popart else Regression(TargetSpec(), standardize=True)
    number.fit_target(joined(TRAIN, "number"))
    module = make_module(tasks={"number": number})
    train, val = ([without(b, "vector", "kind") for b in batches] for batches in (TRAIN, VAL))
    found = fit(module, train, val, max_epochs=3).callback_metrics
    mse = float(found["val/rmse/number"]) ** 2
    assert float(found[KEY]) == pytest.approx(mse / trivial_losses(TRAIN, VAL)["number"], rel=1e-5)


def test_pictures() -> None:
    data = SyntheticShapes(sizes=(8, 4, 4), batch_size=4)
    network = partial(SharedBottom, encoder=partial(SegNet, widths=[4, 8]))
    module = make_module(tasks=data.tasks, input_spec=data.input_spec, architecture=network)
    metrics = fit(module, data, precision="32-true").callback_metrics
    constants = found_by(module)
    assert set(constants) == set(data.tasks)
    totals: dict[str, Tensor] = {}
    for batch in data.val_dataloader():
        for name, task in module.tasks.items():
            target, constant = batch["targets"][name], task.trivial_output(constants[name])
            output = constant[None, :, None, None].expand(len(target), -1, *target.shape[-2:])
            sums = torch.stack([task.loss(output, target), task.count(target)])
            totals[name] = totals.get(name, torch.zeros(2)) + sums
    trivial = {name: float(total[0] / total[1]) for name, total in totals.items()}
    assert float(metrics[KEY]) == pytest.approx(expected(metrics, trivial), rel=1e-5)


# --------------------------------------------------------------------------------------------- what is left out, or not
def test_a_task_without_a_training_label_is_compared_with_outputs_of_0() -> None:
    module = make_module(allow_unlabelled=["kind"])
    metrics = fit(module, [without(batch, "kind") for batch in TRAIN], VAL).callback_metrics
    assert set(found_by(module)) == {"number", "vector"}
    zeros = float(F.cross_entropy(torch.zeros(1, 4), torch.zeros(1, dtype=torch.long)))
    trivial = {**trivial_losses(TRAIN, VAL), "kind": zeros}
    assert float(metrics[KEY]) == pytest.approx(expected(metrics, trivial), rel=1e-6)


def test_a_constant_target_is_left_out_and_said() -> None:
    same = [{**b, "targets": {**b["targets"], "number": torch.full((8,), 7.3)}} for b in (*TRAIN, *VAL)]
    with pytest.warns(MtlLightningWarning, match=r"`val/loss_normalised` leaves out \['number'\]"):
        metrics = fit(make_module(), same[:6], same[6:]).callback_metrics
    trivial = trivial_losses(TRAIN, VAL)
    del trivial["number"]
    assert float(metrics[KEY]) == pytest.approx(expected(metrics, trivial), rel=1e-6)


def test_if_nothing_can_be_compared_it_is_the_loss() -> None:
    negative = Regression(TargetSpec(), loss=_negative, likelihood=Likelihood(0.5, 0.5, "log_var"))
    train, val = ([without(b, "vector", "kind") for b in batches] for batches in (TRAIN, VAL))
    with pytest.warns(MtlLightningWarning, match="or one of a loss that may be negative"):
        metrics = fit(make_module(tasks={"number": negative}), train, val).callback_metrics
    assert float(metrics[KEY]) == float(metrics["val/loss"]) < 0


def _negative(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs().clamp(max=1) - 5


def test_a_loss_whose_constant_cannot_be_found_is_compared_with_0_and_said() -> None:
    picky = Regression(TargetSpec(), loss=_of_batches, likelihood=Likelihood(0.5, 0.5, "log_var"))
    train, val = ([without(b, "vector", "kind") for b in batches] for batches in (TRAIN, VAL))
    module = make_module(tasks={"number": picky}, optimizers=STILL)
    with pytest.warns(MtlLightningWarning, match=r"Task 'number': `loss_normalised` compares it with outputs of 0"):
        metrics = fit(module, train, val).callback_metrics
    assert module.trivial_predictions == {}
    trivial = joined(val, "number").square().nanmean()
    assert float(metrics[KEY]) == pytest.approx(float(metrics["val/loss"] / trivial), rel=1e-6)


def _of_batches(output: Tensor, target: Tensor) -> Tensor:
    if len(output) != 8:
        raise ValueError("a loss that takes batches of 8 rows")
    return (output - target).square()


# ------------------------------------------------------------------------------------------------- when, and from where
class Seen(Callback):
    """The constants at each validation, and the metric."""

    def __init__(self) -> None:
        self.constants: list[dict[str, list[float]]] = []
        self.metrics: list[float | None] = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        found = trainer.callback_metrics.get(KEY)
        self.metrics.append(None if found is None else float(found))
        self.constants.append({name: one.tolist() for name, one in (pl_module.trivial_predictions or {}).items()})


def test_it_is_fixed_at_the_first_validation() -> None:
    seen = Seen()
    options: dict[str, Any] = {"max_epochs": 2, "val_check_interval": 0.5, "num_sanity_val_steps": 2}
    fit(make_module(optimizers=STILL), TRAIN, VAL, callbacks=[seen], **options)
    sanity, first, *others = seen.constants
    assert sanity == {}
    assert seen.metrics[0] is None
    assert first["number"] == pytest.approx([float(joined(TRAIN[:3], "number").nanmean())])
    assert others == [first] * 3
    assert seen.metrics[2:] == pytest.approx([seen.metrics[1]] * 3)


def test_a_search_in_the_middle_of_an_epoch() -> None:
    module = make_module(tasks={"number": Regression(TargetSpec(), loss="huber", delta=0.5)})
    train, val = ([without(b, "vector", "kind") for b in batches] for batches in (TRAIN, VAL))
    fit(module, train, val, val_check_interval=0.5)
    numbers = joined(train[:3], "number")
    residuals = (numbers[~numbers.isnan()] - found_by(module)["number"]).clamp(-0.5, 0.5)
    assert float(residuals.sum()) == pytest.approx(0.0, abs=1e-3)


def test_a_validation_before_the_first_update() -> None:
    seen = Seen()
    fit(make_module(), TRAIN, VAL, val_check_interval=2, accumulate_grad_batches=6, callbacks=[seen])
    assert seen.metrics[0] is not None
    assert seen.constants[-1]["number"] == pytest.approx([float(joined(TRAIN[:2], "number").nanmean())])


def test_or_at_the_end_of_the_first_epoch() -> None:
    module = make_module(optimizers=STILL)
    seen = Seen()
    fit(module, TRAIN, VAL, max_epochs=2, check_val_every_n_epoch=2, num_sanity_val_steps=0, callbacks=[seen])
    assert len(seen.constants) == 1
    assert found_by(module)["number"].tolist() == pytest.approx([float(joined(TRAIN, "number").nanmean())])
    metrics = make_trainer()
    metrics.test(module, loader_of(VAL), verbose=False)
    assert "test/loss_normalised" in metrics.callback_metrics


def test_another_fit_begins_anew() -> None:
    module = make_module()
    fit(module, TRAIN, VAL)
    fit(module, make_batches(2, seed=9), VAL)
    expected = float(joined(make_batches(2, seed=9), "number").mean())
    assert found_by(module)["number"].tolist() == pytest.approx([expected])


class Stream(IterableDataset[Batch]):
    """Batches without an end."""

    def __iter__(self) -> Any:
        while True:
            yield from TRAIN


@pytest.mark.parametrize("accumulate", [1, 2])
def test_any_source_of_batches(accumulate: int) -> None:
    stream: Any = DataLoader(Stream(), batch_size=None)
    numbers = [without(batch, "kind", "vector") for batch in TRAIN]
    others = [without(batch, "number") for batch in TRAIN]
    joint = CombinedLoader({"a": loader_of(numbers), "b": loader_of(others)}, "max_size_cycle")
    options: dict[str, Any] = {"accumulate_grad_batches": accumulate}
    plain = make_module(optimizers=STILL)
    fit(plain, TRAIN, VAL, **options)
    of_stream: dict[str, Any] = {"max_steps": 6 // accumulate, "val_check_interval": 6}
    for loader, more in ((stream, of_stream), (joint, {})):
        module = make_module(optimizers=STILL)
        fit(module, loader, loader_of(VAL), **options, **more)
        assert_same(found_by(module), found_by(plain), atol=1e-12)


class Several(LightningDataModule):
    """Several validation sets."""

    def __init__(self, sets: list[list[Batch]]) -> None:
        super().__init__()
        self.sets = sets

    def train_dataloader(self) -> Any:
        return loader_of(TRAIN)

    def val_dataloader(self) -> Any:
        return [loader_of(batches) for batches in self.sets]


def test_several_dataloaders_have_one_metric_over_all() -> None:
    trainer = fit(make_module(), Several([VAL, make_batches(2, seed=8)]))
    found = {name: float(value) for name, value in trainer.callback_metrics.items() if "normalised" in name}
    assert set(found) == {KEY, "val/0/loss_normalised", "val/1/loss_normalised"}
    assert found[KEY] == pytest.approx((found["val/0/loss_normalised"] + found["val/1/loss_normalised"]) / 2)
    numbers = [without(batch, "kind", "vector") for batch in VAL]
    kinds = [without(batch, "number") for batch in VAL]
    apart = fit(make_module(), Several([numbers, kinds])).callback_metrics
    once = fit(make_module(), TRAIN, VAL).callback_metrics
    assert float(apart[KEY]) == pytest.approx(float(once[KEY]))
    assert not [name for name in apart if "/0/" in name]


# ------------------------------------------------------------------------------------------------------------ a sample
@pytest.mark.parametrize("size", [1, 40, 700])
def test_a_large_split_is_sampled_evenly(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_sample, "ROWS", 64)
    sample = Sample(Regression(TargetSpec()))
    for start in range(0, 10_500, size):
        sample.add(torch.arange(start, start + size).float(), None, size)
    rows, weight = sample.labelled()
    assert 60 <= len(rows) <= 128
    assert weight.tolist() == [sample.every] * len(rows)
    assert float(weight.sum()) == pytest.approx(10_500, rel=0.05)
    assert 0 < rows.diff().min() <= rows.diff().max() < 4 * sample.every
    assert float(rows.mean()) == pytest.approx(5250, rel=0.05)


def test_no_order_of_the_rows_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_sample, "ROWS", 256)
    sample = Sample(MulticlassClassification(TargetSpec(classes=4)))
    for _ in range(400):
        sample.add(torch.arange(4).repeat(16), None, 64)
    shares = torch.tensor([float((sample.labelled()[0] == k).double().mean()) for k in range(4)])
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.06)


def test_rare_labels_are_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_sample, "ROWS", 64)
    sample = Sample(MulticlassClassification(TargetSpec(classes=3)))
    for start in range(0, 4_000, 40):
        target = torch.full((40,), -100)
        target[3] = start % 3
        weight = torch.ones(40)
        weight[3] = 0.0 if start < 1_000 else 2.0
        sample.add(target, weight, 1)
    rows, weight = sample.labelled()
    assert rows.tolist() == [start % 3 for start in range(1_000, 4_000, 40)]
    assert weight.tolist() == [2.0] * 75


def test_long_rows_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_sample, "_ENTRIES", 1000)
    sample = Sample(Regression(TargetSpec(shape=(50,))))
    for _ in range(500):
        sample.add(torch.randn(8, 50), None, 8)
    rows, weight = sample.labelled()
    assert 10 <= len(rows) < 40
    assert float(weight.sum()) == pytest.approx(4000, rel=0.1)


def test_pictures_of_several_sizes() -> None:
    sample = Sample(DepthEstimation(TargetSpec()))
    for side in (4, 6, 4):
        sample.add(torch.full((2, side, side), float(side)), torch.tensor([1.0, 0.0]), 2 * side**2)
    rows, weight = sample.labelled()
    assert sorted(rows.tolist()) == [4.0] * 32 + [6.0] * 36
    assert weight.unique().tolist() == [1.0]  # type: ignore[no-untyped-call]


def test_a_state_changes_nothing_and_brings_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_sample, "ROWS", 16)
    task = Regression(TargetSpec(shape=(2,)))
    batches = [
        batch["targets"]["v"] for batch in with_gaps([{"targets": {"v": torch.randn(9, 2)}} for _ in range(300)])
    ]
    whole, saved = Sample(task), Sample(task)
    for index, target in enumerate(batches):
        whole.add(target, None, 7)
        saved.add(target, None, 7)
        if index % 37 == 0:
            other = Sample(task)
            other.load_state_dict(copy.deepcopy(saved.state_dict()), torch.device("cpu"))
            saved = other
    torch.testing.assert_close(saved.labelled(), whole.labelled(), rtol=0, atol=0, equal_nan=True)


# ---------------------------------------------------------------------------------------------------------- checkpoints
def saved_run(resume: str | None = None) -> tuple[MultiTaskModule, Seen, Any]:
    data = TinyData()
    seen = Seen()
    module = make_module(seed=0 if resume is None else 99)
    saver = ModelCheckpoint("saved", filename="{step}", every_n_train_steps=3, save_top_k=-1)
    options: dict[str, Any] = {"max_epochs": 2, "num_sanity_val_steps": 2}
    trainer = fit(module, data, callbacks=[seen, *([saver] if resume is None else [])], ckpt_path=resume, **options)
    return module, seen, trainer


def test_a_resumed_run_compares_with_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_sample, "ROWS", 30)  # of 60: what was chosen before has to come back
    whole, seen, trainer = saved_run()
    for step in (3, 6, 9):  # twice before the first validation, once after it
        path = f"saved/step={step}.ckpt"
        inside = torch.load(path, weights_only=True)["mtl_lightning"]
        assert bool(inside["processes"][0]["updates"]["label_sample"]) == (step < 8)
        assert (inside["trivial_predictions"] is None) == (step < 8)
        module, again, resumed = saved_run(path)
        assert_same(found_by(module), found_by(whole))
        assert again.metrics == seen.metrics[1 if step < 8 else 2 :]
        assert float(resumed.callback_metrics[KEY]) == float(trainer.callback_metrics[KEY])


def test_a_checkpoint_that_does_not_know_of_it_is_resumed() -> None:
    saved_run()
    path = Path("saved/step=6.ckpt")
    old = torch.load(path, weights_only=True)
    del old["mtl_lightning"]["trivial_predictions"], old["mtl_lightning"]["processes"][0]["updates"]["label_sample"]
    torch.save(old, path)
    module, _, resumed = saved_run(str(path))
    assert set(found_by(module)) == {"number", "vector", "kind"}
    assert KEY in resumed.callback_metrics


def test_a_test_from_a_checkpoint_compares_with_the_trainings_labels() -> None:
    whole, _, trainer = saved_run()
    loaded = MultiTaskModule.load_from_checkpoint("saved/step=15.ckpt")
    assert_same(found_by(loaded), found_by(whole))
    found = []
    for module, path in ((loaded, None), (make_module(seed=7), "saved/step=15.ckpt")):
        tester = make_trainer(precision="32-true")
        tester.test(module, datamodule=TinyData(), ckpt_path=path, verbose=False)
        found.append(float(tester.callback_metrics["test/loss_normalised"]))
    assert found[0] == pytest.approx(found[1])
    changed = MultiTaskModule.load_from_checkpoint("saved/step=15.ckpt", strict=False, tasks=make_tasks("number"))
    assert changed.trivial_predictions is None
    assert trainer.callback_metrics


# --------------------------------------------------------------------------------------------------- learned weights
def test_under_learned_weights_the_weighted_objective_is_logged_too() -> None:
    module = make_module(balancer=UncertaintyWeighting)
    metrics = fit(module, TRAIN, VAL, max_epochs=2).callback_metrics
    losses = torch.stack([metrics[f"val/loss/{name}"] for name in module.tasks])
    with torch.no_grad():
        objective = module.balancer(losses)
    assert float(metrics["val/objective"]) == pytest.approx(float(objective), rel=1e-6)
    assert float(objective) != pytest.approx(float(metrics["val/loss"]), rel=1e-3)
    assert "val/objective" not in fit(make_module(), TRAIN, VAL).callback_metrics


def test_the_objective_is_of_the_tasks_with_labels() -> None:
    module = make_module(balancer=UncertaintyWeighting)
    metrics = fit(module, TRAIN, [without(batch, "kind") for batch in VAL]).callback_metrics
    losses = torch.stack([metrics["val/loss/number"], metrics["val/loss/vector"], torch.tensor(0.0)])
    with torch.no_grad():
        objective = module.balancer(losses, torch.tensor([True, True, False]))
    assert float(metrics["val/objective"]) == pytest.approx(float(objective), rel=1e-6)
