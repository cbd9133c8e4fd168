"""What is asked of two processes, feature by feature; run by torchrun as a script, it trains all cases on both.

A case is a feature of the one-process suite, or one of those below. Each runs under its own ``try``: what one case
ends with, or the error it is refused with, is saved for the tests to judge.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, LearningRateFinder
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.tuner.tuning import Tuner
from torch.distributed.tensor import DTensor
from torch.optim import SGD
from torchjd.aggregation import UPGrad

from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.types import Batch
from tests.conformance.plain import Feature, Notes
from tests.conformance.signature import split
from tests.conformance.test_callbacks import RATES, rates
from tests.conformance.test_features import FEATURES, FINETUNED, SGD_05, WithBackbone
from tests.conformance.test_overflow import Injecting, Watching
from tests.core.checkpoint.test_resume import build
from tests.core.saved import single
from tests.helpers import fit, loader_of, make_batches, make_module, make_trainer, with_gaps

SGD_APART = partial(SGD, lr=0.05, momentum=0.9, fused=False)  # fused SGD moves no half-precision weight on the CPU
FIVE = {"first": ["architecture.encoder.stages.0.*"]}
BALANCERS: dict[str, Any] = {"uncertainty": UncertaintyWeighting, "UPGrad": UPGrad()}


def nothing(_: Any) -> None:
    """Leave a module as it is."""


# ------------------------------------------------------------------------------------------------------------ the cases
@dataclass(frozen=True)
class Case:
    """One feature, and how it is asked for where options of the trainer do not say it.

    Args:
        feature: options, callbacks, optimizer and schedule, as on one process.
        precision: of the trainer; None leaves the two exact ones, float64 and, sharded, float32.
        module: options of the module.
        prepare: changes the module before it is trained.
        spoil: changes the batches, before they are split.
        trainer: options that need the case's folder, or an object of their own for each run.
    """

    feature: Feature = field(default_factory=Feature)
    precision: str | None = None
    module: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Any], None] = nothing
    spoil: Callable[[list[Batch]], list[Batch]] = list
    trainer: Callable[[str], dict[str, Any]] = lambda _: {}


class OnTheSecond(Watching):
    """Lets the gradient overflow on the second process alone; on one process, there."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        elsewhere = SimpleNamespace(global_step=-1)
        pl_module.heads["kind"].trainer = trainer if trainer.global_rank == trainer.world_size - 1 else elsewhere


class Saver(Callback):
    """Saves once, after a batch of the run."""

    def __init__(self, batch: int, path: str) -> None:
        self.batch, self.path = batch, path

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            trainer.save_checkpoint(self.path)


def with_absences(data: list[Batch]) -> list[Batch]:
    """One batch has no label of ``kind``, and one has ``vector`` on the second process alone."""
    data[2]["targets"]["kind"] = torch.full_like(data[2]["targets"]["kind"], -100)
    data[4]["targets"]["vector"][0::2] = torch.nan
    return data


def compiled(module: Any) -> None:
    """Compile the architecture and the heads in place."""
    torch.compiler.reset()
    module.compile_options = {"backend": "aot_eager"}


def two_loggers(folder: str) -> dict[str, Any]:
    """Two loggers that are to get the same."""
    return {"logger": [CSVLogger(folder, name="a"), CSVLogger(folder, name="b")]}


def scaled(folder: str) -> dict[str, Any]:
    """A real scaler, which a trainer on the CPU does not make by itself."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=5)
    return {"precision": None, "plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}


def injecting(size: Any, outputs: int) -> Injecting:
    """A head whose output's gradient overflows in one update."""
    return Injecting(size[0], outputs, "output")


ELSEWHERE = {  # not a row of the matrix, or tested in processes.py
    *("nothing special", "Adam", "max_steps", "accumulate_grad_batches", "clipping by norm", "no validation"),
    *("accumulation and max_steps", "accumulation and clipping", "accumulation and schedule by step"),
}
APART = Feature(optimizer=SGD_APART)
OVERFLOWING = Feature({"max_epochs": 1}, lambda: [OnTheSecond()], optimizer=SGD_APART)
HEADS: dict[str, Any] = {"heads": {"kind": injecting}}
CASES: dict[str, Case] = {
    **{name: Case(feature) for name, feature in FEATURES.items() if name not in ELSEWHERE},
    "clipping per group": Case(module={"gradient_clip": {"first": 0.05, "kind": 0.2}}),
    "absent": Case(spoil=with_absences),
    "several loggers": Case(trainer=two_loggers),
    "backbone finetuning": Case(FINETUNED),
    "backbone finetuning of a part": Case(
        Feature({}, lambda: [BackboneFinetuning(1, lambda _: 2.0)]), module={"groups": {"all": ["*"]}}
    ),
    "compiled": Case(prepare=compiled),
    **{precision: Case(APART, precision) for precision in ("64-true", "bf16-mixed", "bf16-true", "16-true")},
    "16-mixed": Case(APART, "16-mixed", trainer=scaled),
    "overflow": Case(OVERFLOWING, "16-mixed", HEADS, trainer=scaled),
    "skip": Case(OVERFLOWING, module={**HEADS, "on_nonfinite": "skip"}),
    "raise": Case(OVERFLOWING, module=HEADS),
}
RESUMED = {6: "middle of an epoch", 5: "middle of a window"}
"""Batches after which a checkpoint is written; each process has 4 in an epoch, in windows of 2."""
REGROUPED: dict[str, Any] = {
    **{"groups": {"pair": ["task:number", "task:kind"]}, "schedulers": None},
    "optimizers": {"default": SGD_APART},
}
REGROUPED_ALONE: dict[str, Any] = {"groups": {"pair": ["task:vector", "task:kind"]}, "schedulers": None}
"""With the optimizers as they were: of other classes, PyTorch says that sharded states lack something."""
KINDS = {"ddp-uncertainty": "uncertainty", "ddp-UPGrad": "UPGrad", "fsdp2": "uncertainty"}


# ---------------------------------------------------------------------------------------------------------------- a run
def loaders(case: Case, precision: str, rank: int, world: int) -> tuple[Any, Any]:
    """This process's rows of seven training batches and of the validation batches, with labels missing unevenly."""
    made = case.spoil(with_gaps(make_batches(7), share=0.3)), make_batches(2, seed=4), make_batches(2, seed=5)
    train, val, more = (split(batches, rank, world) for batches in made)
    if precision != "64-true":
        train, val, more = single(train), single(val), single(more)
    return loader_of(train), (loader_of(val), loader_of(more)) if case.feature.several else loader_of(val)


def module_of(case: Case, balancer: str, **options: Any) -> Any:
    """Five groups, and the balancer's."""
    feature = case.feature
    optimizers = {"default": feature.optimizer or SGD_05}
    schedulers = {"default": feature.schedule} if feature.schedule else None
    defaults = {"groups": FIVE, "optimizers": optimizers, "schedulers": schedulers, "balancer": BALANCERS[balancer]}
    module = make_module(WithBackbone, **{**defaults, **case.module, **options})
    case.prepare(module)
    return module


def whole(module: Any) -> dict[str, Any]:
    """Copies of all parameters; sharded ones are gathered."""
    full = ((name, p.full_tensor() if isinstance(p, DTensor) else p) for name, p in module.named_parameters())
    return {name: parameter.detach().clone() for name, parameter in full}


class GroupRates(Notes):
    """Notes the rate of every group: under FSDP2 a module's parameters are not always its optimizers'."""

    def note_rates(self, trainer: Trainer, module: Any) -> None:
        self.rates.append({name: o.param_groups[0]["lr"] for name, o in module.group_optimizers.items()})


def train(case: Case, kind: str, folder: str, rank: int = 0, world: int = 1, **options: Any) -> dict[str, Any]:
    """What a process ends with, as plain data; with one process the measure, with several one of them."""
    precision = case.precision or ("32-true" if kind == "fsdp2" else "64-true")
    apart = {} if case.feature.optimizer or kind != "fsdp2" else {"optimizers": {"default": SGD_APART}}
    module = module_of(case, KINDS[kind], **apart)
    notes = GroupRates()
    chosen: dict[str, Any] = {
        **{"logger": CSVLogger(folder), "default_root_dir": folder, "log_every_n_steps": 2, "max_epochs": 2},
        "enable_checkpointing": not case.feature.options.get("fast_dev_run"),
        "callbacks": [notes, *case.feature.callbacks()],
        **{"precision": precision, **options, **case.feature.options, **case.trainer(folder)},
    }
    trainer = fit(module, *loaders(case, precision, rank, world), **chosen)
    ended = {
        "global_step": trainer.global_step,
        "current_epoch": trainer.current_epoch,
        "skipped": module.updates.skipped,
    }
    ended["scale"] = None if trainer.scaler is None else trainer.scaler.get_scale()
    return {"weights": whole(module), "hooks": notes.hooks, "rates": notes.rates, **ended}


def evaluate(kind: str, rank: int = 0, world: int = 1, **options: Any) -> dict[str, Any]:
    """Losses and predictions of a module that was never trained."""
    precision: Any = "32-true" if kind == "fsdp2" else "64-true"
    found: dict[str, Any] = {}
    for stage in ("validate", "test", "predict"):
        _, data = loaders(Case(), precision, rank, world)
        strategy = {"strategy": strategy_of(kind, world)} if world > 1 else {}
        trainer = make_trainer(precision=precision, **strategy, **options)
        quiet = {} if stage == "predict" else {"verbose": False}
        found[stage] = getattr(trainer, stage)(module_of(Case(), KINDS[kind]), data, **quiet)
    return found


def find_rate(kind: str, rank: int = 0, world: int = 1, **options: Any) -> dict[str, Any]:
    """The rate that a finder suggests, by the callback and by the tuner, and the rates of the groups that follow."""
    strategy = {"strategy": strategy_of(kind, world)} if world > 1 else {}
    precision: Any = "32-true" if kind == "fsdp2" else "64-true"
    options = {"precision": precision, "enable_checkpointing": True, **options}
    batches = split(make_batches(30), rank, world)
    train = loader_of(single(batches) if kind == "fsdp2" else batches)
    finder = LearningRateFinder(min_lr=1e-5, max_lr=1.0, num_training_steps=20)
    module = make_module(balancer=BALANCERS[KINDS[kind]], optimizers=RATES)
    fit(module, train, callbacks=[finder], **strategy, **options)
    tuned = make_module(balancer=BALANCERS[KINDS[kind]], optimizers=RATES)
    again = {"strategy": strategy_of(kind, world)} if world > 1 else {}
    swept = Tuner(make_trainer(**again, **options)).lr_find(tuned, train, min_lr=1e-5, num_training=20)
    assert swept is not None
    return {"found": module.lr, "tuned": swept.suggestion(), "rates": rates(module)}


def resume(kind: str, folder: str, batch: int, world: int = 1, **changes: Any) -> dict[str, Any]:
    """The weights of a run that saved after a batch, and of one that goes on from there; windows of 2 batches."""
    precision = "32-true" if kind == "fsdp2" else "64-true"
    common: dict[str, Any] = {"precision": precision, "max_epochs": 3, "accumulate_grad_batches": 2}
    saver, found = Saver(batch, f"{folder}.ckpt"), {}
    for name in ("whole", "resumed"):
        again = name == "resumed"
        module, data = build(99 if again else 0, balancer=BALANCERS[KINDS[kind]], **(changes if again else {}))
        options: dict[str, Any] = {"ckpt_path": saver.path} if again else {"callbacks": [saver]}
        if world > 1:
            options.update({"strategy": strategy_of(kind, world), "devices": world})
        trainer = fit(module, data, **common, **options)
        found[name] = {"weights": whole(module), "global_step": trainer.global_step}
    return found


def attempt(what: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a run ends with, or its error."""
    try:
        return what()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        torch.use_deterministic_algorithms(False)


def strategy_of(kind: str, world: int) -> Any:
    """A new strategy; a run cannot take that of another."""
    if kind == "fsdp2":
        return ModelParallelStrategy(world, 1, process_group_backend="gloo")
    return DDPStrategy(process_group_backend="gloo")


def main(folder: str, strategy: str) -> None:
    """Train every case on this process's half of the rows, and save what each process ends with."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    os.chdir(folder)
    torch.set_num_threads(1)
    plan = {"devices": world, "use_distributed_sampler": False}
    ended: dict[str, Any] = {}
    for kind in (kind for kind in KINDS if kind.startswith(strategy)):
        for name in CASES:
            options: dict[str, Any] = {"strategy": strategy_of(kind, world), **plan}
            label = f"{kind}-{name}"
            ended[label] = attempt(partial(train, CASES[name], kind, label, rank, world, **options))
        ended[f"{kind}-evaluated"] = attempt(partial(evaluate, kind, rank, world, **plan))
        ended[f"{kind}-rate"] = attempt(partial(find_rate, kind, rank, world, **plan))
        for batch in RESUMED:
            ended[f"{kind}-{batch}"] = attempt(partial(resume, kind, f"{kind}-{batch}", batch, world))
        changes = REGROUPED_ALONE if kind == "fsdp2" else REGROUPED
        ended[f"{kind}-regrouped"] = attempt(partial(resume, kind, f"{kind}-regrouped", 2, world, **changes))
    torch.save(ended, f"rank{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
