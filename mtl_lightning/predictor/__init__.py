"""A trained model as a function of raw rows: tables of any kind in, named answers out; no trainer.

>>> import torch
>>> from mtl_lightning import Network, Predictor
>>> from mtl_lightning.tasks import BinaryClassification
>>> from mtl_lightning.types import TargetSpec, TensorSpec
>>> _ = torch.manual_seed(0)
>>> sold = BinaryClassification(TargetSpec(names=("no", "yes")))
>>> predictor = Predictor(Network({"sold": sold}, torch.nn.Linear(2, 1), TensorSpec((2,))))
>>> predictor([[1.0, 2.0]])["sold"]["label"].tolist()
['no']

This package imports neither torch nor lightning; ``checkpoint``, which runs networks with torch, is imported when a
checkpoint is opened. From the bottom: ``description`` is what must be known beside the network, as plain data;
``arrays`` and ``tables`` read what is given, ``report`` says what is unlike training, ``intake`` encodes, ``decode``
makes answers of final outputs, ``answers`` holds them, ``predictor`` puts it together.
"""

from mtl_lightning.predictor.answers import Predictions
from mtl_lightning.predictor.predictor import Backend, Predictor
from mtl_lightning.predictor.report import ColumnReport, Report

__all__ = ["Backend", "ColumnReport", "Predictions", "Predictor", "Report"]
