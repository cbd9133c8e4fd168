"""``mtl-lightning lr-find``: a learning rate for each group, for any config that ``fit`` takes."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser

from mtl_lightning.cli.command_line import MultiTaskCLI
from mtl_lightning.cli.parser import Parser
from mtl_lightning.lr_find import RateFinder
from mtl_lightning.lr_find.result import check_plots

__all__ = ["LrFindCLI", "main"]


class LrFindCLI(MultiTaskCLI):
    """All options of ``fit``, and those of :class:`RateFinder` under ``lr_find``; sweeps instead of training."""

    def init_parser(self, **options: Any) -> LightningArgumentParser:
        """Make a parser that goes by the command's name."""
        parser = super().init_parser(**options)
        if isinstance(parser, Parser):
            parser.command = "lr-find"
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sweeps' options."""
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(RateFinder, "lr_find")
        if isinstance(parser, Parser):
            parser.classes = {**parser.classes, "lr_find": RateFinder}

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Make the trainer of the fit, which says what is wrong with its options, and keep these."""
        self._trainer_options = {**config}
        return super()._instantiate_trainer(config, callbacks)

    def fit(self, **options: Any) -> None:
        """Sweep, print the table, and write the files."""
        check_plots()
        finder: RateFinder = self._get(self.config_init, "lr_find")
        found = finder.find(self.model, self.datamodule, self._trainer_options, options.get("ckpt_path"))
        sys.stdout.write(f"\n{found.table()}\n")
        folder = found.write(finder.folder)
        sys.stdout.write(
            f"\nPaste {folder / 'rates.yaml'} under `model:`. The curves are in {folder / 'rates.png'} and "
            f"{folder / 'curves.csv'}.\n"
        )

    def after_fit(self) -> None:
        """Test nothing."""


def main(arguments: list[str], cli: type[MultiTaskCLI] = MultiTaskCLI) -> None:
    """Run the command with the arguments that follow its name, for the modules of a command line of the user's own."""
    chosen = type("LrFind", (LrFindCLI, cli), {})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # the command's name is no subcommand
        chosen(args=["fit", *arguments])
