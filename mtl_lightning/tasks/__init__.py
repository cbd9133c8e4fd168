"""Tasks: one target each, with its loss, its metrics, its uncertainty term, and what other tasks may read of it.

A task is made from what the data knows of the target (a :class:`~mtl_lightning.types.TargetSpec`), so that nobody
repeats a size; without such data it is told by name, as in ``MulticlassClassification(num_classes=5)``. Its loss is a
sum over labelled elements; whoever divides it by the count has the mean. Missing labels are ``nan`` in float targets
and ``-100`` in integer ones:

>>> import torch
>>> from mtl_lightning.tasks import Regression
>>> depth = Regression(units="metres", loss="l1")
>>> output, target = torch.zeros(3, depth.output_size), torch.tensor([1.0, float("nan"), 3.0])
>>> depth.loss(output, target) / depth.count(target)
tensor(2.)

In YAML a task is chosen in place of the one that the data declares, by its target's name::

    tasks:
      depth: {class_path: Regression, init_args: {loss: huber, standardize: true}}

A task of your own is a subclass of :class:`Task`.
"""

from mtl_lightning.tasks.base import Task
from mtl_lightning.tasks.classification import (
    BinaryClassification,
    MulticlassClassification,
    MultilabelClassification,
)
from mtl_lightning.tasks.count import Count
from mtl_lightning.tasks.depth import DepthEstimation
from mtl_lightning.tasks.heteroscedastic import HeteroscedasticRegression
from mtl_lightning.tasks.ordinal import Ordinal
from mtl_lightning.tasks.quantile import Quantile
from mtl_lightning.tasks.regression import Regression
from mtl_lightning.tasks.segmentation import SemanticSegmentation
from mtl_lightning.tasks.surface_normals import SurfaceNormals
from mtl_lightning.tasks.survival import Survival
from mtl_lightning.tasks.vector import VectorRegression
from mtl_lightning.tasks.zero_inflated import ZeroInflatedLogNormal

__all__ = [
    "BinaryClassification",
    "Count",
    "DepthEstimation",
    "HeteroscedasticRegression",
    "MulticlassClassification",
    "MultilabelClassification",
    "Ordinal",
    "Quantile",
    "Regression",
    "SemanticSegmentation",
    "SurfaceNormals",
    "Survival",
    "Task",
    "VectorRegression",
    "ZeroInflatedLogNormal",
]
