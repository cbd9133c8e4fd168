"""``mtl-lightning calibrate``: calibrates a checkpoint on the validation rows of any data, and stores it there."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only

from mtl_lightning import checkpoint_file
from mtl_lightning.callbacks import Calibration
from mtl_lightning.checkpoint_file import KEY
from mtl_lightning.cli.command_line import MultiTaskCLI
from mtl_lightning.cli.parser import Parser
from mtl_lightning.core.compat.atomic import AtomicCheckpointIO
from mtl_lightning.types import ConfigurationError

__all__ = ["CalibrateCLI", "main", "store"]


class CalibrateCLI(MultiTaskCLI):
    """All options of ``validate``, and a file to write to; calibrates instead of printing metrics, and logs nothing."""

    def init_parser(self, **options: Any) -> LightningArgumentParser:
        """Make a parser that goes by the command's name."""
        parser = super().init_parser(**options)
        if isinstance(parser, Parser):
            parser.command = "calibrate"
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add where to write."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--output",
            type=str | None,
            default=None,
            help="Write the calibrated checkpoint to this file; by default the checkpoint itself is replaced.",
        )

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint, which has to be a file."""
        super().before_instantiate_classes()
        path, output = self._get(self.config, "ckpt_path"), self._get(self.config, "output")
        if path is None:
            raise ConfigurationError(
                "`calibrate`: expected trained weights, found no `--ckpt_path`. Give the file of a checkpoint: "
                "`--ckpt_path=FILE`."
            )
        if "://" in str(output or path):
            raise ConfigurationError(
                f"`calibrate`: expected a file to write to, found the address {output or path}. Give one of this "
                "machine: `--output=FILE`."
            )
        checkpoint_file.read_part(str(path))  # a folder of shards is refused here, before the data is read

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Make a trainer that logs and keeps nothing, and whose validations are calibrated on."""
        kept = {**config, "logger": False, "enable_checkpointing": False}
        trainer = super()._instantiate_trainer(kept, callbacks)
        for callback in _callbacks(trainer):
            callback.enabled = callback.of_any_validation = True
        return trainer

    def validate(self, **options: Any) -> None:
        """Calibrate, store, and say what was found."""
        self.trainer.validate(**{**options, "verbose": False})
        if not sum(self.trainer.num_val_batches):
            raise ConfigurationError(
                "`calibrate`: expected labelled rows in the validation split, found none. Give the data a file of "
                "them, such as `--data.init_args.val=FILE`."
            )
        (callback, *_) = _callbacks(self.trainer)
        said = callback.summary(self.model)
        if self.model.calibration is None:
            raise ConfigurationError(f"`calibrate`: the checkpoint stays as it is. {said}")
        source, target = str(options["ckpt_path"]), str(self._get(self.config, "output") or options["ckpt_path"])
        if self.trainer.is_global_zero:
            store(source, self.model.calibration, target)
        _say(f"{said}\nIt is in {target}.")


def store(source: str, calibration: Any, target: str) -> None:
    """Write a checkpoint with a calibration; all else in it stays as it is, bit for bit.

    Args:
        source: the checkpoint's file.
        calibration: as of ``Network.calibration``; None for none.
        target: the file to write, which may be the source: it is whole at any time.

    Raises:
        CheckpointError: if the source is no checkpoint of ours, or damaged.
    """
    checkpoint = checkpoint_file.read(source, "cpu")
    checkpoint[KEY] = {**checkpoint[KEY], "calibration": calibration}
    AtomicCheckpointIO().save_checkpoint(checkpoint, target)


def _callbacks(trainer: Trainer) -> list[Calibration]:
    found: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set outside its __init__
    return [callback for callback in found if isinstance(callback, Calibration)]


@rank_zero_only
def _say(text: str) -> None:
    sys.stdout.write(f"\n{text}\n")


def main(arguments: list[str], cli: type[MultiTaskCLI] = MultiTaskCLI) -> None:
    """Run the command with the arguments that follow its name, for the modules of a command line of the user's own."""
    chosen = type("Calibrate", (CalibrateCLI, cli), {})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # the command's name is no subcommand
        chosen(args=["validate", *arguments], save_config_callback=None)
