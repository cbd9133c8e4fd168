"""What watches a run from outside: symptoms of wrong learning rates, comparisons, and predictions as tables and maps.

The first two see which groups of parameters learn badly, and say so in words, with the group's learning rate:

>>> from lightning.pytorch import Trainer
>>> from mtl_lightning.callbacks import DeadUnits, PredictionWriter, UpdateRatio
>>> trainer = Trainer(callbacks=[DeadUnits(every_n_steps=100), UpdateRatio(), PredictionWriter("out.parquet")])

Delta-m compares a run with single-task runs, whose metrics one of the callbacks writes into a file and another reads:

>>> from mtl_lightning.callbacks import BaselineWriter, LogDeltaM
>>> single, joint = Trainer(callbacks=[BaselineWriter("b.yaml")]), Trainer(callbacks=[LogDeltaM("b.yaml")])

Task affinity measures which tasks help each other, and proposes which to train together:

>>> from mtl_lightning.callbacks import TaskAffinity
>>> trainer = Trainer(callbacks=[TaskAffinity(max_networks=2)])

The command line adds all others to every run and takes their options under the keys ``dead_units``, ``update_ratio``,
``predictions``, ``baseline_writer`` and ``delta_m``; in a YAML for another program they are chosen by ``class_path``. A
callback sees the module, its groups and its optimizers, never a particular task or balancer, and it changes nothing of
a run.
"""

from mtl_lightning.callbacks.baselines import BaselineWriter
from mtl_lightning.callbacks.dead_units import DeadUnits
from mtl_lightning.callbacks.delta_m import LogDeltaM
from mtl_lightning.callbacks.prediction_writer import PredictionWriter
from mtl_lightning.callbacks.task_affinity import TaskAffinity
from mtl_lightning.callbacks.update_ratio import UpdateRatio

__all__ = ["BaselineWriter", "DeadUnits", "LogDeltaM", "PredictionWriter", "TaskAffinity", "UpdateRatio"]
