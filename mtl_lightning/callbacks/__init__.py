"""What watches a run from outside: symptoms of wrong learning rates, comparisons, and predictions as tables and maps.

The first see what is wrong with a run, and say so in words, once, with the key to change:

>>> from lightning.pytorch import Trainer
>>> from mtl_lightning.callbacks import Conflict, DeadUnits, GateUse, LearningSpeed, Overfitting, PredictionWriter
>>> from mtl_lightning.callbacks import UnsettledSigma, UpdateRatio
>>> watching = [DeadUnits(), UpdateRatio(), Conflict(), LearningSpeed(), Overfitting(), UnsettledSigma(), GateUse()]
>>> trainer = Trainer(callbacks=[*watching, PredictionWriter("out.parquet")])

Delta-m compares a run with single-task runs, whose metrics one of the callbacks writes into a file and another reads:

>>> from mtl_lightning.callbacks import BaselineWriter, LogDeltaM
>>> single, joint = Trainer(callbacks=[BaselineWriter("b.yaml")]), Trainer(callbacks=[LogDeltaM("b.yaml")])

Task affinity measures which tasks help each other, and proposes which to train together:

>>> from mtl_lightning.callbacks import TaskAffinity
>>> trainer = Trainer(callbacks=[TaskAffinity(max_networks=2)])

``GroupedMetrics`` says how well the rows of each user, or of another group, are ordered.

``Calibration`` fits probabilities and intervals that hold to each validation, ``CalibrationMetrics`` says in a test
whether they do.

Figures of a validation (``PRCurves``, ``ConfusionMatrices``, ``ReliabilityDiagrams``, ``PredictedAgainstTrue``,
``DensePanels``) and texts of a run (``RunText``) are for TensorBoard, ``EpochTable`` is for the terminal, and
``ConstantMetrics`` says what a test's figures are to be held against.

The command line adds all but ``TaskAffinity`` and ``GroupedMetrics`` to every run and takes their options under keys
such as ``dead_units``, ``conflict``, ``predictions``, ``pr_curves`` (``--help`` lists them); in a YAML for another
program they are chosen by ``class_path``. A callback sees the module, its groups and its optimizers, never a particular
task or balancer, and it changes nothing of a run.
"""

from mtl_lightning.callbacks.baselines import BaselineWriter
from mtl_lightning.callbacks.calibration import Calibration
from mtl_lightning.callbacks.calibration_metrics import CalibrationMetrics
from mtl_lightning.callbacks.conflict import Conflict
from mtl_lightning.callbacks.confusion_matrices import ConfusionMatrices
from mtl_lightning.callbacks.constant_metrics import ConstantMetrics
from mtl_lightning.callbacks.dead_units import DeadUnits
from mtl_lightning.callbacks.delta_m import LogDeltaM
from mtl_lightning.callbacks.dense_panels import DensePanels
from mtl_lightning.callbacks.epoch_table import EpochTable
from mtl_lightning.callbacks.gate_use import GateUse
from mtl_lightning.callbacks.grouped_metrics import GroupedMetrics
from mtl_lightning.callbacks.learning_speed import LearningSpeed
from mtl_lightning.callbacks.overfitting import Overfitting
from mtl_lightning.callbacks.pr_curves import PRCurves
from mtl_lightning.callbacks.predicted_against_true import PredictedAgainstTrue
from mtl_lightning.callbacks.prediction_writer import PredictionWriter
from mtl_lightning.callbacks.reliability import ReliabilityDiagrams
from mtl_lightning.callbacks.run_text import RunText
from mtl_lightning.callbacks.task_affinity import TaskAffinity
from mtl_lightning.callbacks.unsettled_sigma import UnsettledSigma
from mtl_lightning.callbacks.update_ratio import UpdateRatio

__all__ = [
    "BaselineWriter",
    "Calibration",
    "CalibrationMetrics",
    "Conflict",
    "ConfusionMatrices",
    "ConstantMetrics",
    "DeadUnits",
    "DensePanels",
    "EpochTable",
    "GateUse",
    "GroupedMetrics",
    "LearningSpeed",
    "LogDeltaM",
    "Overfitting",
    "PRCurves",
    "PredictedAgainstTrue",
    "PredictionWriter",
    "ReliabilityDiagrams",
    "RunText",
    "TaskAffinity",
    "UnsettledSigma",
    "UpdateRatio",
]
