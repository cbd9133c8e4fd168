"""The program of one trial: `fit` that raises in place of ending, is quiet, and keeps the best epoch."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from mtl_lightning.callbacks.best_epoch import BestModelCheckpoint
from mtl_lightning.cli import config_files
from mtl_lightning.cli.command_line import MultiTaskCLI
from mtl_lightning.cli.messages import sentence
from mtl_lightning.cli.parser import Parser
from mtl_lightning.types import ConfigurationError

__all__ = ["Check", "Pruning", "Trial"]

WARM_UP = 3  # updates whose time does not count, where there are more than twice as many
_QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "devices": 1}


class StepClock(Callback):
    """Measures the seconds of each update, its batches' transfer included, and the memory that the run takes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun, self._made = 0.0, 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start to count, unless batches of the same update came before."""
        if trainer.global_step != self._made or not self._begun:
            self._begun, self._made = time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the update, if there was one."""
        if trainer.global_step != self._made:
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize(pl_module.device)
            self.seconds.append(time.perf_counter() - self._begun)

    def median(self) -> float:
        """Return the median seconds of an update; nan if there was none."""
        kept = self.seconds[WARM_UP:] if len(self.seconds) > 2 * WARM_UP else self.seconds
        return statistics.median(kept) if kept else math.nan


class Pruning(Callback):
    """Tells how a trial does after each validation, and ends it if it is not worth going on."""

    def __init__(self, objective: str, ask: Callable[[Any], Any] | None) -> None:
        self.objective, self.ask = objective, ask
        self.given_up = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask whether to go on."""
        value = trainer.callback_metrics.get(self.objective)
        if trainer.sanity_checking or trainer.state.fn != "fit" or value is None or self.ask is None:
            return
        if self.ask((trainer.current_epoch, float(value))):
            self.given_up = trainer.should_stop = True


class TrialParser(Parser):
    """Raises what another one ends the program with."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise it."""
        if self.exit_on_error:
            raise ConfigurationError(sentence(message, self._all_keys()))
        super().error(message, ex)


class Trial(MultiTaskCLI):
    """Trains as ``fit`` does, then validates and tests the epoch that was the best in validation."""

    folder: Path
    files: tuple[str, ...] = ()
    added: tuple[Callback, ...] = ()

    def init_parser(self, **kwargs: Any) -> Any:
        """Make a parser that raises."""
        self.parser_class = TrialParser
        return super().init_parser(**kwargs)

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Look at the files that the configuration was made of first, since messages give their lines."""
        sections = [*self._parsers[-1].classes]
        for file in self.files:
            config_files.check(file, sections, [*sections, *self._options()])
        super().parse_arguments(parser, args)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Make a quiet trainer of one process, which keeps the best epoch, in the trial's folder."""
        given = config.get("devices", "auto")
        if given not in ("auto", 1, "1") or config.get("num_nodes", 1) != 1:
            raise ConfigurationError(
                f"A comparison trains each trial in one process: expected `trainer.devices: 1`, found {given!r}. Start "
                "the command once per device instead: all take trials of the same grid."
            )
        given_callbacks = config.get("callbacks") or []
        own = given_callbacks if isinstance(given_callbacks, list) else [given_callbacks]
        self.clock = StepClock()
        added: list[Callback] = [self.clock, *self.added]
        if not any(isinstance(one, ModelCheckpoint) and one.monitor for one in [*own, *callbacks]):
            added.append(BestModelCheckpoint())
        forced = {**_QUIET, "enable_checkpointing": True, "default_root_dir": str(self.folder)}
        return super()._instantiate_trainer({**config, **forced}, [*callbacks, *added])

    def after_fit(self) -> None:
        """Leave it: what follows is the trial's."""


class Check(Trial):
    """Makes all that a trial is made of, and trains nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass
