"""What an interrupted run goes on with, beyond what Lightning saves: the state of every process, as plain data.

Lightning's checkpoints hold weights, optimizers, schedulers, callbacks, counters and loaders. To end bit for bit as
without the interruption, a run also needs the random state and the started window of *each* process, the metrics that
callbacks look at, and the validation that was due when the checkpoint was written.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.distributed as dist
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from mtl_lightning.core.optimizers import CompositeScheduler
from mtl_lightning.types import ConfigurationError

if TYPE_CHECKING:
    from mtl_lightning.core.module import MultiTaskModule


def states_of_processes(module: MultiTaskModule) -> list[dict[str, Any]]:
    """Return each process's state, by rank, on the process that writes the checkpoint; on the others their own alone.

    To be called on all processes. If one of them is gone, the others' last checkpoint holds the writer's state alone.
    """
    own = state_of_process(module)
    if module.world_size == 1 or not dist.is_initialized():
        return [own]
    states: list[Any] | None = [None] * module.world_size if module.global_rank == 0 else None
    try:
        dist.gather_object(own, states)
    except RuntimeError as error:
        rank_zero_warn(f"The checkpoint lacks the random states of the other processes, which do not answer: {error}")
        return [own]
    return [own] if states is None else states


def state_of_process(module: MultiTaskModule) -> dict[str, Any]:
    """Return what this process goes on with, on the CPU.

    There is no state of a started validation: it is run again from its beginning.
    """
    metrics = module.trainer.callback_metrics
    return {
        "rng": random_state(module.device),
        "window": started_window(module),
        "epoch_losses": module.epoch_losses.state(),
        "labelled": sorted(module.labels.labelled),
        "metrics": {name: torch.as_tensor(value).detach().cpu() for name, value in metrics.items()},
        "earlier_metrics": [name for name, value in metrics.items() if value is module.metrics_before.get(name)],
        "plateau_epochs": {name: scheduler.last_epoch for name, scheduler in _schedulers(module).items()},
        "validated": module.validated,
    }


def restore(module: MultiTaskModule, states: list[Mapping[str, Any]]) -> None:
    """Put back this process's state, once loaders are set up and right before the first batch.

    Raises:
        ConfigurationError: if a window was started by another number of processes.
    """
    state = _own(module, states)
    module.window = [module.trainer.strategy.batch_to_device(batch) for batch in state.get("window", [])]
    module.epoch_losses.restore(state.get("epoch_losses", {}), module.device)
    module.labels.labelled.update(state["labelled"])
    metrics = {name: value.to(module.device) for name, value in state["metrics"].items()}
    module.trainer.callback_metrics.update(metrics)
    module.metrics_before = {name: metrics[name] for name in state["earlier_metrics"]}
    module.validated = state["validated"]
    for name, scheduler in _schedulers(module).items():
        scheduler.last_epoch = state["plateau_epochs"].get(name, scheduler.last_epoch)
    if "rng" in state:
        restore_random_state(state["rng"], module.device)


def _own(module: MultiTaskModule, states: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the state of this process; without what belongs to a process alone if their number has changed."""
    if len(states) == module.world_size:
        return states[module.global_rank]
    if any(state["window"] for state in states):
        raise ConfigurationError(
            f"The checkpoint was written in the middle of a window by {len(states)} processes, each of which holds its "
            f"part: expected as many, found {module.world_size}. Resume with {len(states)}, or from a checkpoint that "
            "was written after an update."
        )
    rank_zero_warn(
        f"The checkpoint holds the random states of {len(states)} processes, found {module.world_size}: each goes on "
        "with the state that it was seeded with, so that random numbers (dropout) differ from the uninterrupted run's."
    )
    return {key: value for key, value in states[0].items() if key not in ("rng", "window", "epoch_losses")}


def _schedulers(module: MultiTaskModule) -> dict[str, Any]:
    """Return the schedulers by group; none without a composite one."""
    for config in module.trainer.lr_scheduler_configs:
        scheduler: Any = config.scheduler
        if isinstance(scheduler, CompositeScheduler):
            return dict(scheduler.schedulers)
    return {}


# -------------------------------------------------------------------------------------------------------------- window
def started_window(module: MultiTaskModule) -> list[Any]:
    """Return the micro-batches that wait for the rest of their window, on the CPU.

    Empty, so that a resumed run goes on without them, if they hold more than tensors and plain data, which would make
    the checkpoint unreadable.
    """
    window = [dict(batch) for batch in module.window]
    if all(map(_is_plain, window)):
        return cast("list[Any]", move_data_to_device(window, torch.device("cpu")))
    rank_zero_warn(
        "The checkpoint is written in the middle of a window whose batches hold more than tensors and plain data: "
        "they are left out, and a resumed run makes that update from the rest of the window."
    )
    return []


def _is_plain(value: Any) -> bool:
    if type(value) in (dict, list, tuple):
        return all(map(_is_plain, value.values() if isinstance(value, dict) else value))
    return type(value) in (torch.Tensor, str, int, float, bool, type(None))


# ---------------------------------------------------------------------------------------------------------- validation
def validation_is_due(module: MultiTaskModule) -> bool:
    """Whether the batch that was last trained on is followed by a validation that is not over.

    Lightning leaves it out when it resumes from such a checkpoint, and so plateau schedulers, early stopping and the
    choice of the best checkpoint miss an epoch. Validations by the clock (``val_check_interval`` as a time) are not
    foreseen.
    """
    trainer = module.trainer
    done: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    if module.validated or trainer.sanity_checking or not done.processed or done.processed != done.ready:
        return False
    return trainer.validating or _validates_after_this_batch(trainer)


def _validates_after_this_batch(trainer: Trainer) -> bool:
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_batch
    this_epoch = every is None or (trainer.current_epoch + 1) % every == 0
    if not trainer.enable_validation or not this_epoch or interval is None:
        return False
    if interval == float("inf"):
        return trainer.is_last_batch
    index = trainer.fit_loop.total_batch_idx if every is None else trainer.fit_loop.batch_idx
    return (index + 1) % interval == 0


def plan_validation(loops: dict[str, Any], due: bool) -> None:
    """Make the saved counters of the loops say that a due validation has begun: Lightning then runs it as a whole.

    Args:
        loops: Lightning's part of a checkpoint, changed in place.
        due: whether a validation is due; if not, the counters are made to say so, too.
    """
    training, validation = (loops["fit_loop"][f"epoch_loop.{name}batch_progress"] for name in ("", "val_loop."))
    total = validation["total"]
    if due:
        for counts in (training["total"], training["current"]):
            counts["completed"] = counts["processed"]
        total.update(ready=1, started=1, processed=0, completed=0)
        validation["current"].update(ready=0, started=0, processed=0, completed=0)
    else:
        total.update(dict.fromkeys(total, total["completed"]))


# ------------------------------------------------------------------------------------------------------ random numbers
def random_state(device: torch.device | None = None) -> dict[str, Any]:
    """Return the state of python's, numpy's and torch's generators, and a GPU's, as plain data and tensors."""
    numpy = np.random.get_state(legacy=False)
    assert isinstance(numpy, dict)  # what `legacy=False` gives, for the type checker
    numpy["state"] = {"key": numpy["state"]["key"].tolist(), "pos": numpy["state"]["pos"]}
    state: dict[str, Any] = {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state()}
    if device is not None and device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Any], device: torch.device | None = None) -> None:
    """Put back what :func:`random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy = state["numpy"]
    key = np.array(numpy["state"]["key"], dtype=np.uint32)
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and device is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
