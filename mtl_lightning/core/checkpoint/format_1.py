"""Reads checkpoints of version 0.1.0: one flat dict per process, and the epochs of plateau schedulers among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtl_lightning.checkpoint_file import FORMAT, KEY
from mtl_lightning.errors import CheckpointError


def upgrade(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Bring a checkpoint of format 1 to the present format; any other is returned as it is.

    Raises:
        CheckpointError: for one without a format that is of none.
    """
    saved = checkpoint.get(KEY)
    if saved is None or "format" in saved:
        return checkpoint
    try:
        return _upgraded(checkpoint, saved)
    except (LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"Expected under {KEY!r} the number of a format, or what format 1 has, which had none; found neither: "
            f"{error!r}. Take another copy, or an earlier checkpoint."
        ) from error


def _upgraded(checkpoint: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    skipped = saved.get("skipped", 0)
    processes = [_parts(state, skipped) for state in saved.get("processes", [])]
    epochs = saved["processes"][0]["plateau_epochs"] if processes else {}
    schedulers = [_with_epochs(state, epochs) for state in checkpoint.get("lr_schedulers", [])]
    return {**checkpoint, KEY: {**saved, "format": FORMAT, "processes": processes}, "lr_schedulers": schedulers}


def _parts(state: Mapping[str, Any], skipped: int) -> dict[str, Any]:
    """Give a process's state to its owners."""
    return {
        "accumulation": {"window": state["window"]},
        "updates": {"skipped": skipped, "epoch_losses": state["epoch_losses"]},
        "labels": {"labelled": state["labelled"]},
        "validations": {key: state[key] for key in ("metrics", "earlier_metrics", "validated")},
        "random_state": state["rng"],
    }


def _with_epochs(state: Any, epochs: Mapping[str, int]) -> Any:
    """Put the last epochs of plateau schedulers beside these; a scheduler that is not ours stays as it is."""
    if not isinstance(state, Mapping) or set(state) != set(epochs):
        return state
    return {name: {"scheduler": own, "last_epoch": epochs[name]} for name, own in state.items()}
