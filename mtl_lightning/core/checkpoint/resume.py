"""What an interrupted run goes on with, beyond what Lightning saves: a dict of parts, for each process its own.

Lightning's checkpoints hold weights, optimizers, schedulers, callbacks, counters and loaders. To end bit for bit as
without the interruption, a run also needs the random state and the started window of *each* process, the metrics that
callbacks look at, and the validation that was due when the checkpoint was written. Each of these has one owner, which
gives and takes its state; to find out what went wrong with a resume, compare two such dicts part by part.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from mtl_lightning.checkpoint_file import KEY
from mtl_lightning.core.network.graph import DEFAULT
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.errors import CheckpointError
from mtl_lightning.nested import leaves
from mtl_lightning.plain import other_kind
from mtl_lightning.types import ConfigurationError


class Resumable(Protocol):
    """Owner of a part of the state, as plain data and tensors."""

    @property
    def process_only(self) -> Sequence[str]:
        """The entries of the state that fit this process alone, and nobody else if the number of processes changes."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state, on the CPU."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up, once loaders are set up and right before the first batch; process-only entries may be missing."""


Parts: TypeAlias = Mapping[str, Resumable]

_MOST = 2**63 - 1  # of whole numbers that torch can hold
_STAGES = ("ready", "started", "processed", "completed")
"""Of what a loop of Lightning's does, in the order in which they are counted."""


def states_of_processes(parts: Parts, runtime: Runtime) -> list[dict[str, Any]]:
    """Return each process's state, by rank, on the process that writes the checkpoint; on the others their own alone.

    To be called on all processes. If one of them is gone, the others' last checkpoint holds the writer's state alone.
    """
    own = {name: part.state_dict() for name, part in parts.items()}
    if runtime.world_size == 1 or not dist.is_initialized():
        return [own]
    states: list[Any] | None = [None] * runtime.world_size if runtime.rank == 0 else None
    try:
        dist.gather_object(own, states)
    except RuntimeError as error:
        rank_zero_warn(f"The checkpoint lacks the random states of the other processes, which do not answer: {error}")
        return [own]
    return [own] if states is None else states


def accept_schema(trainer: Trainer, schema: Mapping[str, Any] | None) -> None:
    """Let the datamodule use the schema, of a checkpoint, that a module was trained with; None for no such.

    Raises:
        ConfigurationError: if it uses another one already, because its codes and classes would mean something else.
    """
    accept = getattr(getattr(trainer, "datamodule", None), "accept_schema", None)
    if accept is not None and schema is not None:
        accept(schema)


def check(checkpoint: Mapping[str, Any], trainer: Trainer) -> None:
    """Refuse a checkpoint that no run can go on from, before Lightning takes its states.

    Raises:
        CheckpointError: that says what it lacks, or where something else than a state stands.
    """
    where = trainer.ckpt_path
    sharded = os.path.isdir(str(where))  # a folder, in which optimizer states stand beside the plain data
    needed = ("lr_schedulers", "loops") if sharded else ("optimizer_states", "lr_schedulers", "loops")
    if lacking := [name for name in needed if name not in checkpoint]:
        raise CheckpointError(
            f"{where}: expected a checkpoint to resume a run from, found one that contains only the model, without "
            f"{', '.join(lacking)}. Begin anew from its weights: load_from_checkpoint(path)."
        )
    loop: Any = trainer.fit_loop
    expected = {"loops": {"fit_loop": {**loop.state_dict(), "state_dict": {}}}}  # that one is the loaders' own
    states = [] if sharded else checkpoint["optimizer_states"] or [None]
    wrong = _unlike(checkpoint, expected, "") or next(filter(None, map(_no_state, states)), None)
    wrong = wrong or _miscounted(checkpoint["loops"], "loops") or _no_loaders(checkpoint["loops"]["fit_loop"])
    wrong = wrong or _no_schedules(checkpoint["lr_schedulers"], checkpoint.get(KEY, {}))
    if wrong:
        raise CheckpointError(
            f"{where}: expected what an interrupted run goes on with, found something else: {wrong}. Take another "
            "checkpoint, or begin anew from its weights: load_from_checkpoint(path)."
        )


def _unlike(found: Any, expected: Any, place: str) -> str | None:
    """Say where a nested dict has not the entries and types of another one."""
    if isinstance(expected, dict):
        if not isinstance(found, dict) or (lost := expected.keys() - found.keys()):
            return f"`{place}` is a {type(found).__name__}" + (
                f" without {min(lost)}" if isinstance(found, dict) else ""
            )
        inside = (_unlike(found[key], value, f"{place}.{key}".strip(".")) for key, value in expected.items())
        return next(filter(None, inside), None)
    alike = not isinstance(expected, int) or type(found) is type(expected)
    return None if alike else f"`{place}` is a {type(found).__name__}"


def _miscounted(found: Any, place: str) -> str | None:
    """Say where counters of loops cannot be right: below 0, or of more that ended than began."""
    if not isinstance(found, dict):
        return None
    counts = [found[name] for name in _STAGES if isinstance(found.get(name), int)]
    most = 1 if ".epoch_progress." in place else math.inf  # that are under way
    if counts and (counts != sorted(counts, reverse=True) or counts[-1] < 0 or counts[0] - counts[-1] > most):
        return f"`{place}` counts {found}"
    return next(filter(None, (_miscounted(inside, f"{place}.{name}") for name, inside in found.items())), None)


def _no_loaders(loop: Mapping[str, Any]) -> str | None:
    """Say why the states of the training loaders, where there are some, cannot be."""
    states = loop["state_dict"].get("combined_loader", [])
    fits = isinstance(states, list) and all(isinstance(state, dict) for state in states)
    return None if fits else "`loops.fit_loop.state_dict.combined_loader` is no list of loaders' states"


def _no_schedules(states: Any, saved: Mapping[str, Any]) -> str | None:
    """Say why the states of schedulers cannot be, or that there is none though the module had some."""
    if not isinstance(states, list) or not all(isinstance(state, dict) for state in states):
        return "`lr_schedulers` is no list of schedulers' states"
    found = saved.get("config", {}).get("schedulers")
    schedules = found if isinstance(found, dict) else {}
    groups = [str(group.get("group")) for group in saved.get("optimizers") or () if isinstance(group, dict)]
    missing = not states and any(schedules.get(group, schedules.get(DEFAULT)) for group in groups)
    return "`lr_schedulers` without the states of the groups' schedulers" if missing else None


def _no_state(state: Any) -> str | None:
    """Say why something is no optimizer's state."""
    if _unlike(state, {"state": {}, "param_groups": None}, "") or not isinstance(state["param_groups"], list):
        return "`optimizer_states` without `state` and `param_groups`"
    groups = state["param_groups"]
    if not all(isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups):
        return "`optimizer_states` with groups without parameters"
    if any(isinstance(number, int) and abs(number) > _MOST for group in groups for _, number in leaves(group)):
        return "`optimizer_states` with a number that no option is"
    lists = [group["params"] for group in groups]  # of numbers, or of names where parameters are sharded
    numbers = [one for params in lists for one in params]
    if not all(isinstance(one, str) for one in numbers):
        whole = all(type(one) is int for one in numbers) and sorted(numbers) == [*range(len(numbers))]
        if not whole or any(params != sorted(params) for params in lists):  # FSDP counts through the whole network
            return "`optimizer_states` with parameters that are not counted up"
    return None if all(isinstance(one, dict) for one in state["state"].values()) else "a parameter's state that is none"


def restore(parts: Parts, states: Sequence[Mapping[str, Any]], runtime: Runtime) -> None:
    """Give every part its state of an interrupted run.

    Raises:
        ConfigurationError: if a window was started by another number of processes, or a state is not the part's.
    """
    try:
        _restore(parts, states, runtime)
    except ConfigurationError:
        raise
    except (LookupError, TypeError, AttributeError, RuntimeError, ValueError, OverflowError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"{runtime.trainer.ckpt_path}: expected what an interrupted run goes on with, found something else: "
            f"{type(error).__name__}: {reason:.200}. Take another checkpoint, or begin anew from its weights: "
            "load_from_checkpoint(path)."
        ) from error


def _restore(parts: Parts, states: Sequence[Mapping[str, Any]], runtime: Runtime) -> None:
    if len(states) == runtime.world_size:
        own = states[runtime.rank]
    else:
        _check_other_number(states, runtime.world_size)
        own = {name: _of_anyone(part, states[0][name]) for name, part in parts.items()}
    for name, part in parts.items():
        if wrong := other_kind(own[name], part.state_dict(), name):
            raise TypeError(wrong)
        part.load_state_dict(own[name])


def _check_other_number(states: Sequence[Mapping[str, Any]], found: int) -> None:
    if any(state["accumulation"]["window"] for state in states):
        raise ConfigurationError(
            f"The checkpoint was written in the middle of a window by {len(states)} processes, each of which holds its "
            f"part: expected as many, found {found}. Resume with {len(states)}, or from a checkpoint that was written "
            "after an update."
        )
    rank_zero_warn(
        f"The checkpoint holds the random states of {len(states)} processes, found {found}: each goes on with the "
        "state that it was seeded with, so that random numbers (dropout) differ from the uninterrupted run's."
    )


def _of_anyone(part: Resumable, state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key not in part.process_only}
