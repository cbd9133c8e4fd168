"""Hard parameter sharing: one encoder for all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from mtl_lightning.architectures.base import Architecture, EncoderArgument, build_encoder
from mtl_lightning.architectures.encoders import MLP
from mtl_lightning.architectures.sizes import feature_size
from mtl_lightning.types import Features, InputSpec


class SharedBottom(Architecture):
    """Hard parameter sharing: every task reads the same features of one encoder.

    `Multitask Learning <https://doi.org/10.1023/A:1007379606734>`_ (Caruana 1997), figure 2. With encoder E and heads
    D_t the output of task t is y_t = D_t(E(x)). All parameters here are shared; only the heads belong to a task.

    Args:
        spec: the input's spec; None where it is unknown, which an encoder that declares its ``out_features`` allows.
        tasks: the tasks' names.
        encoder: an :class:`Encoder` class, a ``functools.partial`` of one or a function of the spec; or an
            ``nn.Module`` of the user's own, as an instance or as a class, which is made without arguments.

    Raises:
        ConfigurationError: if the encoder cannot be made, or the size of its features cannot be told.
    """

    def __init__(self, spec: InputSpec | None, tasks: Sequence[str], *, encoder: EncoderArgument = MLP) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder, spec)
        self.feature_sizes = dict.fromkeys(tasks, feature_size(self.encoder, spec))

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Map inputs to the same features (B, D, *) for each of ``tasks``."""
        return Features(dict.fromkeys(tasks, self.encoder(inputs)))

    def last_shared(self) -> Sequence[nn.Module]:
        """Return the encoder."""
        return [self.encoder]
