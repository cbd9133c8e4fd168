"""Export to ONNX of networks that read a dict.

Relies on ``LightningModule.to_onnx`` handing its sample to ``torch.onnx.export``, which takes a dict at the end of the
arguments for keyword arguments of ``forward``, unless another one follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule


class ExportsDicts(LightningModule):
    """A module whose inputs may be a dict, such as those of a table."""

    def to_onnx(self, file_path: Any = None, input_sample: Any | None = None, **kwargs: Any) -> Any:
        """Save in ONNX's format, as Lightning does.

        Args:
            file_path: where to.
            input_sample: inputs of a batch, as ``forward`` takes them: a tensor, or a dict.
            kwargs: for ``torch.onnx.export``.
        """
        sample: Any = (input_sample, {}) if isinstance(input_sample, Mapping) else input_sample
        return super().to_onnx(file_path, sample, **kwargs)
