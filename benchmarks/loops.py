"""The training loops that are compared. Each one trains the same network from the same weights on given batches.

The floor minimises the plain sum of the losses. Everything else learns Kendall's weights, the plain ones by hand.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from benchmarks.timing import TimedBatches, Variant
from benchmarks.workloads import Workload
from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import SharedBottom
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.balancing.build import BalancerArgument
from mtl_lightning.types import Batch

LoggerFactory: TypeAlias = Callable[[str], Logger]
FLOOR = "raw loop, one Adam"
FUSED = "raw loop, one fused Adam"
OURS = "MultiTaskModule"
RECORDING = "MultiTaskModule, recording every step"
TENSORBOARD = "MultiTaskModule, recording every step to TensorBoard"


class Kept(DummyLogger):
    """Keeps the last row in memory: what writing costs is the logger's business."""

    row: dict[str, float]

    def log_metrics(self, metrics: Any, step: Any = None) -> None:  # the logger's signature
        """Keep a row."""
        self.row = dict(metrics)


def variants(workload: Workload) -> dict[str, Variant]:
    """Return every loop on a workload by name, the floor first."""
    automatic, manual = partial(_train, partial(Automatic, workload)), partial(_train, partial(Manual, workload))
    return {
        FLOOR: partial(raw, workload, fused=False),
        FUSED: partial(raw, workload, fused=True),
        "Lightning automatic, one Adam": partial(automatic, fused=False),
        "Lightning automatic, one fused Adam": partial(automatic, fused=True),
        "the same with log_dict every step": partial(automatic, fused=True, log=True),
        "Lightning manual, T + 2 Adams": partial(manual, fused=False),
        "Lightning manual, T + 2 fused Adams": partial(manual, fused=True),
        OURS: partial(ours, workload),
        RECORDING: partial(ours, workload, logger=lambda _: Kept()),
        TENSORBOARD: partial(ours, workload, logger=TensorBoardLogger),
    }


def raw(workload: Workload, batches: Iterable[Batch], *, fused: bool, device: str = "cpu", compile: Any = None) -> None:
    """Train on the sum of the losses with one Adam, without Lightning; compiled with the options that are given."""
    torch.manual_seed(0)
    network = workload.network().to(device)
    if compile is not None:
        network.compile(**compile)
    optimizer = Adam(network.parameters(), lr=1e-3, fused=fused or None)
    for batch in on(device, batches):
        raw_step(workload, network, optimizer, batch)


def raw_step(workload: Workload, network: nn.Module, optimizer: Adam, batch: Batch) -> None:
    """Take a step of :func:`raw`."""
    optimizer.zero_grad()
    losses = workload.losses(network(batch["inputs"]), batch["targets"])
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimizer.step()


def on(device: str, batches: Iterable[Batch]) -> Iterable[Batch]:
    """Yield batches on a device; on the CPU as they are."""
    return batches if device == "cpu" else (move_data_to_device(batch, torch.device(device)) for batch in batches)


def ours(
    workload: Workload,
    batches: TimedBatches,
    *,
    logger: LoggerFactory | None = None,
    balancer: BalancerArgument = UncertaintyWeighting,
    callbacks: Sequence[Callback] = (),
    device: str = "cpu",
    **options: Any,
) -> None:
    """Train a ``MultiTaskModule``, as its users do; further options are the module's."""
    _fit(make_module(workload, balancer, **options), batches, logger, callbacks, device)


def make_module(
    workload: Workload, balancer: BalancerArgument = UncertaintyWeighting, **options: Any
) -> MultiTaskModule:
    """Make a module with its defaults: one optimizer per group, label masks, global counts, the finite check."""
    torch.manual_seed(0)
    made: dict[str, Any] = {
        "tasks": workload.tasks(),
        "architecture": partial(SharedBottom, encoder=workload.encoder),
        "input_spec": workload.spec,
        "balancer": balancer,
        "heads": {"default": workload.head},
    }
    return MultiTaskModule(**{**made, **options})


class Automatic(LightningModule):
    """Automatic optimization by one Adam with a group for the log-variances, as a user of plain Lightning writes it.

    Args:
        workload: what to train on.
        fused: whether to use the fused Adam.
        log: whether to log each task's loss, weight and sigma at every step, 3T scalars.
    """

    def __init__(self, workload: Workload, *, fused: bool, log: bool = False) -> None:
        super().__init__()
        self.workload, self.adam, self.log_all = workload, partial(Adam, fused=fused or None), log
        self.network = workload.network()
        self.log_vars = nn.Parameter(torch.zeros(workload.num_tasks))

    def objective(self, batch: Batch) -> Tensor:
        """Return the weighted sum () of the losses."""
        losses = torch.stack(self.workload.losses(self.network(batch["inputs"]), batch["targets"]))
        weights = 0.5 * torch.exp(-self.log_vars)
        if self.log_all:
            named = {"loss": losses.detach(), "weight": weights.detach(), "sigma": (0.5 * self.log_vars.detach()).exp()}
            for kind, values in named.items():
                self.log_dict({f"train/{kind}/{task}": v for task, v in zip(batch["targets"], values, strict=True)})
        return (weights * losses + 0.5 * self.log_vars).sum()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return what Lightning minimises."""
        return self.objective(batch)

    def configure_optimizers(self) -> Any:
        """One Adam, two groups."""
        return self.adam(
            [{"params": self.network.parameters(), "lr": 1e-3}, {"params": [self.log_vars], "lr": 1e-2}],
        )


class Manual(Automatic):
    """Manual optimization by one Adam per part, T + 2 of them, as Lightning's documentation shows it."""

    def __init__(self, workload: Workload, *, fused: bool) -> None:
        super().__init__(workload, fused=fused)
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]  # manual: returns nothing
        """Step every optimizer."""
        optimizers: list[Any] = self.optimizers()  # type: ignore[assignment]  # a list, because there are several
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(self.objective(batch))
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self) -> list[Optimizer]:
        """One Adam for the trunk, one per head, one for the log-variances."""
        parts = [self.network.trunk, *self.network.heads.values()]
        return [*(self.adam(part.parameters(), lr=1e-3) for part in parts), self.adam([self.log_vars], lr=1e-2)]


def _train(make: Any, batches: TimedBatches, **options: bool) -> None:
    torch.manual_seed(0)
    _fit(make(**options), batches, (lambda _: Kept()) if options.get("log") else None)


def _fit(
    module: LightningModule,
    batches: TimedBatches,
    logger: LoggerFactory | None,
    callbacks: Sequence[Callback] = (),
    device: str = "cpu",
) -> None:
    """Fit one epoch with everything off that is not the step; a logger, made in a folder, asks for every step."""
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            accelerator=device,
            devices=1,
            max_epochs=1,
            logger=False if logger is None else logger(folder),
            log_every_n_steps=0 if logger is None else 1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*callbacks],
        ).fit(module, batches)
