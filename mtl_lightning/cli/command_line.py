"""``LightningCLI`` for multi-task modules."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

from jsonargparse.typing import PositiveInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from mtl_lightning.callbacks import (
    BaselineWriter,
    Calibration,
    CalibrationMetrics,
    Conflict,
    ConfusionMatrices,
    ConstantMetrics,
    DeadUnits,
    DensePanels,
    EpochTable,
    GateUse,
    LearningSpeed,
    LogDeltaM,
    Overfitting,
    PRCurves,
    PredictedAgainstTrue,
    PredictionWriter,
    ReliabilityDiagrams,
    RunText,
    UnsettledSigma,
    UpdateRatio,
)
from mtl_lightning.callbacks.best_epoch import added_callbacks, what_was_tested
from mtl_lightning.callbacks.run_config import RunConfig
from mtl_lightning.checkpoint_file import read_part
from mtl_lightning.cli import config_files, numbers
from mtl_lightning.cli.parser import Parser
from mtl_lightning.cli.table import metrics_table
from mtl_lightning.core import MultiTaskModule, compat
from mtl_lightning.core.update.best_validation import MONITOR
from mtl_lightning.data.saved import SavedDataModule
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import ConfigurationError, InputSpec

_ALSO = (
    "Beside these: `lr-find` sweeps each group's learning rate, `compare` says which of several ways to train is "
    "better, and how sure that is, `tune` which values of a config's keys are, `calibrate` fits a checkpoint's "
    "probabilities and intervals to labelled rows, `export` writes a checkpoint as ONNX, `serve` answers over "
    "HTTP. See mtl-lightning compare --help."
)


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
            "parser_class": Parser,
            "parser_kwargs": {"epilog": _ALSO},
        }
        self._parsers: list[Parser] = []
        words = sys.argv[1:] if args is None else args if isinstance(args, list) else []
        self._command = next((word for word in words[:1] if word in self.subcommands()), None)
        super().__init__(model_class, datamodule_class, args=args, **{**options, **kwargs})

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser that knows the others."""
        parser = super().init_parser(**kwargs)
        if isinstance(parser, Parser):
            self._parsers.append(parser)
            parser.family = self._parsers
        return parser

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Leave the parsers empty whose command is not the first word: filling all takes longer than a short run."""
        if self._command in (None, subcommand):
            return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        return super().init_parser(**kwargs)

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
        parser.add_lightning_class_args(Conflict, "conflict")
        parser.add_lightning_class_args(LearningSpeed, "learning_speed")
        parser.add_lightning_class_args(Overfitting, "overfitting")
        parser.add_lightning_class_args(UnsettledSigma, "unsettled_sigma")
        parser.add_lightning_class_args(GateUse, "gate_use")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_lightning_class_args(LogDeltaM, "delta_m")
        parser.add_lightning_class_args(BaselineWriter, "baseline_writer")
        parser.add_lightning_class_args(EpochTable, "epoch_table")
        parser.add_lightning_class_args(ConstantMetrics, "constant_metrics")
        parser.add_lightning_class_args(Calibration, "calibration")
        parser.add_lightning_class_args(CalibrationMetrics, "calibration_metrics")
        parser.add_lightning_class_args(ReliabilityDiagrams, "reliability")
        parser.add_lightning_class_args(PRCurves, "pr_curves")
        parser.add_lightning_class_args(ConfusionMatrices, "confusion_matrices")
        parser.add_lightning_class_args(PredictedAgainstTrue, "predicted_against_true")
        parser.add_lightning_class_args(DensePanels, "dense_panels")
        parser.add_lightning_class_args(RunText, "run_text")
        parser.link_arguments("data", "model.tasks", compute_fn=_tasks_of, apply_on="instantiate")
        parser.link_arguments("data", "model.input_spec", compute_fn=_input_spec_of, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse what is given, and refuse config files and numbers that cannot be right."""
        sections = [*self._parsers[-1].classes]
        for file in config_files.given(sys.argv[1:] if args is None else args if isinstance(args, list) else []):
            config_files.check(file, sections, [*sections, *self._options()])
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand] if self.config.get("subcommand") else self.config
        numbers.check(config.as_dict(), self._parsers[-1].classes)

    def _options(self) -> list[str]:
        """Return the keys at the top of a config file that are no sections."""
        keys = {key for parser in self._parsers for key in parser.option_keys() if "." not in key}
        return sorted(
            (keys | {"class_path", *self.subcommands()}) - {*self._parsers[-1].classes} - {"class_path", "config"}
        )

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as it is: Lightning would let a checkpoint's ``hyper_parameters`` change it."""

    def before_instantiate_classes(self) -> None:
        """With a checkpoint, give the datamodule the schema that was fitted when it was trained."""
        if self.subcommand is None:
            return
        config = self.config[self.subcommand]
        path = compat.checkpoint_path(config.get("ckpt_path"), self.subcommand, self._make_trainer)
        config["ckpt_path"] = path  # the weights come from where the schema comes from
        if path is None:
            return
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
        parser = Parser()
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        config = parser.parse_object({"trainer": self._get(self.config, "trainer").as_dict()})
        made = parser.instantiate_classes(config)
        return self._instantiate_trainer({**made.trainer}, [])

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Make the trainer; unless the configuration says otherwise, it keeps the best epoch and the last."""
        default = self.trainer_defaults.get("callbacks") or []
        others = [*callbacks, *(default if isinstance(default, list) else [default])]
        patience = self._get(self.config, "early_stopping") if self.subcommand == "fit" else None
        added = added_callbacks(config, others, patience)
        try:
            return super()._instantiate_trainer(config, [*callbacks, *added])
        except (MisconfigurationException, ValueError, TypeError) as error:
            forms = (r"\b{}\b ?=", r"\b{}\b")
            named = [name for form in forms for name in config if re.search(form.format(name), str(error))]
            key = f"trainer.{named[0]}" if named else "trainer"
            raise ConfigurationError(f"`{key}`: {error}") from error

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


@rank_zero_only
def _say(text: str) -> None:
    sys.stdout.write(f"\n{text}\n")
