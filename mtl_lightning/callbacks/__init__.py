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

The command line adds all of them to every run and takes their options under the keys ``dead_units``, ``update_ratio``,
``conflict``, ``learning_speed``, ``overfitting``, ``unsettled_sigma``, ``gate_use``, ``predictions``,
``baseline_writer`` and ``delta_m``; in a YAML for another program they are chosen by ``class_path``. A callback sees
the module, its groups and its optimizers, never a particular task or balancer, and it changes nothing of a run.
"""

from mtl_lightning.callbacks.baselines import BaselineWriter
from mtl_lightning.callbacks.conflict import Conflict
from mtl_lightning.callbacks.dead_units import DeadUnits
from mtl_lightning.callbacks.delta_m import LogDeltaM
from mtl_lightning.callbacks.gate_use import GateUse
from mtl_lightning.callbacks.learning_speed import LearningSpeed
from mtl_lightning.callbacks.overfitting import Overfitting
from mtl_lightning.callbacks.prediction_writer import PredictionWriter
from mtl_lightning.callbacks.unsettled_sigma import UnsettledSigma
from mtl_lightning.callbacks.update_ratio import UpdateRatio

__all__ = [
    "BaselineWriter",
    "Conflict",
    "DeadUnits",
    "GateUse",
    "LearningSpeed",
    "LogDeltaM",
    "Overfitting",
    "PredictionWriter",
    "UnsettledSigma",
    "UpdateRatio",
]
