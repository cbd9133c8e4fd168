"""A run's line in TensorBoard's table of runs, *HParams*: what it was made with, beside the metrics of its best epoch.

The line stands in a folder ``best`` within the run's own, which has nothing else in it: so TensorBoard puts together
what differs between runs by itself, whatever options each of them has, and offers no other scalars as columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from mtl_lightning.architectures.base import PlainNetwork

_FOLDER = "best"
_LONGEST = 200  # characters of a value


def write_line(
    logger: TensorBoardLogger, made_with: Mapping[str, Any], metrics: Mapping[str, float], step: int
) -> None:
    """Write a run's line.

    Args:
        logger: the run's.
        made_with: names and values: text, numbers, bools.
        metrics: of the best epoch.
        step: of the best epoch.
    """
    from torch.utils.tensorboard.summary import hparams

    with type(logger.experiment)(log_dir=os.path.join(logger.log_dir, _FOLDER)) as writer:
        _, *line = hparams({**made_with}, {**metrics})  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for summary in line:
            writer._get_file_writer().add_summary(summary)
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)


def made_with(hyperparameters: Mapping[str, Any], trainer: Trainer) -> dict[str, str | float | bool]:
    """Return nested plain data under short names: ``balancer``, ``balancer/<option>``, ``optimizers/<group>/lr``, ...

    Args:
        hyperparameters: ``{"model": ..., "data": ...}``; parts are ``{"class_path": ..., "init_args": ...}``.
        trainer: some of whose options are added, and the seed.
    """
    parts = {key: value for key, value in hyperparameters.items() if key != "model"}
    found = _kinds(trainer) | dict(_short(hyperparameters.get("model", {}), "")) | dict(_short(parts, ""))
    seed = os.environ.get("PL_GLOBAL_SEED")
    options = {
        "seed": None if seed is None else int(seed),
        "trainer/max_epochs": trainer.max_epochs,
        "trainer/precision": str(trainer.precision),
        "trainer/accumulate_grad_batches": trainer.accumulate_grad_batches,
        "trainer/processes": trainer.world_size,
    }
    return found | dict(_short(options, ""))


def _kinds(trainer: Trainer) -> dict[str, str | float | bool]:
    """Return the classes of the main parts, for those that were made in code and are no plain data."""
    module: Any = trainer.lightning_module
    architecture = module.architecture
    made = {
        "balancer": module.balancer,
        "architecture": architecture.network if isinstance(architecture, PlainNetwork) else architecture,
        "data": getattr(trainer, "datamodule", None),
    }
    return {name: type(part).__name__ for name, part in made.items() if part is not None}


def _short(value: Any, name: str) -> Iterator[tuple[str, str | float | bool]]:
    """Yield values by the names of the keys above them, without those that say nothing."""
    if isinstance(value, Mapping) and "class_path" in value:
        yield name, str(value["class_path"]).rpartition(".")[2]
        yield from _short(value.get("init_args") or {}, name)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _short(entry, f"{name}/{key}" if name else str(key))
    elif value is not None:
        yield name, value if isinstance(value, bool | int | float) else str(value)[:_LONGEST]
