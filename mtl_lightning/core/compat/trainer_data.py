"""The data that a trainer is about to run on: its first batch, its length, and the tasks that it declares.

Relies on ``Trainer.datamodule`` and, for a loader that was passed to ``fit``, on ``Trainer.fit_loop._data_source``,
which have the data before any loader is set up; and on ``fit_loop._combined_loader``, ``None`` until it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader

from mtl_lightning.core.network.network import Network, inputs_of
from mtl_lightning.core.update.batches import is_per_dataset, micro_batches
from mtl_lightning.core.update.intake import Intake, by_dataset
from mtl_lightning.names import known_name
from mtl_lightning.types import Batch, ConfigurationError, spec_of


def build_for_data(network: Network, trainer: Trainer, intake: Intake) -> None:
    """Build a network for the inputs that the trainer is about to run on.

    Raises:
        BatchError: for a batch that is none.
        ConfigurationError: for inputs without sizes, such as graphs and text, if the network needs to know them.
    """
    batch = first_batch(trainer, intake, network.tasks)
    try:
        spec = spec_of(batch["inputs"])
    except ConfigurationError as error:
        try:
            network.build(None)
        except ConfigurationError:
            raise error from None
    else:
        network.build(spec)


def first_batch(trainer: Trainer, intake: Intake, tasks: Collection[str]) -> Batch:
    """Return the first batch of the data that the trainer is about to run on; the random state stays as it was."""
    data = getattr(trainer, "datamodule", None)
    running = trainer.state.fn.value if trainer.state.fn is not None else "fit"
    stage = {"fit": "train", "validate": "val"}.get(running, running)
    loader = None
    if data is not None:
        loader = getattr(data, f"{stage}_dataloader")()
    elif running == "fit":
        loader = trainer.fit_loop._data_source.instance
    if loader is None or callable(getattr(loader, "training_step", None)):
        raise ConfigurationError(
            "The network's sizes are read off the data, which cannot be reached from here: expected an `input_spec`, "
            "a datamodule, or a loader passed to `fit`."
        )
    while isinstance(loader, Mapping | list | tuple | CombinedLoader):
        loader = loader.iterables if isinstance(loader, CombinedLoader) else loader
        if not isinstance(loader, Mapping | list | tuple):
            break
        loader = next(iter(loader.values() if isinstance(loader, Mapping) else loader))
    with torch.random.fork_rng(devices=[]):
        batch = next(iter(loader))
    if running == "predict":
        return {"inputs": intake.inputs(inputs_of(batch))}
    batch = by_dataset(batch)
    if is_per_dataset(batch):
        batch = next((part for part in batch.values() if part is not None), {})
    return micro_batches(intake.batch(batch), tasks)[0]


def updates_of_run(trainer: Trainer) -> float:
    """Return the number of updates of the run that is about to start; inf for one without an end.

    Lightning sets up the training loader to count them, and would then keep it: a resumed run could no longer tell it
    where it was left. So it is let go of, to be set up again, and the random state stays as it was.
    """
    loop: Any = trainer.fit_loop
    was_set_up = loop._combined_loader is not None
    with torch.random.fork_rng(devices=[]):
        found = float(trainer.estimated_stepping_batches)
    if not was_set_up and loop._data_fetcher is not None:
        loop._data_fetcher.teardown()
        loop._combined_loader = loop._data_fetcher = None
    return found


def length_of(trainer: Trainer | None) -> Callable[[str], int | None]:
    """Return what tells how many updates (``"step"``) or epochs (``"epoch"``) a run has; None without an end."""

    def length(interval: str) -> int | None:
        if trainer is None:
            return None
        found = trainer.max_epochs if interval == "epoch" else updates_of_run(trainer)
        return None if found is None or not 0 < found < math.inf else int(found)

    return length


def check_declared(tasks: Collection[str], trainer: Trainer) -> None:
    """Refuse tasks that the trainer's datamodule, if it declares any, does not."""
    declared: Mapping[str, Any] | None = getattr(getattr(trainer, "datamodule", None), "tasks", None)
    for name in tasks if declared is not None else ():
        known_name(name, declared or (), "tasks, which the datamodule declares")
