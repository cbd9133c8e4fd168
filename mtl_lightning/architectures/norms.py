"""Batch normalisation that also trains on a batch of one row."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNorm(_BatchNorm):
    """Batch normalisation of features (B, D, *) with any number of further axes.

    PyTorch's layers of that name, whose parameters it has, refuse to train where a batch holds one value per channel:
    an epoch's last batch with a single row then ends the run, and so does the picture-wide pooling of a DeepLab head
    at batch size 1. Such a batch has no variance; it is normalised by the running statistics, which it leaves alone.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"BatchNorm: expected features (B, D, *), found shape {tuple(input.shape)}.")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise features (B, D, *), channel by channel."""
        self._check_input_dim(input)
        if self.training and self.running_mean is not None and input[:, :1].numel() == 1:
            options: dict[str, Any] = {"weight": self.weight, "bias": self.bias, "training": False, "eps": self.eps}
            return F.batch_norm(input, self.running_mean, self.running_var, **options)
        return super().forward(input)
