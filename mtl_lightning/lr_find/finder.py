"""``RateFinder``: the sweeps of a module's groups on its data, with nothing of either changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from mtl_lightning.core import MultiTaskModule
from mtl_lightning.core.compat import without_advice
from mtl_lightning.lr_find.result import FoundRates
from mtl_lightning.lr_find.sweep import RateSweeps
from mtl_lightning.nested import leaves
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import ConfigurationError

_KEPT = (
    *("accelerator", "precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
    *("deterministic", "benchmark", "use_distributed_sampler", "limit_train_batches", "overfit_batches", "plugins"),
    *("reload_dataloaders_every_n_epochs", "default_root_dir"),
)
"""The trainer's arguments that make a sweep's updates what the fit's would be."""


class RateFinder(Ranged):
    """Sweeps the learning rate of one group of parameters after the other, and suggests one for each.

    A learning-rate range test (`Cyclical Learning Rates for Training Neural Networks
    <https://arxiv.org/abs/1506.01186>`_, Smith 2017), made for groups. At each of the rates, ``per_decade`` in a decade
    from ``lowest`` to ``highest``, the group makes ``updates`` updates, while all other groups, the balancer's too, are
    held. All start from the same weights, optimizer state and random state, and go through the same batches;
    schedulers rest.

    The others are held at the rates that they are configured with. With ``hold: found`` groups of single tasks come
    first, then those with shared parameters, the balancer last, and earlier groups are held at the rates that were
    suggested for them: for a trunk below heads that hardly move, of which there is no suggestion otherwise.

    Departures: the paper raises the rate from update to update, so that what a high one does is laid to the lower ones
    before it, or the other way round; here each rate has updates of its own. And the loss is compared with that of the
    same updates with the group at rest (rate 0), since the other groups learn meanwhile, and neither their descent nor
    an easy batch is to count for this group. With l the judged loss, and r that of the reference, both the mean over
    the last third of the updates, each on a batch before its own update, the curve is log(l / r).
    :func:`~mtl_lightning.lr_find.suggest` reads the rate off it.

    What judges a group: the tasks that own its parameters, by their losses, each divided by that of the best constant
    prediction, as for ``val/loss_normalised``; all tasks if it holds shared parameters. Learned weights of losses
    (the group ``balancer``) are judged by the balancer's objective, as a difference l - r: their gradient lowers
    nothing else, and a factor on a task's target only shifts a likelihood. No task's loss would do, since a weight that
    rises helps its task and hurts the others.

    There is no suggestion, but a sentence that says why, where the loss does not fall, has fallen at the lowest rate
    already, or still falls at the highest; a sweep that diverges ends there.

    Args:
        groups: whose rates to sweep; of all groups with trained parameters by default.
        lowest: rate.
        highest: rate.
        updates: at each rate; more of them give smaller and surer rates.
        per_decade: rates in a factor of 10.
        hold: the other groups at the rates that are ``configured``, or at those ``found`` before.
        folder: what :meth:`FoundRates.write` is given by the command line.

    Raises:
        ConfigurationError: if ``lowest`` is not below ``highest``, and for numbers out of range.
    """

    def __init__(
        self,
        groups: list[str] | None = None,
        lowest: float = 1e-6,
        highest: float = 1e3,
        updates: int = 30,
        per_decade: int = 2,
        hold: Literal["configured", "found"] = "configured",
        folder: str = "lr_find",
    ) -> None:
        if not lowest < highest:
            raise ConfigurationError(f"lr-find: expected `lowest` below `highest`, found {lowest:g} and {highest:g}.")
        self.groups, self.hold, self.folder = groups, hold, Path(folder)
        self.updates = updates
        number = max(5, round(math.log10(highest / lowest) * per_decade) + 1)
        self.rates = [float(rate) for rate in np.geomspace(lowest, highest, number)]

    def find(
        self,
        module: MultiTaskModule,
        data: Any,
        trainer: Mapping[str, Any] | None = None,
        ckpt_path: str | Path | None = None,
    ) -> FoundRates:
        """Sweep on copies; the module, the data and the random state are as before.

        With several processes configured, one makes the same updates, each of as many more accumulated batches.

        Args:
            module: whose groups to sweep, as it is at the start of a fit.
            data: a datamodule, or training dataloaders in any form that a trainer takes.
            trainer: arguments of the ``Trainer`` that is to train later: those that have to do with updates are kept
                (precision, accumulation, clipping and others), callbacks and loggers are not.
            ckpt_path: a checkpoint to start from, as in ``Trainer.fit``.

        Raises:
            ConfigurationError: for a group that there is not, and data without labels.
        """
        swept = copy.deepcopy(module)
        swept.plan.drop_schedulers()
        sweeps = RateSweeps(self.rates, self.updates, self.groups, self.hold, _say)
        with _as_before(data):
            made = _trainer({**(trainer or {})}, sweeps)
            if isinstance(data, LightningDataModule):
                made.fit(swept, datamodule=data, ckpt_path=ckpt_path)
            else:
                made.fit(swept, train_dataloaders=data, ckpt_path=ckpt_path)
        optimizers = {} if "optimizers" in module.by_code else module.config.get("optimizers")
        return FoundRates(sweeps.sweeps, optimizers)


def _say(text: str) -> None:
    rank_zero_info(f"lr-find: {text}")


def _trainer(arguments: Mapping[str, Any], sweeps: RateSweeps) -> Trainer:
    """Make a trainer whose updates are those of another one, but on one device."""
    kept = {name: arguments[name] for name in _KEPT if arguments.get(name) is not None}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options: dict[str, Any] = {**quiet, "enable_model_summary": False, "num_sanity_val_steps": 0, "max_epochs": -1}
    described = {name: arguments[name] for name in ("devices", "num_nodes", "strategy") if name in arguments}
    devices: Any = 1
    if described:
        with without_advice():
            meant = Trainer(**{**kept, **options, **described})
        if meant.strategy.root_device.type != "cpu":
            devices = meant.device_ids[:1]
        kept["accumulate_grad_batches"] = int(kept.get("accumulate_grad_batches", 1)) * meant.world_size
    with without_advice():
        return Trainer(**kept, **options, devices=devices, limit_val_batches=0, callbacks=[sweeps])


@contextmanager
def _as_before(data: Any) -> Iterator[None]:
    """Put back the random state, the generators of dataloaders, and a datamodule's trainer."""
    with ExitStack() as stack:
        guard = isolate_rng()
        guard.__enter__()
        stack.callback(guard.__exit__, None, None, None)
        for generator in _generators(data):
            stack.callback(generator.set_state, generator.get_state())
        if isinstance(data, LightningDataModule):
            stack.callback(setattr, data, "trainer", data.trainer)
        yield


def _generators(data: Any) -> Iterator[torch.Generator]:
    """Yield the generators that data draws from: a datamodule's own, those of dataloaders and of their samplers."""
    for _, leaf in leaves(dict(vars(data)) if isinstance(data, LightningDataModule) else data):
        parts = [leaf]
        if isinstance(leaf, DataLoader):
            parts = [getattr(part, "generator", None) for part in (leaf, leaf.sampler, leaf.batch_sampler)]
        yield from {id(part): part for part in parts if isinstance(part, torch.Generator)}.values()
