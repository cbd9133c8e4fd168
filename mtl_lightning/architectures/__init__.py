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

Any ``nn.Module`` of your own serves as an encoder or as the whole architecture, by the rules of ``base.py``. A new
architecture is one file here, a subclass of :class:`Architecture`, and its name in ``__all__``.
"""

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
from mtl_lightning.architectures.encoders import MLP, LeNet
from mtl_lightning.architectures.heads import MLPHead
from mtl_lightning.architectures.shared_bottom import SharedBottom
from mtl_lightning.architectures.sizes import feature_size

__all__ = [
    "MLP",
    "Architecture",
    "ArchitectureArgument",
    "Encoder",
    "EncoderArgument",
    "Head",
    "HeadFactory",
    "LeNet",
    "Linear",
    "MLPHead",
    "SharedBottom",
    "build_encoder",
    "feature_size",
]
