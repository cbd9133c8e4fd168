"""What the command line adds to every fit: the best epoch and the last are kept, and training stops early if asked to.

Relies on ``ModelCheckpoint._save_topk_checkpoint``, ``_save_none_monitor_checkpoint`` and ``_last_global_step_saved``,
and on ``EarlyStopping._validate_condition_metric``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint, OnExceptionCheckpoint
from torch import Tensor

from mtl_lightning.checkpoint_file import read_plain
from mtl_lightning.core import compat
from mtl_lightning.core.update.best_validation import MONITOR
from mtl_lightning.types import ConfigurationError


class BestModelCheckpoint(ModelCheckpoint):
    """Keeps the best epoch by ``val/loss_normalised``, and the last as ``last.ckpt``.

    Lightning's own class writes ``last.ckpt`` only when there is a new best, forgets the best one's score in a run that
    is resumed into another folder, and ends a run whose validation does not have the metric. Here an epoch without it
    is kept as the last one, as without a ``monitor``.
    """

    def __init__(self) -> None:
        super().__init__(monitor=MONITOR, mode="min", save_last=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up which epoch was the best, as long as its file is there, wherever this run keeps its own."""
        moved, best = state_dict["dirpath"] != self.dirpath, str(state_dict["best_model_path"])
        last = "" if moved else state_dict["last_model_path"]
        if "://" in best:
            super().load_state_dict(state_dict)
        elif Path(best).exists():
            super().load_state_dict({**state_dict, "dirpath": self.dirpath, "last_model_path": last})
        else:
            self.last_model_path = last

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        if self.monitor in monitor_candidates:
            super()._save_topk_checkpoint(trainer, monitor_candidates)
        else:
            self._save_none_monitor_checkpoint(trainer, monitor_candidates)
        self._last_global_step_saved = trainer.global_step  # so that the last one is written in any case


class StopEarly(EarlyStopping):
    """Stops after ``patience`` validations without a lower ``val/loss_normalised``.

    Args:
        patience: the number of validations.

    Raises:
        ConfigurationError: before the first batch if there is no validation, else after the first one without labels.
    """

    def __init__(self, patience: int) -> None:
        super().__init__(
            MONITOR, mode="min", patience=int(patience)
        )  # not the parser's own kind: it gets into checkpoints

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a run without a validation."""
        batches = trainer.num_val_batches  # empty before the first validation is set up
        if not trainer.enable_validation or (batches and not sum(batches)):
            raise _nothing_to_watch("no validation rows")

    def _validate_condition_metric(self, logs: dict[str, Tensor]) -> bool:
        if self.monitor not in logs:
            raise _nothing_to_watch("a validation without labels, or none at all")
        return super()._validate_condition_metric(logs)


def _nothing_to_watch(found: str) -> ConfigurationError:
    return ConfigurationError(
        f"`early_stopping` watches `{MONITOR}`: expected validations with labels, found {found}. Give the data a "
        "validation split, or leave `early_stopping` out."
    )


def added_callbacks(options: Mapping[str, Any], others: Sequence[Callback], patience: int | None) -> list[Callback]:
    """Return what is added to a trainer's callbacks.

    Args:
        options: the trainer's: no checkpoints if it is told to write none, or has the user's own callback for them.
        others: callbacks that the trainer gets beside those in its options.
        patience: of early stopping; None for none.
    """
    own = options.get("callbacks") or []
    given = [*(own if isinstance(own, Sequence) else [own]), *others]
    kept = any(isinstance(one, Checkpoint) and not isinstance(one, OnExceptionCheckpoint) for one in given)
    writes = options.get("enable_checkpointing") is not False and not options.get("barebones")
    stopping = [] if patience is None else [StopEarly(patience)]
    return [*stopping, *([BestModelCheckpoint()] if writes and not kept else [])]


def what_was_tested(trainer: Trainer, *, fitted: bool) -> str:
    """Say which epoch's weights the trainer has last tested, and why these.

    Epochs are counted from 0, as in files' names. To be called where the checkpoint's file is.

    Args:
        trainer: a trainer after a test.
        fitted: whether it has fitted before, so that it knows which was the best of all.
    """
    path = trainer.ckpt_path
    if path is None:
        return "Test of the weights at the end of training:"
    saved = read_plain(compat.part_file(str(path)))
    states = [state for name, state in (saved.get("callbacks") or {}).items() if "ModelCheckpoint" in name]
    if fitted:
        states = [one.state_dict() for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
    which = next((which for state in states if (which := _which(state, str(path)))), "")
    when = " when it was saved" if which and not fitted else ""
    return f"Test of epoch {saved.get('epoch', '?')} (update {saved.get('global_step', '?')}){which}{when}: {path}"


def _which(state: Mapping[str, Any], path: str) -> str:
    """Say what a ``ModelCheckpoint`` knows of a file; nothing if it is another one's."""
    name, score = Path(path).name, state.get("best_model_score")
    is_best, is_last = (Path(str(state.get(f"{kind}_model_path"))).name == name for kind in ("best", "last"))
    if is_best and score is not None:
        return f", the best by `{state.get('monitor')}` ({float(score):.4g})"
    return ", the last" if is_best or is_last else ""
