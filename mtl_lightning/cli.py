"""The command line: one ``LightningCLI``, behind the ``mtl-lightning`` script.

Importing the packages here is what makes short class names work: the parser finds a class by its name among the
imported subclasses of the type that an option asks for.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any, NoReturn

import torch
from jsonargparse import ArgumentError, set_parsing_settings
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from mtl_lightning import architectures, balancing, callbacks, data, tasks
from mtl_lightning.callbacks import BaselineWriter, DeadUnits, LogDeltaM, PredictionWriter, UpdateRatio
from mtl_lightning.callbacks.best_epoch import MONITOR, added_callbacks, what_was_tested
from mtl_lightning.callbacks.run_config import RunConfig
from mtl_lightning.checkpoint_file import read_part
from mtl_lightning.core import MultiTaskModule, compat
from mtl_lightning.data.saved import SavedDataModule
from mtl_lightning.names import nearest
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import ConfigurationError, InputSpec, MtlLightningError

set_parsing_settings(instantiate_subclass_spec_in_any=False)  # only a declared type tells what may be made


class _Parser(LightningArgumentParser):
    """Adds the nearest valid names to messages about unknown ones, and spares the reader the list of all options.

    ``LightningCLI`` and its ``SaveConfigCallback`` call methods and arguments of jsonargparse that are deprecated since
    4.49; here they lead to those that took their place.
    """

    family: list[_Parser]
    """The parsers of all subcommands, whose options are the valid ones; unset in an option's own parser."""
    instantiators: tuple[tuple[Any, type, bool], ...] = ()
    """Functions that make classes in a way of their own, each with its class and whether it makes subclasses too."""

    def add_instantiator(self, instantiator: Any, class_type: Any, subclasses: bool = True, **options: Any) -> None:
        """Let a function make a class."""
        self.instantiators = (*self.instantiators, (instantiator, class_type, subclasses))

    def instantiate_classes(self, cfg: Any, **options: Any) -> Any:
        """Make the objects that a configuration describes."""
        return self.instantiate(cfg, instantiators=self.instantiators, **options)

    def dump(self, *args: Any, **options: Any) -> str:
        """Write a configuration as text."""
        return str(super().dump(*args, **_with_current_names(options)))

    def save(self, *args: Any, **options: Any) -> None:
        """Write a configuration into a file."""
        super().save(*args, **_with_current_names(options))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End the program with one message; within an option's own parser, raise it."""
        full = "\n".join([message, *_hints(message, self)])
        if self.exit_on_error:
            self.exit(2, f"error: {full}\nSee {self.prog} --help.\n")
        super().error(full, ex)
        raise ArgumentError(full)


def _with_current_names(options: dict[str, Any]) -> dict[str, Any]:
    return {"skip_unset" if name == "skip_none" else name: value for name, value in options.items()}


class MultiTaskCLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict`` for a multi-task module and any datamodule.

    Every option of the trainer, the module and the datamodule is a key of the YAML file and a flag. Subclass it as
    any ``LightningCLI``, with a module class of your own: ``MultiTaskCLI(MyModule)``.
    """

    def __init__(
        self,
        model_class: type[MultiTaskModule] = MultiTaskModule,
        datamodule_class: type[LightningDataModule] = LightningDataModule,
        args: ArgsType = None,
        **kwargs: Any,
    ) -> None:
        options = {
            "subclass_mode_data": True,
            "auto_configure_optimizers": False,  # the module makes one optimizer per group
            "load_from_checkpoint_support": False,  # checkpoints hold their own plain data
            "save_config_callback": RunConfig,
            "parser_class": _Parser,
        }
        self._parsers: list[_Parser] = []
        super().__init__(model_class, datamodule_class, args=args, **{**options, **kwargs})

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser that knows the others."""
        parser = super().init_parser(**kwargs)
        if isinstance(parser, _Parser):
            self._parsers.append(parser)
            parser.family = self._parsers
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what the data knows to the module, and add the callbacks that every run has."""
        parser.add_argument(
            "--test_after_fit",
            type=bool,
            default=False,
            help="After `fit`, test the best checkpoint and print a table of the metrics of each task.",
        )
        parser.add_argument(
            "--early_stopping",
            type=PositiveInt | None,
            default=None,
            help=f"Stop `fit` after so many validations without a lower `{MONITOR}`.",
        )
        parser.add_lightning_class_args(DeadUnits, "dead_units")
        parser.add_lightning_class_args(UpdateRatio, "update_ratio")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_lightning_class_args(LogDeltaM, "delta_m")
        parser.add_lightning_class_args(BaselineWriter, "baseline_writer")
        parser.link_arguments("data", "model.tasks", compute_fn=_tasks_of, apply_on="instantiate")
        parser.link_arguments("data", "model.input_spec", compute_fn=_input_spec_of, apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as it is: Lightning would let a checkpoint's ``hyper_parameters`` change it."""

    def before_instantiate_classes(self) -> None:
        """With a checkpoint, give the datamodule the schema that was fitted when it was trained."""
        if self.subcommand is None:
            return
        config = self.config[self.subcommand]
        given = config.get("ckpt_path")
        path = compat.checkpoint_path(given, self.subcommand, self._make_trainer)
        if path is None:
            config["ckpt_path"] = given if given is None else compat.as_text(given)
            return
        config["ckpt_path"] = path  # the weights come from where the schema comes from
        saved = read_part(compat.part_file(path))
        if saved.get("schema") is not None:

            def restored(cls: type[SavedDataModule], *args: Any, **kwargs: Any) -> SavedDataModule:
                data: SavedDataModule = cls(*args, **kwargs)
                data.restore_schema(saved["schema"])
                return data

            chosen = resolve_name(self._get(self.config, "data").class_path)
            if issubclass(chosen, SavedDataModule):  # that class only, since a datamodule may be made of others
                self.parser.add_instantiator(restored, chosen, subclasses=False)

    def _make_trainer(self) -> Trainer:
        """Make the trainer that the configuration describes, before the model and the data."""
        parser = _Parser()
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        config = parser.parse_object({"trainer": self._get(self.config, "trainer").as_dict()})
        made = parser.instantiate_classes(config)
        return self._instantiate_trainer({**made.trainer}, [])

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Make the trainer; unless the configuration says otherwise, it keeps the best epoch and the last."""
        default = self.trainer_defaults.get("callbacks") or []
        others = [*callbacks, *(default if isinstance(default, list) else [default])]
        patience = self._get(self.config, "early_stopping") if self.subcommand == "fit" else None
        return super()._instantiate_trainer(config, [*callbacks, *added_callbacks(config, others, patience)])

    def predict(self, **options: Any) -> None:
        """Predict into the file of the ``predictions`` callback, without keeping everything in memory."""
        self.trainer.predict(**{**options, "return_predictions": False})

    def after_fit(self) -> None:
        """Print where the run can be watched and, if asked for, test metrics of each task."""
        if self._get(self.config, "test_after_fit") and self.trainer.state.finished:
            checkpoint = self.trainer.checkpoint_callback
            path = getattr(checkpoint, "best_model_path", "") or None
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=path, verbose=False)
            self.after_test()
        if any(isinstance(logger, TensorBoardLogger) for logger in self.trainer.loggers):
            _say(f"Watch it with: tensorboard --logdir {self.trainer.log_dir}")

    def after_test(self) -> None:
        """Print which epoch was tested, and a table of the test metrics of each task."""
        table = metrics_table(self.trainer, self.model)
        if self.trainer.is_global_zero:  # where the checkpoint's file is
            _say(f"{what_was_tested(self.trainer, fitted=self.subcommand == 'fit')}\n{table}")


def main(args: ArgsType = None) -> None:
    """Run the command line; an error of ours ends it with one message."""
    try:
        MultiTaskCLI(args=args)
    except (MtlLightningError, ValueError) as error:
        cause: BaseException | None = error  # the parser wraps what the datamodule raises in a ValueError
        while cause is not None and not isinstance(cause, MtlLightningError):
            cause = cause.__cause__
        if cause is None:
            raise
        sys.exit(f"mtl-lightning: {type(cause).__name__}: {cause}")


# ----------------------------------------------------------------------------------------------------- from the data
def _tasks_of(data: LightningDataModule) -> dict[str, Task]:
    tasks = getattr(data, "tasks", None)
    if not isinstance(tasks, Mapping):
        raise ConfigurationError(
            f"{type(data).__name__} declares no tasks: expected an attribute `tasks`, a dict of names to Task objects."
        )
    return dict(tasks)


def _input_spec_of(data: LightningDataModule) -> InputSpec | None:
    return getattr(data, "input_spec", None)


# ------------------------------------------------------------------------------------------------------- what is said
@rank_zero_only
def _say(text: str) -> None:
    sys.stdout.write(f"\n{text}\n")


def metrics_table(trainer: Trainer, module: MultiTaskModule) -> str:
    """Return the last test's metrics as a table: a row per task, a column per metric; sigmas in original units, too."""
    rows: dict[str, dict[str, str]] = {name: {} for name in module.tasks}
    for tag, value in trainer.callback_metrics.items():
        stage, *metric, task = tag.split("/")
        if stage == "test" and task in rows and metric != ["labels"]:
            rows[task]["/".join(metric)] = f"{float(value):.4g}"
    for task, sigma in module.sigmas(original_units=True).items():
        rows[task]["sigma"] = f"{sigma:.4g}"
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [["task", *columns], *([task, *(row.get(c, "") for c in columns)] for task, row in rows.items())]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns) + 1)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


# ------------------------------------------------------------------------------------------------------ nearest names
_UNKNOWN_OPTION = (
    r"[Oo]ption '([\w.]+)'|[Kk]ey '([\w.]+)' is not|[Uu]nrecognized arguments: --([\w.]+)|but got {'(\w+)'"
)
_UNKNOWN_CLASS = r"import path string: (\w+)|has no attribute '(\w+)'"
"""How the parser speaks of names that it does not know."""


def _hints(message: str, parser: _Parser) -> list[str]:
    """Name the nearest valid name for each unknown one in an error message."""
    keys = [
        key for known in getattr(parser, "family", [parser]) for key in dict(known.get_defaults(skip_validation=True))
    ]
    options = {part for key in keys for part in key.split(".")} | {"class_path", "init_args"}
    packages = (architectures, balancing, callbacks, data, tasks, torch.optim, torch.optim.lr_scheduler)
    classes = {name for package in packages for name in package.__all__}
    hints = []
    for pattern, valid in ((_UNKNOWN_OPTION, options), (_UNKNOWN_CLASS, classes)):
        unknown = {part for found in re.findall(pattern, message) for name in found for part in name.split(".")}
        for name in sorted(unknown - valid - {""}):
            near = nearest(name, valid, cutoff=0.7)
            hints += [] if near is None else [f"{name!r}: did you mean {near!r}?"]
    return hints
