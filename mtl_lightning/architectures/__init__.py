"""How tasks share a representation: encoders make features, an architecture hands them to the tasks, heads end it.

An architecture is made from the input's spec and the tasks' names, and returns the features of each task:

>>> import torch
>>> from functools import partial
>>> from mtl_lightning.types import TensorSpec
>>> network = SharedBottom(TensorSpec((1, 12, 12)), ["left", "right"], encoder=partial(LeNet, width=32))
>>> features = network(torch.zeros(5, 1, 12, 12), ["left"])
>>> {task: tuple(value.shape) for task, value in features.per_task.items()}
{'left': (5, 32)}

In YAML the data gives the spec and the names::

    architecture:
      class_path: SharedBottom
      init_args: {encoder: {class_path: LeNet, init_args: {width: 32}}}
    heads:
      default: Linear
      left: {class_path: MLPHead, init_args: {hidden: [32]}}

The ways of sharing, from none to all:

- :class:`SingleTaskNetworks`: a network per task, the baseline; :class:`GroupedNetworks`: one per group of tasks;
  :class:`SharedBottom`: one encoder for all;
- :class:`MMoE`, :class:`OMoE`, :class:`CGC`, :class:`DSelectK`: gates mix the features of several encoders;
- :class:`CrossStitch`, :class:`MTAN`, :class:`LearningToBranch`, :class:`PLE`: tasks are joined stage by stage, which
  needs an encoder that lists its ``stages`` (see ``stages.py``);
- :class:`AITM`, :class:`Product`: tasks that follow one another, as a purchase follows a click;
- :class:`TaskConditionedNorm`: one encoder, with normalisation layers per task, for one dataset per task.

Any ``nn.Module`` of your own serves as an encoder or as the whole architecture, by the rules of ``base.py``; one that
is made several times is given as a class or a function, or is copied by the rules of ``copies.py``. An
``nn.Sequential`` has its layers as stages:

>>> from torch import nn
>>> def encoder(spec):
...     return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Sequential(nn.Flatten(), nn.Linear(800, 16)))
>>> network = CrossStitch(TensorSpec((1, 12, 12)), ["left", "right"], encoder=encoder)
>>> network.feature_sizes
{'left': (16,), 'right': (16,)}

A new architecture is one file here, a subclass of :class:`Architecture`, and its name in ``__all__``.
"""

from mtl_lightning.architectures.aitm import AITM
from mtl_lightning.architectures.base import (
    Architecture,
    ArchitectureArgument,
    Encoder,
    EncoderArgument,
    Head,
    HeadFactory,
    Linear,
    build_encoder,
)
from mtl_lightning.architectures.cgc import CGC
from mtl_lightning.architectures.cross_stitch import CrossStitch
from mtl_lightning.architectures.dcn import DCNv2
from mtl_lightning.architectures.dense_heads import ASPP, DeepLabHead, UpsamplingHead
from mtl_lightning.architectures.dselect_k import DSelectK
from mtl_lightning.architectures.encoders import MLP, LeNet
from mtl_lightning.architectures.grouped import GroupedNetworks
from mtl_lightning.architectures.heads import MLPHead
from mtl_lightning.architectures.learning_to_branch import LearningToBranch
from mtl_lightning.architectures.mmoe import MMoE, OMoE
from mtl_lightning.architectures.mtan import MTAN
from mtl_lightning.architectures.norms import BatchNorm
from mtl_lightning.architectures.ple import PLE
from mtl_lightning.architectures.product import Product
from mtl_lightning.architectures.resnet import ResNet
from mtl_lightning.architectures.segnet import SegNet
from mtl_lightning.architectures.shared_bottom import SharedBottom
from mtl_lightning.architectures.single_task import SingleTaskNetworks
from mtl_lightning.architectures.sizes import feature_size
from mtl_lightning.architectures.tabular import TabularEncoder
from mtl_lightning.architectures.task_conditioned_norm import TaskConditionedNorm
from mtl_lightning.architectures.timm_encoder import TimmEncoder

__all__ = [
    "AITM",
    "ASPP",
    "CGC",
    "MLP",
    "MTAN",
    "PLE",
    "Architecture",
    "ArchitectureArgument",
    "BatchNorm",
    "CrossStitch",
    "DCNv2",
    "DSelectK",
    "DeepLabHead",
    "Encoder",
    "EncoderArgument",
    "GroupedNetworks",
    "Head",
    "HeadFactory",
    "LeNet",
    "LearningToBranch",
    "Linear",
    "MLPHead",
    "MMoE",
    "OMoE",
    "Product",
    "ResNet",
    "SegNet",
    "SharedBottom",
    "SingleTaskNetworks",
    "TabularEncoder",
    "TaskConditionedNorm",
    "TimmEncoder",
    "UpsamplingHead",
    "build_encoder",
    "feature_size",
]
