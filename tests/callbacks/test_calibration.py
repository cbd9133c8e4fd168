"""Calibration through real fits, checkpoints and tests: what was planted is repaired, each weights' own is kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from mtl_lightning import MultiTaskModule, Predictor
from mtl_lightning.architectures import Product
from mtl_lightning.calibration import platt
from mtl_lightning.callbacks import Calibration, CalibrationMetrics, ReliabilityDiagrams, drawing
from mtl_lightning.callbacks.best_epoch import BestModelCheckpoint
from mtl_lightning.tasks import BinaryClassification, MulticlassClassification, Regression, SemanticSegmentation, Task
from mtl_lightning.types import Batch, ConfigurationError, TargetSpec, TensorSpec
from tests.calibration import planted
from tests.helpers import fit, loader_of, make_module, make_trainer

ROWS, BATCH, NUMBERS = 10_000, 2_500, 2_000
FACTORS = (1.5, 3.0, 6.0)
"""By which logits are too large in each epoch."""


NAME = "architecture.network.factor"


class TooSure(nn.Module):
    """Gives its inputs, which are the right answers, as outputs: logits times a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(FACTORS[0]))

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {
            "kind": self.factor * inputs[:, :5],
            "bought": self.factor * inputs[:, 5:6],
            "price": inputs[:, 6:7] + 0 * self.factor,
        }


class Grow(Callback):
    """Moves the factor on, an epoch at a time."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with torch.no_grad():
            pl_module.get_parameter(NAME).fill_(FACTORS[min(trainer.current_epoch, len(FACTORS) - 1)])


def tasks() -> dict[str, Task]:
    return {
        "kind": MulticlassClassification(TargetSpec(classes=5)),
        "bought": BinaryClassification(TargetSpec()),
        "price": Regression(TargetSpec(units="EUR")),
    }


def rows(seed: int, number: int = ROWS) -> list[Batch]:
    """Batches whose labels are drawn as the inputs say; only the first 2,000 have a price."""
    logits, kind = planted.classes(number, seed)
    answers, bought = planted.yes_or_no(number, seed)
    price = 100 * torch.randn(number, generator=torch.Generator().manual_seed(seed))
    errors = planted.errors(number, seed)[:, 0] * torch.where(torch.arange(number) % 2 == 0, 1.0, -1.0)
    truth = (price + errors).double().where(torch.arange(number) < NUMBERS, torch.nan)
    inputs = torch.cat([logits / planted.FACTOR, answers[:, None] / planted.FACTOR, price[:, None]], 1).double()
    targets = {"kind": kind, "bought": bought, "price": truth}
    cuts = [slice(start, start + BATCH) for start in range(0, number, BATCH)]
    return [{"inputs": inputs[cut], "targets": {n: t[cut] for n, t in targets.items()}} for cut in cuts]


def run(*callbacks: Callback, val: Any = None, **options: Any) -> tuple[MultiTaskModule, Trainer]:
    """Fit for three epochs with a rate of 0: only `Grow` moves anything."""
    module = make_module(tasks=tasks(), architecture=TooSure, optimizers={"default": partial(torch.optim.SGD, lr=0.0)})
    val = rows(1) if val is None else val
    return module, fit(module, rows(0, BATCH), val, callbacks=[Grow(), *callbacks], **{"max_epochs": 3, **options})


def part_of(path: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)["mtl_lightning"]["calibration"]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[MultiTaskModule, BestModelCheckpoint, Path]:
    """A fit with everything on, which logs into a folder."""
    folder, best = tmp_path_factory.mktemp("run"), BestModelCheckpoint()
    logger = TensorBoardLogger(folder)
    watching = [Calibration(), CalibrationMetrics(), ReliabilityDiagrams()]
    module, trainer = run(best, *watching, logger=logger, default_root_dir=folder)
    trainer.test(module, loader_of(rows(2)), verbose=False)
    logger.experiment.flush()
    return module, best, Path(str(logger.log_dir))


# --------------------------------------------------------------------------------------------------------- checkpoints
def test_each_checkpoint_has_the_calibration_of_its_own_weights(whole: Any) -> None:
    module, best, _ = whole
    first, last = part_of(best.best_model_path), part_of(best.last_model_path)
    assert module.calibration == last  # of the last weights, which the module has
    for found, factor in ((first, FACTORS[0]), (last, FACTORS[-1])):
        assert found["kind"]["temperature"] == pytest.approx(factor, rel=0.05)
        assert found["bought"]["slope"] == [pytest.approx(1 / factor, rel=0.05)]
    assert first["price"] == last["price"]
    assert first["price"]["coverage"] == 0.9
    assert MultiTaskModule.load_from_checkpoint(best.best_model_path, architecture=TooSure).calibration == first


def test_one_between_validations_has_none(tmp_path: Path) -> None:
    every = ModelCheckpoint(
        tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False
    )
    module, _ = run(Calibration(), every)
    assert [part_of(path) for path in tmp_path.glob("*.ckpt")] == [None] * 3
    assert module.calibration is not None


class Average(Callback):
    """Puts other weights in place of the last ones, as means over epochs are put there."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with torch.no_grad():
            pl_module.get_parameter(NAME).mul_(0.5)


def test_weights_that_no_validation_has_seen_have_none(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        module, _ = run(Calibration(), Average(), max_epochs=1)
    assert module.calibration is None
    assert "Calibration: none, since these weights have had no validation." in caplog.text


def test_it_is_switched_off_by_one_key_and_a_fit_forgets_an_older_one(tmp_path: Path) -> None:
    module, trainer = run(Calibration(enabled=False))
    assert module.calibration is None
    module.calibration = {"kind": {"method": "temperature", "temperature": 2.0}}
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, loader_of(rows(0, BATCH)))
    assert module.calibration is None


def test_a_resumed_run_ends_as_the_whole_one(whole: Any, tmp_path: Path) -> None:
    kept = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    run(Calibration(), kept, max_epochs=2)
    best = BestModelCheckpoint()
    module, _ = run(Calibration(), best, ckpt_path=str(tmp_path / "epoch=1.ckpt"), default_root_dir=tmp_path)
    assert module.calibration == whole[0].calibration
    again, _ = run(Calibration(), max_epochs=2, ckpt_path=str(tmp_path / "epoch=1.ckpt"))  # nothing is left to do
    assert again.calibration == part_of(tmp_path / "epoch=1.ckpt") != module.calibration


# ------------------------------------------------------------------------------------------------- what was planted ...
def test_a_test_of_a_checkpoint_is_calibrated(whole: Any) -> None:
    """The issue's figures: ECE below 0.02 with 10,000 rows, 88 to 92 % of 2,000 numbers within intervals of 90 %."""
    figures = []
    for path in (whole[1].last_model_path, None):
        module = make_module(tasks=tasks(), architecture=TooSure)
        with torch.no_grad():
            module.get_parameter(NAME).fill_(FACTORS[-1])
        trainer = make_trainer(callbacks=[CalibrationMetrics()])
        (found,) = trainer.test(module, loader_of(rows(2)), ckpt_path=path, verbose=False)
        figures.append(found)
    calibrated, raw = figures
    for task in ("kind", "bought"):
        assert raw[f"test/ece/{task}"] > 0.1
        assert calibrated[f"test/ece/{task}"] < 0.02
        assert calibrated[f"test/brier/{task}"] < raw[f"test/brier/{task}"]
        assert calibrated[f"test/loss/{task}"] == raw[f"test/loss/{task}"]
    assert 0.88 < calibrated["test/coverage/price"] < 0.92
    assert calibrated["test/interval_width/price"] == pytest.approx(2 * whole[0].calibration["price"]["half_width"][0])
    assert "test/coverage/price" not in raw
    assert calibrated["test/mae/price"] == raw["test/mae/price"]


def test_predictions_are_calibrated_and_losses_are_not(whole: Any) -> None:
    module = whole[0]
    batches = rows(3, BATCH)
    predicted: Any = make_trainer().predict(module, loader_of(batches))
    outputs = module(batches[0]["inputs"].to(module.dtype))
    temperature = module.calibration["kind"]["temperature"]
    torch.testing.assert_close(predicted[0]["kind"]["probability"], (outputs["kind"] / temperature).softmax(1))
    one, other = (make_trainer().validate(module, loader_of(batches), verbose=False)[0] for _ in range(2))
    module.calibration, kept = None, module.calibration
    assert make_trainer().validate(module, loader_of(batches), verbose=False)[0] == one == other
    module.calibration = kept


# ------------------------------------------------------------------------------------------ what counts, and what not
def spoiled(batches: Sequence[Batch], how: str) -> list[Batch]:
    """Put rows with wrong labels among others, which do not count: they have no weight, or no label."""
    found: list[Batch] = []
    for batch in batches:
        number = len(batch["inputs"])
        targets = {name: torch.cat([target, target.roll(7)]) for name, target in batch["targets"].items()}
        weight = torch.ones(2 * number)
        if how == "missing":
            targets["kind"][number:], targets["bought"][number:], targets["price"][number:] = -100, -100, torch.nan
        else:
            weight[number:] = 0
        mixed = torch.randperm(2 * number, generator=torch.Generator().manual_seed(0))
        inputs = torch.cat([batch["inputs"]] * 2)[mixed]
        made: Batch = {"inputs": inputs, "targets": {name: target[mixed] for name, target in targets.items()}}
        found.append({**made, "weights": weight[mixed]} if how == "weight 0" else made)
    return found


@pytest.mark.parametrize("how", ["missing", "weight 0"])
def test_rows_without_a_label_or_a_weight_count_for_nothing(how: str) -> None:
    clean = rows(1, BATCH)
    plain, mixed = (run(Calibration(), val=val, max_epochs=1)[0].calibration for val in (clean, spoiled(clean, how)))
    assert plain is not None
    assert mixed is not None
    assert mixed["kind"]["temperature"] == pytest.approx(plain["kind"]["temperature"])
    assert mixed["bought"]["slope"] == pytest.approx(plain["bought"]["slope"])
    assert mixed["price"]["half_width"] == pytest.approx(plain["price"]["half_width"])


def test_too_few_labels_are_said_in_words(caplog: pytest.LogCaptureFixture) -> None:
    (whole,) = rows(1, BATCH)
    kinds = whole["targets"]["kind"].clone()
    kinds[60:] = -100
    few: list[Batch] = [{"inputs": whole["inputs"], "targets": {"kind": kinds}}]
    calibration = Calibration()
    with caplog.at_level("INFO"):
        module, _ = run(calibration, val=few, max_epochs=1)
    assert module.calibration is None
    assert calibration.reasons["kind"] == "expected at least 100 labelled rows, found 60"
    assert "kind: none, since expected at least 100 labelled rows, found 60; bought: none, since" in caplog.text
    module, _ = run(Calibration(least=50), val=few, max_epochs=1)
    assert module.calibration is not None
    assert set(module.calibration) == {"kind"}


def test_more_rows_than_asked_for_are_thinned() -> None:
    module, _ = run(Calibration(rows=1_000), max_epochs=1)
    assert module.calibration is not None
    assert module.calibration["kind"]["temperature"] == pytest.approx(FACTORS[0], rel=0.15)


def test_isotonic_is_chosen_by_name_and_nothing_else_is() -> None:
    module, _ = run(Calibration(binary="isotonic"), max_epochs=1)
    assert module.calibration is not None
    assert {name: known["method"] for name, known in module.calibration.items()} == {
        "kind": "temperature",
        "bought": "isotonic",
        "price": "conformal",
    }
    with pytest.raises(ConfigurationError, match=r"`binary`: expected 'platt' or 'isotonic', found 'beta'"):
        Calibration(binary="beta")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigurationError, match=r"Calibration: `coverage`: expected"):
        Calibration(coverage=1.0)


# --------------------------------------------------------------------------------------------- other kinds of outputs
class ByCity(nn.Module):
    """Reads inputs of two names; the noise depends on the city."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"price": self.scale * inputs["x"]}


def of_cities(seed: int, number: int = 6_000) -> list[Batch]:
    random = torch.Generator().manual_seed(seed)
    x, city = torch.randn(number, 1, generator=random), torch.randint(0, 3, (number,), generator=random)
    noise = torch.randn(number, generator=random) * torch.tensor([1.0, 10.0, 50.0])[city]
    return [{"inputs": {"x": x, "city": city}, "targets": {"price": x[:, 0] + noise}}]


def test_groups_have_intervals_of_their_own() -> None:
    spec = {"x": TensorSpec((1,)), "city": TensorSpec((), "int64")}
    module = make_module(tasks={"price": Regression(TargetSpec())}, architecture=ByCity, input_spec=spec)
    options: dict[str, Any] = {"precision": "32-true"}
    fit(module, of_cities(0), of_cities(1), callbacks=[Calibration(by="city", coverage=0.8)], **options)
    assert module.calibration is not None
    known = module.calibration["price"]
    assert sorted(known["groups"]) == ["0", "1", "2"]
    assert known["groups"]["0"][0] < 2 < known["groups"]["1"][0] < 20 < known["groups"]["2"][0]
    for city in range(3):
        batch = of_cities(2)[0]
        chosen = batch["inputs"]["city"] == city
        part: Batch = {
            "inputs": {name: one[chosen] for name, one in batch["inputs"].items()},
            "targets": {"price": batch["targets"]["price"][chosen]},
        }
        (found,) = make_trainer(callbacks=[CalibrationMetrics()], **options).test(
            module, loader_of([part]), verbose=False
        )
        assert found["test/coverage/price"] == pytest.approx(0.8, abs=0.04)
    some = {"x": batch["inputs"]["x"][:9], "city": batch["inputs"]["city"][:9]}
    price = Predictor(module)(some).tasks["price"]
    widths = [known["groups"][str(city)][0] for city in some["city"].tolist()]
    assert (price["high"] - price["value"]).tolist() == pytest.approx(widths)
    with pytest.raises(ConfigurationError, match=r"`by`: expected inputs with one integer a row under 'town', found"):
        fit(module, of_cities(0), of_cities(1), callbacks=[Calibration(by="town")], **options)


def test_a_product_is_calibrated_as_the_product() -> None:
    funnel: dict[str, Task] = {name: BinaryClassification(TargetSpec()) for name in ("click", "buy")}
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(4_000, 4, generator=random, dtype=torch.float64)
    click = torch.rand(4_000, generator=random) < (2 * inputs[:, 0]).sigmoid()
    buy = click & (torch.rand(4_000, generator=random) < (2 * inputs[:, 1]).sigmoid())
    batches: list[Batch] = [{"inputs": inputs, "targets": {"click": click.long(), "buy": buy.long()}}] * 30
    rate = {"default": partial(torch.optim.Adam, lr=0.05)}
    module = make_module(tasks=funnel, architecture=Product, optimizers=rate)
    fit(module, batches, batches[:1], callbacks=[Calibration()])
    assert module.calibration is not None
    slope, intercept = platt(module(inputs)["buy"][:, 0].detach(), buy.long())
    assert module.calibration["buy"]["slope"] == [pytest.approx(slope)]
    assert module.calibration["buy"]["intercept"] == [pytest.approx(intercept)]
    share = float(module.predict(inputs)["buy"]["probability"].mean())
    assert share == pytest.approx(float(buy.double().mean()), abs=1e-3)


class Pixels(nn.Module):
    """Gives its inputs as logits of pixels, four times too large."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(4.0))

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"land": self.factor * inputs}


def test_pixels_are_calibrated() -> None:
    random = torch.Generator().manual_seed(0)
    right = torch.randn(20, 3, 16, 16, generator=random, dtype=torch.float64)
    flat = right.movedim(1, -1).reshape(-1, 3).softmax(1)
    target = torch.multinomial(flat, 1, generator=random).reshape(20, 16, 16)
    target[:, ::3] = -100
    batches: list[Batch] = [{"inputs": right, "targets": {"land": target}}]
    rate = {"default": partial(torch.optim.SGD, lr=0.0)}
    land: dict[str, Task] = {"land": SemanticSegmentation(TargetSpec(classes=3))}
    module = make_module(tasks=land, architecture=Pixels, optimizers=rate)
    trainer = fit(module, batches, batches, callbacks=[Calibration(), CalibrationMetrics()])
    assert module.calibration is not None
    assert module.calibration["land"]["temperature"] == pytest.approx(4, rel=0.15)
    (found,) = trainer.test(module, loader_of(batches), verbose=False)
    assert found["test/ece/land"] < 0.04
    assert found["test/ece/land"] < 0.2 * float(trainer.callback_metrics["test/brier/land"])


# ------------------------------------------------------------------------------------------------------------- figures
def test_diagrams_are_in_tensorboard(whole: Any) -> None:
    events = EventAccumulator(str(whole[2]), size_guidance={"images": 0})
    events.Reload()
    tags = {tag for tag in events.Tags()["images"] if "reliability" in tag}
    assert tags == {f"{stage}/reliability/{task}" for stage in ("val", "test") for task in ("kind", "bought")}
    assert [image.step for image in events.Images("val/reliability/kind")] == [0, 1, 2]
    assert len(events.Images("test/reliability/kind")) == 1


def test_diagrams_show_what_is_met(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[tuple[Any, ...]] = []
    real = drawing.reliability

    def seen(*given: Any, **named: Any) -> Any:
        drawn.append(given)
        return real(*given, **named)

    monkeypatch.setattr("mtl_lightning.callbacks.reliability.reliability", seen)
    run(ReliabilityDiagrams(rows=ROWS), max_epochs=1, logger=TensorBoardLogger(tmp_path))
    said, met, share = drawn[1][:3]  # bought, by its probability of a yes
    inputs = torch.cat([batch["inputs"] for batch in rows(1)])
    truth = torch.cat([batch["targets"]["bought"] for batch in rows(1)])
    chance = (FACTORS[0] * inputs[:, 5]).sigmoid()
    for place in range(15):
        inside = (chance * 15).long().clamp(max=14) == place
        assert float(said[place]) == pytest.approx(float(chance[inside].mean()), rel=1e-4)
        assert float(met[place]) == pytest.approx(float(truth[inside].double().mean()), rel=1e-4)
        assert float(share[place]) == pytest.approx(float(inside.double().mean()), rel=1e-4)


# ----------------------------------------------------------------------------------------------------------- processes
class Keep(Callback):
    """Writes what each process has found."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(pl_module.calibration, self.path / f"{trainer.global_rank}.pt")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save({**trainer.callback_metrics}, self.path / f"test{trainer.global_rank}.pt")


def test_the_same_on_two_processes(tmp_path: Path) -> None:
    one, trainer = run(Calibration(), CalibrationMetrics(), max_epochs=1)
    (alone,) = trainer.test(one, loader_of(rows(2)), verbose=False)
    watching = [Calibration(), CalibrationMetrics(), ReliabilityDiagrams(), Keep(tmp_path)]
    options: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork", "max_epochs": 1}
    options["logger"] = TensorBoardLogger(tmp_path)
    module, trainer = run(*watching, **options)
    module.calibration = one.calibration
    trainer.test(module, loader_of(rows(2)), verbose=False)
    assert one.calibration is not None
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["kind"]["temperature"] == pytest.approx(one.calibration["kind"]["temperature"], rel=1e-6)
        assert found["price"] == one.calibration["price"]
        tested = torch.load(tmp_path / f"test{rank}.pt")
        for tag in ("test/ece/kind", "test/brier/bought", "test/coverage/price", "test/interval_width/price"):
            assert float(tested[tag]) == pytest.approx(alone[tag], rel=1e-5)
