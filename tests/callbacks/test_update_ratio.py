"""How far an update moves each group, and when that is called too little."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR, StepLR

from mtl_lightning import MultiTaskModule, Schedule
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.callbacks import DeadUnits, UpdateRatio
from tests.callbacks.events import said, scalars
from tests.helpers import fit, loader_of, make_batches, make_module, make_trainer, weights_of, without

BATCHES = make_batches(10)
TAG = "watch/update_ratio/"


class Measure(Callback):
    """The same by other means: all weights before and after each update, one norm over each group's."""

    def __init__(self) -> None:
        self.ratios: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.before = weights_of(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, MultiTaskModule)
        after = weights_of(pl_module)

        def flat(weights: dict[str, Tensor], group: str) -> Tensor:
            return torch.cat([weights[name].flatten().double() for name in pl_module.groups[group]])

        old = {group: flat(self.before, group) for group in pl_module.groups}
        new = {group: flat(after, group) for group in pl_module.groups}
        self.ratios.append({group: float((new[group] - old[group]).norm() / old[group].norm()) for group in old})


def written(trainer: Trainer) -> dict[str, float]:
    return {t.removeprefix(TAG): float(v) for t, v in trainer.callback_metrics.items() if t.startswith(TAG)}


def texts_of(module: MultiTaskModule, callback: UpdateRatio, **options: Any) -> list[str]:
    with said() as texts:
        fit(module, options.pop("batches", BATCHES), callbacks=[callback, *options.pop("callbacks", [])], **options)
    return texts


def slow(rate: float = 1e-9, **others: Any) -> dict[str, Any]:
    return {"default": partial(Adam, lr=1e-2), "kind": partial(Adam, lr=rate), **others}


# ------------------------------------------------------------------------------------------------------ what is written
def test_the_ratios_are_those_measured_by_hand_at_the_steps_of_their_updates(tmp_path: Path) -> None:
    logger, measure = TensorBoardLogger(tmp_path), Measure()
    module = make_module(
        balancer=UncertaintyWeighting,
        optimizers={"default": partial(AdamW, lr=1e-2, weight_decay=0.1), "kind": partial(SGD, lr=0.1)},
        gradient_clip={"kind": 0.1},
    )
    trainer = fit(module, BATCHES, callbacks=[UpdateRatio(4), measure], logger=logger)
    assert list(module.groups) == ["shared", "number", "vector", "kind", "balancer"]
    expected = {f"{TAG}{group}": [(step, measure.ratios[step][group]) for step in (3, 7)] for group in module.groups}
    read = scalars(logger, "watch/")
    assert {tag: [step for step, _ in pairs] for tag, pairs in read.items()} == {tag: [3, 7] for tag in expected}
    for tag, pairs in expected.items():
        assert [value for _, value in read[tag]] == pytest.approx([value for _, value in pairs], rel=1e-6)
    assert written(trainer) == pytest.approx({group: measure.ratios[7][group] for group in module.groups}, rel=1e-6)


def test_the_update_of_an_accumulated_window_is_one_sample() -> None:
    measure = Measure()
    module = make_module()
    trainer = fit(module, BATCHES, callbacks=[UpdateRatio(5), measure], accumulate_grad_batches=2)
    assert written(trainer) == pytest.approx(measure.ratios[-1], rel=1e-6)


def test_groups_without_a_gradient_have_no_value() -> None:
    module = make_module(allow_unlabelled=["vector"])
    module.get_submodule("heads.number").requires_grad_(False)
    trainer = fit(module, [without(batch, "vector") for batch in BATCHES], callbacks=[UpdateRatio(5)])
    assert set(written(trainer)) == {"shared", "kind"}


def test_only_parameters_with_a_gradient_are_measured() -> None:
    """What is frozen, in a group with others, would only dilute the ratio."""

    def ratios(**options: Any) -> dict[str, float]:
        module = make_module(**options)
        module.get_submodule("heads.number").requires_grad_(False)
        return written(fit(module, BATCHES, callbacks=[UpdateRatio(10)]))

    merged, apart = ratios(groups={"heads": ["task:number", "task:kind"]}), ratios()
    assert merged["heads"] == pytest.approx(apart["kind"], rel=1e-12)


def test_weights_of_zero_have_no_ratio() -> None:
    module = make_module(balancer=UncertaintyWeighting)
    trainer = fit(module, BATCHES[:1], callbacks=[UpdateRatio(1)])  # log-variances start at 0
    assert set(written(trainer)) == {"shared", "number", "vector", "kind"}


def test_half_precision_weights_are_compared_in_float32() -> None:
    measure = Measure()
    trainer = fit(make_module(), make_batches(4), callbacks=[UpdateRatio(4), measure], precision="bf16-true")
    assert written(trainer) == pytest.approx(measure.ratios[-1], rel=1e-6)


def test_sparse_gradients_are_measured() -> None:
    class Table(nn.Module):
        out_features = (6,)

        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Embedding(5, 6, sparse=True)

        def forward(self, inputs: Tensor) -> Tensor:
            features: Tensor = self.rows((inputs[:, 0] > 0).long())
            return features

    measure = Measure()
    module = make_module(architecture=Table(), optimizers={"default": partial(SGD, lr=0.1)})
    trainer = fit(module, BATCHES, callbacks=[UpdateRatio(10), measure])
    assert written(trainer) == pytest.approx(measure.ratios[-1], rel=1e-6)


def test_it_can_be_switched_off() -> None:
    assert written(fit(make_module(), BATCHES, callbacks=[UpdateRatio(0)])) == {}


# --------------------------------------------------------------------------------------------------------- what is said
def test_the_warning_names_group_ratio_rate_and_remedy_once() -> None:
    (text,) = texts_of(make_module(optimizers=slow()), UpdateRatio(2))
    start, _, rest = text.partition(" of their norm ")
    assert start.startswith("Head kind: an update changes its weights by ")
    assert 1e-10 < float(start.rpartition(" ")[2]) < 1e-7
    assert rest == (
        "at learning rate 1e-09, and no sampled one so far by 1e-06 or more. A rate this small hardly learns: raise "
        "`optimizers.kind`. If the rate is as you want it, see `train/grad_norm/kind`: the gradient may be vanishing."
    )


def test_each_group_is_named_and_a_shared_one_is_no_head() -> None:
    module = make_module(optimizers=slow(shared=partial(SGD, lr=1e-10)))
    assert [text.split(":")[0] for text in texts_of(module, UpdateRatio(3))] == ["Group shared", "Head kind"]


def test_one_low_sample_is_not_enough() -> None:
    assert texts_of(make_module(optimizers=slow()), UpdateRatio(6)) == []
    assert len(texts_of(make_module(optimizers=slow()), UpdateRatio(5))) == 1


def test_every_run_has_its_own_warnings() -> None:
    callback = UpdateRatio(2)
    for _ in range(2):
        assert len(texts_of(make_module(optimizers=slow()), callback)) == 1


def test_the_threshold_can_be_set() -> None:
    assert texts_of(make_module(), UpdateRatio(2)) == []
    assert len(texts_of(make_module(), UpdateRatio(2, threshold=1.0))) == 4


def test_a_healthy_run_is_left_in_peace() -> None:
    module = make_module(balancer=UncertaintyWeighting)
    assert texts_of(module, UpdateRatio(10), max_epochs=20) == []


@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param(Schedule(partial(LambdaLR, lr_lambda=lambda _: 0.0), interval="step"), id="zero"),
        pytest.param(Schedule(partial(LambdaLR, lr_lambda=lambda _: 1e-7), interval="step"), id="nearly-zero"),
        pytest.param(Schedule(partial(StepLR, step_size=1, gamma=1e-7), interval="step", warmup=1), id="after-warm-up"),
    ],
)
def test_a_rate_that_a_schedule_holds_down_is_as_meant(schedule: Schedule) -> None:
    module = make_module(optimizers={"default": partial(SGD, lr=1e-2)}, schedulers={"kind": schedule})
    with said() as texts:
        trainer = fit(module, BATCHES, callbacks=[UpdateRatio(3)])
    assert texts == []
    assert written(trainer)["kind"] < 1e-6 < written(trainer)["number"]


def test_a_group_that_has_moved_may_come_to_rest(tmp_path: Path) -> None:
    """Its rate falls by hand, unknown to any schedule; also after a resume, which knows the past by the checkpoint."""

    class Brake(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, MultiTaskModule)
            if trainer.current_epoch == 1:
                pl_module.group_optimizers["kind"].param_groups[0]["lr"] = 2e-9

    def run(callback: UpdateRatio, epochs: int, **options: Any) -> list[str]:
        module = make_module(optimizers={"default": partial(SGD, lr=1e-2)})
        saver = [ModelCheckpoint(tmp_path, filename="first")] if epochs == 1 else []
        return texts_of(module, callback, callbacks=[Brake(), *saver], max_epochs=epochs, **options)

    assert run(UpdateRatio(2), epochs=2) == []
    assert run(UpdateRatio(2), epochs=1) == []
    checkpoint = str(tmp_path / "first.ckpt")
    assert run(UpdateRatio(2), epochs=2, ckpt_path=checkpoint) == []
    forgetful = torch.load(checkpoint, weights_only=True)
    assert forgetful["callbacks"]["UpdateRatio"]["moved"] == ["kind", "number", "shared", "vector"]
    forgetful["callbacks"]["UpdateRatio"] = {"moved": [], "low": {}}
    torch.save(forgetful, tmp_path / "forgetful.ckpt")
    assert len(run(UpdateRatio(2), epochs=2, ckpt_path=str(tmp_path / "forgetful.ckpt"))) == 1


def test_a_rate_of_zero_is_as_meant() -> None:
    assert texts_of(make_module(optimizers=slow(0.0)), UpdateRatio(2)) == []


def test_a_gradient_of_zero_is_not_the_rates_fault() -> None:
    class Deaf(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs) * 0.0

    heads = {"kind": lambda size, outputs: Deaf(size[0], outputs)}
    module = make_module(heads=heads, optimizers={"default": partial(SGD, lr=1e-2)})
    with said() as texts:
        trainer = fit(module, BATCHES, callbacks=[UpdateRatio(2)])
    assert texts == []
    assert written(trainer)["kind"] == 0.0


def test_steps_skipped_by_a_gradient_scaler_do_not_count() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=0.999, growth_interval=1000)
    trainer = make_trainer(
        callbacks=[UpdateRatio(2)], precision=None, plugins=MixedPrecision("16-mixed", "cpu", scaler=scaler)
    )
    batches = [{**b, "inputs": b["inputs"].float()} for b in BATCHES]
    with said() as texts:
        trainer.fit(make_module(), loader_of(batches))
    assert trainer.scaler is not None
    assert set(written(trainer).values()) == {0.0}
    assert texts == []


# ------------------------------------------------------------------------------------------------------ rates too large
def jumping(ratio: float, updates: int = 6, **optimizers: Any) -> list[str]:
    """A head whose weights have norm 1, and whose gradient is scaled to move them by so much at every update."""

    class Fixed(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            assert isinstance(pl_module, MultiTaskModule)
            weights = [*pl_module.groups["kind"].values()]
            rate = pl_module.group_optimizers["kind"].param_groups[0]["lr"]
            norm = torch.cat([weight.detach().flatten() for weight in weights]).norm()
            for weight in weights:
                weight.grad = weight.detach() / weight.detach().norm() * norm * ratio / rate / len(weights) ** 0.5

    given = {"default": partial(SGD, lr=1e-3), "kind": partial(SGD, lr=1e-3), **optimizers}
    return texts_of(make_module(optimizers=given), UpdateRatio(1), batches=make_batches(updates), callbacks=[Fixed()])


def test_a_group_that_moves_by_a_tenth_time_and_again_is_named() -> None:
    (text,) = jumping(0.12)
    assert text.startswith("Head kind: an update changes its weights by 1.2e-01 of their norm, time and again")
    assert "is too large" in text
    assert "`optimizers.kind`" in text
    assert jumping(0.08) == []
    assert jumping(0.12, updates=4) == []


def test_a_head_whose_rate_is_far_above_the_others_is_named_sooner() -> None:
    (text,) = jumping(0.01, updates=3, kind=partial(SGD, lr=0.1))
    assert "Its learning rate, 0.1, 100 times that of other heads, is too large" in text
    assert jumping(0.01, updates=2, kind=partial(SGD, lr=0.1)) == []  # two samples are too few
    assert jumping(0.001, kind=partial(SGD, lr=0.1)) == []  # it does not move further than usual
    assert jumping(0.01, kind=partial(SGD, lr=0.02)) == []
    assert jumping(0.01, kind=partial(SGD, lr=0.1), default=partial(Adam, lr=1e-3)) == []  # another kind of rate


def test_what_one_callback_has_warned_of_the_others_leave_alone() -> None:
    """A head of dead units, whose last layer hardly learns either."""
    first, second = DeadUnits(2, 2), UpdateRatio(2)
    heads = {"kind": lambda size, outputs: nn.Sequential(_off(size[0]), nn.ReLU(), nn.Linear(4, outputs))}
    with said() as texts:
        fit(make_module(heads=heads, optimizers=slow()), BATCHES, callbacks=[first, second])
    assert (len(texts), first.warned, second.warned) == (1, {"kind"}, set())


def _off(inputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, 4)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, -1.0)
    return layer
