"""Cosines and lengths are those of gradients taken by hand, looking changes nothing, and when a pair is warned of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.optim import SGD

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, MLPHead, SharedBottom, SingleTaskNetworks
from mtl_lightning.balancing import FAMO, FixedWeighting, PCGrad, UncertaintyWeighting
from mtl_lightning.balancing.base import Balancer
from mtl_lightning.callbacks import Conflict
from mtl_lightning.types import Batch
from tests.callbacks.events import said, scalars
from tests.helpers import (
    INPUTS,
    TinyData,
    assert_same,
    fit,
    make_batches,
    make_module,
    make_tasks,
    make_trainer,
    weights_of,
    with_gaps,
    without,
)

PAIRS = [*combinations(["number", "vector", "kind"], 2)]
NORMED = partial(SharedBottom, encoder=partial(MLP, hidden=[8, 6], norm=nn.BatchNorm1d, dropout=0.3))


def written(trainer: Trainer, kind: str) -> dict[tuple[str, ...], float]:
    tags = {tag: float(value) for tag, value in trainer.callback_metrics.items() if tag.startswith(f"watch/{kind}/")}
    return {tuple(tag.split("/")[2:]): value for tag, value in tags.items()}


def by_hand(module: MultiTaskModule, batches: list[Batch]) -> dict[str, Tensor]:
    """Each task's gradient of the shared parameters, of its loss over all rows of some batches."""
    inputs = torch.cat([batch["inputs"] for batch in batches])
    outputs, found = module(inputs), {}
    for name, task in module.tasks.items():
        target = torch.cat([batch["targets"][name] for batch in batches])
        loss = task.loss(outputs[name], target) / task.count(target)
        grads = torch.autograd.grad(loss, list(module.roles.shared.values()), retain_graph=True)
        found[name] = torch.cat([grad.flatten() for grad in grads])
    return found


class ByHand(Callback):
    """Takes the gradients of the last update's window, and the weights of the losses in it, before the step."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.cosines: dict[tuple[str, ...], float] = {}
        self.magnitudes: dict[tuple[str, ...], float] = {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        assert isinstance(pl_module, MultiTaskModule)
        rows = by_hand(pl_module, self.batches)
        assert pl_module.updates.losses.weights is not None  # what is recorded as `train/weight/<task>`
        factors = dict(zip(rows, pl_module.updates.losses.weights.tolist(), strict=True))
        for a, b in PAIRS:
            self.cosines[a, b] = float(torch.cosine_similarity(rows[a], rows[b], dim=0))
            self.magnitudes[a, b] = float(rows[a].norm() / rows[b].norm()) * factors[a] / factors[b]


@pytest.mark.parametrize("balancer", [Balancer, partial(FixedWeighting, weights=[1.0, 20.0, 3.0]), PCGrad])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_values_are_those_of_gradients_by_hand(balancer: Any, accumulate: int) -> None:
    batches = with_gaps(make_batches(4), share=0.3)
    measure = ByHand(batches[-accumulate:])
    trainer = fit(
        make_module(balancer=balancer), batches, callbacks=[measure, Conflict(1)], accumulate_grad_batches=accumulate
    )
    assert written(trainer, "cosine") == pytest.approx(measure.cosines, rel=1e-6)
    assert written(trainer, "magnitude") == pytest.approx(measure.magnitudes, rel=1e-6)


def test_the_magnitude_is_weighed_by_what_uncertainty_has_learned() -> None:
    module = make_module(balancer=UncertaintyWeighting, optimizers={"default": partial(SGD, lr=0.0)})
    with torch.no_grad():
        module.get_parameter("balancer.log_vars.1").fill_(3.0)
    rows = by_hand(module.double(), batches := make_batches(1))
    trainer = fit(module, batches, callbacks=[Conflict(1)])
    expected = float(rows["number"].norm() / rows["vector"].norm()) * 0.5 / torch.e**-3  # squared over absolute errors
    assert written(trainer, "magnitude")["number", "vector"] == pytest.approx(expected, rel=1e-6)


def test_tasks_without_labels_are_left_out_and_looks_are_rare_by_default() -> None:
    batches = [without(batch, "vector") for batch in make_batches(4)]
    module = make_module(allow_unlabelled=["vector"])
    callback = Conflict()
    trainer = fit(module, batches, callbacks=[callback], max_epochs=38)
    assert {*written(trainer, "cosine")} == {("number", "kind")}
    assert callback.seen["looks"] == 2  # at update 1 and, with three tasks, 150


@pytest.mark.parametrize(
    "options", [{"tasks": make_tasks("number")}, {"architecture": SingleTaskNetworks}], ids=["one task", "own networks"]
)
def test_nothing_is_written_where_nothing_is_shared(options: dict[str, Any]) -> None:
    batches = make_batches(2, tasks=[*options.get("tasks", make_tasks())])
    trainer = fit(make_module(**options), batches, callbacks=[Conflict(1)])
    assert not [tag for tag in trainer.callback_metrics if tag.startswith("watch/")]


def test_embeddings_with_sparse_gradients_are_left_out() -> None:
    class Table(nn.Module):
        out_features = (6,)

        def __init__(self) -> None:
            super().__init__()
            self.rows, self.dense = nn.Embedding(5, 4, sparse=True), nn.Linear(4, 6)

        def forward(self, inputs: Tensor) -> Tensor:
            features: Tensor = self.dense(self.rows((inputs[:, 0] > 0).long()))
            return features

    trainer = fit(
        make_module(architecture=Table(), optimizers={"default": partial(SGD, lr=0.1)}),
        make_batches(2),
        callbacks=[Conflict(1)],
    )
    assert len(written(trainer, "cosine")) == 3


# --------------------------------------------------------------------------------------------- nothing of a run changes
@pytest.mark.parametrize(("balancer", "accumulate"), [(Balancer, 1), (UncertaintyWeighting, 3), (PCGrad, 1), (FAMO, 3)])
def test_looking_at_every_update_changes_no_bit(balancer: Any, accumulate: int) -> None:
    def run(*callbacks: Callback) -> tuple[dict[str, Tensor], Tensor]:
        data = TinyData()
        heads = {"default": partial(MLPHead, dropout=0.2)}
        module = make_module(tasks=data.tasks, architecture=NORMED, heads=heads, balancer=balancer)
        options: dict[str, Any] = {"accumulate_grad_batches": accumulate, "precision": "32-true"}
        fit(module, data, callbacks=[*callbacks], max_epochs=3, **options)
        kept = {**weights_of(module), **{name: buffer.clone() for name, buffer in module.named_buffers()}}
        return kept, torch.get_rng_state()

    (plain, state), (watched, after) = run(), run(Conflict(1))
    assert_same(watched, plain)
    assert torch.equal(after, state)


class Keep(Callback):
    """Writes the weights, and what was written last, into a file, from the first process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            metrics = {tag: value for tag, value in trainer.callback_metrics.items() if tag.startswith("watch/")}
            torch.save({"weights": weights_of(pl_module), "metrics": metrics}, self.path)


def test_two_processes_look_at_the_gradients_of_both_and_change_no_bit(tmp_path: Path) -> None:
    """They see what one process with all rows sees."""

    def run(name: str, rows: int, devices: int, *callbacks: Callback) -> Any:
        module = make_module(optimizers={"default": partial(SGD, lr=0.1)})
        more: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork"} if devices == 2 else {}
        trainer = make_trainer(callbacks=[*callbacks, Keep(tmp_path / name)], max_steps=4, max_epochs=-1, **more)
        trainer.fit(module, TinyData(batch_size=rows))
        return torch.load(tmp_path / name, weights_only=True)

    alone, plain, watched = run("1", 8, 1, Conflict(1)), run("2", 4, 2), run("3", 4, 2, Conflict(1))
    assert_same(watched["weights"], plain["weights"])
    assert len(watched["metrics"]) == 7
    assert {t: float(v) for t, v in watched["metrics"].items()} == pytest.approx(
        {t: float(v) for t, v in alone["metrics"].items()}, rel=1e-5
    )


# --------------------------------------------------------------------------------------------------- what is said of it
def signed(*signs: float) -> list[Batch]:
    """Batches of ``number`` whose rows are alike and whose two targets agree (1) or oppose each other (-1)."""
    ones = torch.ones(4, INPUTS, dtype=torch.float64)
    column = torch.ones(4, dtype=torch.float64)
    return [{"inputs": ones, "targets": {"a": column, "b": sign * column}} for sign in signs]


class Same(nn.Module):
    """Gives two tasks one output, a linear map that starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(INPUTS, 1, bias=False)
        nn.init.zeros_(self.map.weight)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"a": self.map(inputs), "b": self.map(inputs)}


def opposing(callback: Conflict, batches: list[Batch], lr: float = 0.0, **options: Any) -> list[str]:
    tasks = {"a": make_tasks("number")["number"], "b": make_tasks("number")["number"]}
    module = make_module(tasks=tasks, architecture=Same(), optimizers={"default": partial(SGD, lr=lr)})
    with said() as texts:
        fit(module, batches, callbacks=[callback], **options)
    return texts


CHECK: Callable[..., Conflict] = partial(Conflict, 4, confirm=3, looks=2)


def test_two_looks_in_a_row_that_are_confirmed_make_a_warning() -> None:
    """Looks are updates 1 to 3 and 4 to 6."""
    (text,) = opposing(CHECK(), signed(*[-1.0] * 6))
    assert text.startswith("Tasks a and b: their gradients of the shared parameters oppose each other in every update")
    assert "cosine now -1.00" in text
    assert opposing(CHECK(), signed(*[-1.0] * 5)) == []


@pytest.mark.parametrize("agrees", [1, 3, 5])
def test_one_update_in_which_they_agree_is_enough_against_it(agrees: int) -> None:
    signs = [1.0 if number == agrees else -1.0 for number in range(1, 7)]
    assert opposing(CHECK(), signed(*signs)) == []


def test_gradients_that_have_come_to_rest_oppose_nobody() -> None:
    """Both fit the mean of their targets: gradients that cancel out, and are small to what they were."""

    def near(distance: float) -> list[Batch]:
        return [
            {**b, "targets": {"a": b["targets"]["a"] + distance, "b": b["targets"]["b"] - distance}}
            for b in signed(*[1.0] * 40)
        ]

    callback = Conflict(4, confirm=3, looks=2)
    assert opposing(callback, near(0.05), lr=0.1) == []
    assert callback.seen["conflicting"] > 5
    assert len(opposing(Conflict(4, confirm=3, looks=2), near(0.5), lr=0.1)) == 1


def test_the_share_of_conflicting_updates_and_the_picture(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    opposing(Conflict(2, confirm=1), signed(1.0, -1.0, 1.0, 1.0), logger=logger)
    shares = scalars(logger, "watch/conflicting")["watch/conflicting_updates"]
    assert shares == [(0, 0.0), (1, 0.5), (3, pytest.approx(1 / 3))]  # updates 1, 2 and 4
    events = EventAccumulator(str(logger.log_dir))
    events.Reload()
    (image,) = events.Images("watch/cosines")
    assert (image.width, image.height) == (256, 256)


def test_a_scale_that_drowns_another_is_named_with_the_key() -> None:
    batches: list[Batch] = [{**b, "targets": {**b["targets"], "a": 1e5 * b["targets"]["a"]}} for b in signed(1.0, 1.0)]
    (text,) = opposing(Conflict(2), batches)
    assert "Task a: its weighted gradient of the shared parameters is 1.0e+05 times as long as that of b" in text
    assert "`data.init_args.tasks.a`" in text
    assert opposing(Conflict(2, dominance=1e6), batches) == []
    assert opposing(Conflict(2), batches[:1]) == []
