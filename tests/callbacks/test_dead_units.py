"""Which units count as dead, when they are looked at, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mtl_lightning import MultiTaskModule, Schedule
from mtl_lightning.architectures import MLP, LeNet, MLPHead, SharedBottom
from mtl_lightning.callbacks import DeadUnits
from mtl_lightning.data import MultiDigit, SyntheticRegression
from mtl_lightning.types import Batch, ConfigurationError
from tests.callbacks.events import said, scalars
from tests.helpers import INPUTS, fit, make_batches, make_module, make_tasks, make_trainer, without

UNITS = 8
STILL = {"default": partial(SGD, lr=0.0)}


def switched(inputs: int, outputs: int, dead: int, units: int = UNITS) -> nn.Sequential:
    """A hidden ReLU layer of which ``dead`` units are off, and the others on, whatever comes in."""
    hidden = nn.Linear(inputs, units)
    nn.init.zeros_(hidden.weight)
    hidden.bias.data = torch.ones(units)
    hidden.bias.data[:dead] = -1.0
    return nn.Sequential(hidden, nn.ReLU(), nn.Linear(units, outputs))


def head(dead: int) -> Callable[[tuple[int, ...], int], nn.Module]:
    return lambda size, outputs: switched(size[0], outputs, dead)


def passing(inputs: list[float]) -> Batch:
    """A batch of ``number`` whose inputs have these values in all columns."""
    column = torch.tensor(inputs, dtype=torch.float64)[:, None].expand(-1, INPUTS)
    return {"inputs": column, "targets": {"number": torch.zeros(len(inputs), dtype=torch.float64)}}


def open_at(*thresholds: float) -> nn.Sequential:
    """A ReLU unit per threshold, each on where the first input is above it."""
    hidden = nn.Linear(INPUTS, len(thresholds))
    nn.init.zeros_(hidden.weight)
    hidden.weight.data[:, 0] = 1.0
    hidden.bias.data = -torch.tensor(thresholds)
    return nn.Sequential(hidden, nn.ReLU())


def watched(callback: DeadUnits, batches: list[Batch], *thresholds: float, **options: Any) -> float | None:
    """Train such units, at a rate of 0, and return the fraction that was written for the shared group."""
    module = make_module(tasks=make_tasks("number"), architecture=open_at(*thresholds), optimizers=STILL)
    trainer = fit(module, batches, callbacks=[callback], **options)
    value = trainer.callback_metrics.get("watch/dead_units/shared")
    return None if value is None else float(value)


# ------------------------------------------------------------------------------------------------------ what is written
def test_the_fraction_of_each_group_is_written_at_the_steps_of_the_windows_ends(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    network = nn.Sequential(switched(INPUTS, 6, 1), nn.ReLU())
    last = network.get_submodule("0.2")
    last.load_state_dict({"weight": torch.zeros(6, UNITS), "bias": torch.tensor([-1.0, -1, 1, 1, 1, 1])})
    module = make_module(architecture=network, heads={"number": head(3), "kind": head(0)}, optimizers=STILL)
    trainer = fit(module, make_batches(20), callbacks=[DeadUnits(6, window=2)], logger=logger)
    expected = {"shared": (1 + 2) / (8 + 6), "number": 3 / 8, "kind": 0.0}  # `vector` has a linear head
    tags = {f"watch/dead_units/{group}": value for group, value in expected.items()}
    read = scalars(logger, "watch/")
    assert {tag: [step for step, _ in pairs] for tag, pairs in read.items()} == {tag: [5, 11, 17] for tag in tags}
    assert all(value == pytest.approx(tags[tag]) for tag, pairs in read.items() for _, value in pairs)
    found = {tag: float(value) for tag, value in trainer.callback_metrics.items() if tag.startswith("watch/")}
    assert found == pytest.approx(tags)


def test_every_logger_is_written_to(tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path / "a"), CSVLogger(tmp_path / "b")]
    fit(make_module(heads={"number": head(2)}), make_batches(4), callbacks=[DeadUnits(4, 2)], logger=loggers)
    for logger in loggers:
        assert "watch/dead_units/number" in Path(logger.log_dir, "metrics.csv").read_text()


def test_the_old_names_may_still_be_monitored(tmp_path: Path) -> None:
    """By checkpoints, early stopping and plateau schedulers; loggers get the new ones alone."""
    old = "diagnose/dead_units/number"
    keeper = ModelCheckpoint(tmp_path, monitor=old, filename="{epoch}")
    stopper = EarlyStopping(old.replace("number", "shared"), patience=1)
    plateau = Schedule(partial(ReduceLROnPlateau, patience=0, factor=0.5), monitor=old)
    logger = CSVLogger(tmp_path)
    network = nn.Sequential(switched(INPUTS, 6, 1), nn.ReLU())
    module = make_module(
        architecture=network,
        heads={"number": head(3)},
        optimizers={"default": partial(SGD, lr=1e-9), "kind": partial(SGD, lr=1e-3)},
        schedulers={"kind": plateau},
    )
    callbacks = [DeadUnits(4, 2), keeper, stopper]
    trainer = fit(module, make_batches(4), make_batches(1), callbacks=callbacks, logger=logger, max_epochs=5)
    assert keeper.best_model_score == 3 / 8
    assert trainer.current_epoch == 2  # the second epoch was no better
    assert module.group_optimizers["kind"].param_groups[0]["lr"] == 5e-4
    assert "diagnose/" not in Path(logger.log_dir, "metrics.csv").read_text()


def test_one_row_of_one_batch_of_the_window_is_enough() -> None:
    batches = [passing([0.0, 0.0]), passing([0.0, 0.0]), passing([0.0, 2.5]), passing([0.0, 0.0])]
    assert watched(DeadUnits(4, window=3), batches, -1.0, 1.0, 2.0, 3.0) == 1 / 4


def test_batches_before_the_window_do_not_count() -> None:
    batches = [passing([9.0]), passing([9.0]), passing([0.0]), passing([0.0])]
    assert watched(DeadUnits(4, window=2), batches, 1.0, 2.0) == 1.0
    assert watched(DeadUnits(4, window=3), batches, 1.0, 2.0) == 0.0


def test_a_window_starts_afresh() -> None:
    batches = [passing([9.0]), passing([9.0]), passing([0.0]), passing([0.0])]
    assert watched(DeadUnits(2, window=2), batches, 1.0, 2.0) == 1.0


def test_an_output_of_exactly_zero_is_not_firing() -> None:
    assert watched(DeadUnits(2, 1), [passing([1.0]), passing([1.0])], 1.0, 0.5) == 1 / 2


def test_validation_does_not_count() -> None:
    module = make_module(tasks=make_tasks("number"), architecture=open_at(1.0), optimizers=STILL)
    train, val = [passing([0.0])] * 4, [passing([9.0])] * 2
    trainer = fit(module, train, val, callbacks=[DeadUnits(4, window=4)], val_check_interval=1)
    assert float(trainer.callback_metrics["watch/dead_units/shared"]) == 1.0


def test_windows_go_on_over_epochs() -> None:
    assert watched(DeadUnits(4, window=4), [passing([0.0])], 1.0, max_epochs=3) is None
    assert watched(DeadUnits(4, window=4), [passing([0.0])], 1.0, max_epochs=4) == 1.0


def test_accumulated_batches_are_one_update() -> None:
    """Six batches are three updates; the window is the third, of both of its batches."""
    values = [9.0, 9.0, 9.0, 9.0, 0.0, 2.5]
    callback = DeadUnits(3, window=1)
    assert watched(callback, [passing([v]) for v in values], 1.0, 5.0, accumulate_grad_batches=2) == 1 / 2


def test_updates_that_nobody_labels_are_none() -> None:
    unlabelled = passing([9.0])
    unlabelled["targets"]["number"] = torch.full((1,), torch.nan, dtype=torch.float64)
    batches = [passing([0.0]), unlabelled, passing([0.0]), unlabelled, passing([0.0])]
    assert watched(DeadUnits(3, window=3), batches, 1.0) == 1.0


def test_a_group_that_did_not_run_is_not_written() -> None:
    module = make_module(heads={"default": head(2)}, optimizers=STILL, allow_unlabelled=["kind"])
    trainer = fit(module, [without(b, "kind") for b in make_batches(4)], callbacks=[DeadUnits(4, 2)])
    written = {tag for tag in trainer.callback_metrics if tag.startswith("watch/")}
    assert written == {"watch/dead_units/number", "watch/dead_units/vector"}


def test_classes_of_activations_can_be_given() -> None:
    class Ours(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.clamp(min=0.0)

    deep = nn.Sequential(open_at(1.0, -1.0)[0], Ours())
    module = make_module(tasks=make_tasks("number"), architecture=deep, optimizers=STILL)
    for callback, expected in ((DeadUnits(2, 2), {}), (DeadUnits(2, 2, activations=[Ours]), {"shared": 0.5})):
        trainer = fit(module, [passing([0.0])] * 2, callbacks=[callback])
        found = {t.rpartition("/")[2]: float(v) for t, v in trainer.callback_metrics.items() if t.startswith("watch/")}
        assert found == expected


# ------------------------------------------------------------------------------------------------- when it is looked at
class CountHooks(Callback):
    """Notes how many forward hooks are on the network while an update is made."""

    def __init__(self) -> None:
        self.hooks: list[int] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.hooks.append(hooks_on(pl_module))


def hooks_on(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in module.modules())


def test_hooks_are_on_during_windows_only() -> None:
    module, count = make_module(heads={"default": MLPHead}), CountHooks()
    fit(module, make_batches(12), make_batches(1), callbacks=[DeadUnits(5, window=2), count], val_check_interval=4)
    assert count.hooks == [0, 0, 0, 3, 3, 0, 0, 0, 3, 3, 0, 0]
    assert hooks_on(module) == 0


def test_an_error_takes_the_hooks_off() -> None:
    module = make_module(heads={"default": MLPHead})
    broken = make_batches(3)
    broken[1]["targets"]["number"][:] = torch.inf
    with pytest.raises(Exception, match="number"):
        fit(module, broken, callbacks=[DeadUnits(3, window=3)])
    assert hooks_on(module) == 0


@pytest.mark.parametrize("every", [0, 50])
def test_it_can_be_switched_off_and_leaves_networks_without_relu_alone(every: int) -> None:
    module, count = make_module(heads={"default": MLPHead} if every == 0 else {}), CountHooks()
    trainer = fit(module, make_batches(10), max_epochs=6, callbacks=[DeadUnits(every), count])
    assert set(count.hooks) == {0}
    assert not any(tag.startswith("watch/") for tag in trainer.callback_metrics)


def test_a_window_that_was_interrupted_is_dropped(tmp_path: Path) -> None:
    def run(updates: int, *callbacks: Callback, ckpt_path: str | None = None) -> Trainer:
        module = make_module(heads={"number": head(2)}, optimizers=STILL)
        watching = [DeadUnits(6, window=4), *callbacks]
        options: dict[str, Any] = {"max_steps": updates, "max_epochs": -1, "ckpt_path": ckpt_path}
        return fit(module, make_batches(5), callbacks=watching, **options)

    run(5, ModelCheckpoint(tmp_path, filename="five"))
    resumed = str(tmp_path / "five.ckpt")
    assert "watch/dead_units/number" not in run(11, ckpt_path=resumed).callback_metrics
    assert float(run(12, ckpt_path=resumed).callback_metrics["watch/dead_units/number"]) == 2 / 8


def test_it_says_what_it_does_not_watch(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    network = open_at(1.0, 2.0)
    network.compile(backend="eager")
    module = make_module(tasks=make_tasks("number"), architecture=network, heads={"default": head(4)}, optimizers=STILL)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        trainer = fit(module, [passing([0.0])] * 2, callbacks=[DeadUnits(2, 2)])
    assert "DeadUnits does not watch ['architecture.network.1']" in caplog.text + capsys.readouterr().err
    assert [tag for tag in trainer.callback_metrics if tag.startswith("watch/")] == ["watch/dead_units/number"]


# --------------------------------------------------------------------------------------------------------- what is said
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("make_data", [SyntheticRegression, partial(MultiDigit, batch_size=64)])
def test_a_head_at_a_thousand_times_its_rate_is_reported_by_name(make_data: Callable[[], Any], seed: int) -> None:
    data = make_data()
    too_fast = next(iter(data.tasks))
    module = make_module(
        seed=seed,
        tasks=data.tasks,
        input_spec=data.input_spec,
        architecture=SharedBottom,
        heads={"default": MLPHead},
        optimizers={"default": partial(Adam, lr=1e-3), too_fast: partial(Adam, lr=1.0)},
    )
    with said() as texts:
        fit(module, data, callbacks=[DeadUnits()], precision="32-true", max_steps=200, max_epochs=-1)
    assert [text for text in texts if text.startswith(f"Head {too_fast}: ")]
    for text in texts:  # nobody else is blamed
        assert f"lower the rate of `optimizers.{too_fast}`" in text.replace("Lower", "lower")
    assert f"ReLU units in heads.{too_fast}.layers.1 have not fired in 8 updates at learning rate 1." in texts[0]


@pytest.mark.parametrize(
    ("data", "encoder"),
    [
        pytest.param(SyntheticRegression(batch_size=4), MLP, id="few-rows"),
        pytest.param(SyntheticRegression(), partial(MLP, hidden=[64] * 5), id="deep"),
        pytest.param(MultiDigit(batch_size=64), MLP, id="digits"),
        pytest.param(MultiDigit(batch_size=64), partial(LeNet, channels=(8, 16), width=64), id="convolutions"),
    ],
)
def test_healthy_networks_are_left_in_peace(data: Any, encoder: Any) -> None:
    module = make_module(
        tasks=data.tasks,
        input_spec=data.input_spec,
        architecture=partial(SharedBottom, encoder=encoder),
        heads={"default": MLPHead},
    )
    with said() as texts:
        trainer = fit(module, data, callbacks=[DeadUnits()], precision="32-true", max_steps=300, max_epochs=-1)
    assert texts == []
    written = {tag.rpartition("/")[2] for tag in trainer.callback_metrics if tag.startswith("watch/")}
    assert written == {"shared", *data.tasks}


def texts_of(module: MultiTaskModule, callback: DeadUnits, updates: int = 4) -> list[str]:
    with said() as texts:
        fit(module, make_batches(updates), callbacks=[callback])
    return texts


def test_the_warning_names_group_layer_rate_and_remedy() -> None:
    module = make_module(heads={"kind": head(7)}, optimizers={"default": partial(SGD, lr=0.25)})
    assert texts_of(module, DeadUnits(2, 2)) == [
        "Head kind: 87 % of its 8 ReLU units in heads.kind.1 have not fired in 2 updates at learning rate 0.25. A rate "
        "too large kills such units, and a dead one learns no more, because no gradient passes. Lower the rate of "
        "`optimizers.kind` and train anew."
    ]


def test_a_warning_starts_at_the_threshold() -> None:
    module = make_module(heads={"kind": head(6)}, optimizers=STILL)
    assert len(texts_of(module, DeadUnits(2, 2, threshold=6 / 8))) == 1
    assert texts_of(module, DeadUnits(2, 2, threshold=6.5 / 8)) == []


def test_there_is_one_warning_per_group_and_run() -> None:
    module = make_module(heads={"number": head(8), "kind": head(7)}, optimizers=STILL)
    callback = DeadUnits(2, 2)
    for _ in range(2):
        assert [text.split(":")[0] for text in texts_of(module, callback, updates=6)] == ["Head number", "Head kind"]


def test_one_dead_layer_among_healthy_ones_is_enough() -> None:
    deep = nn.Sequential(switched(INPUTS, 6, 0, units=40), switched(6, 6, 7), switched(6, 6, 8), switched(6, 6, 8))
    module = make_module(architecture=deep, optimizers=STILL)
    (text,) = texts_of(module, DeadUnits(2, 2))
    assert text.startswith("Group shared: 100 % of its 8 ReLU units in architecture.network.2.1 ")  # the first worst


def test_the_group_with_the_highest_rate_is_the_one_to_begin_with() -> None:
    module = make_module(
        architecture=switched(INPUTS, 6, 8),
        heads={"number": head(7)},
        optimizers={"default": partial(SGD, lr=1e-3), "number": partial(SGD, lr=1.0)},
    )
    first, second = texts_of(module, DeadUnits(2, 2))
    assert first.startswith("Head number: 87 %")
    assert first.endswith("Lower the rate of `optimizers.number` and train anew.")
    assert second.startswith("Group shared: 100 %")
    assert second.endswith(
        "Head number has died too, at the higher rate 1, and may have taken these along: lower the rate of "
        "`optimizers.number` first."
    )


def test_frozen_layers_are_counted_but_not_blamed_on_a_rate() -> None:
    module = make_module(heads={"number": head(8)}, optimizers=STILL)
    module.get_submodule("heads.number.0").requires_grad_(False)
    with said() as texts:
        trainer = fit(module, make_batches(4), callbacks=[DeadUnits(2, 2)])
    assert texts == []
    assert float(trainer.callback_metrics["watch/dead_units/number"]) == 1.0


def test_a_nan_is_not_silence() -> None:
    module = make_module(heads={"number": head(0)}, optimizers=STILL, on_nonfinite="ignore")
    module.get_parameter("heads.number.0.bias").data[:] = torch.nan
    trainer = fit(module, make_batches(2), callbacks=[DeadUnits(2, 2)])
    assert float(trainer.callback_metrics["watch/dead_units/number"]) == 0.0


# ------------------------------------------------------------------------------------------------------------- the rest
def test_classes_of_activations_can_be_given_in_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callback", type=Callback)
    options = {"activations": ["torch.nn.ReLU", "torch.nn.Hardtanh"], "every_n_steps": 20}
    made = parser.instantiate(parser.parse_object({"callback": {"class_path": "DeadUnits", "init_args": options}}))
    assert made.callback.activations == (nn.ReLU, nn.Hardtanh)


def test_units_that_fire_on_another_process_are_alive(tmp_path: Path) -> None:
    """Row i of the data opens unit i; each process sees every other row, both together see all but the last."""
    rows = [passing([float(i)])["inputs"][0] for i in range(4)]
    data = [{"inputs": row, "targets": {"number": torch.zeros((), dtype=torch.float64)}} for row in rows]
    module = make_module(tasks=make_tasks("number"), architecture=SplitRows(), optimizers=STILL)
    trainer = make_trainer(
        callbacks=[DeadUnits(1, 1)], devices=2, strategy="ddp_fork", max_steps=1, logger=CSVLogger(tmp_path, "", "")
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=2))  # type: ignore[arg-type]  # a list will do
    header, *lines = (tmp_path / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("watch/dead_units/shared")
    assert [line.split(",")[column] for line in lines if line.split(",")[column]] == [str(1 / 5)]


class SplitRows(nn.Module):
    """Unit i is on for inputs of i alone; there are five units."""

    out_features = (5,)

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(INPUTS, 5)
        self.activation = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        on = inputs[:, :1] == torch.arange(5, dtype=inputs.dtype)
        features: Tensor = self.activation(on.to(inputs.dtype) + 0.0 * self.before(inputs))
        return features


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 4, "window": 5}, "at most `every_n_steps` = 4, found 5"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DeadUnits(**options)
