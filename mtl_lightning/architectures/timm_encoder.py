"""Any model of the timm library as an encoder."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

from torch import Tensor, nn

from mtl_lightning.architectures.base import Encoder
from mtl_lightning.architectures.resnet import picture_shape
from mtl_lightning.architectures.sizes import size_or_outputs
from mtl_lightning.types import ConfigurationError, InputSpec


class TimmEncoder(Encoder):
    """A model of `timm <https://huggingface.co/docs/timm>`_ without its classifier, as pictures to features.

    Needs the extra ``timm``, which brings torchvision: ``pip install "mtl-lightning[timm]"``. It has no ``stages``,
    since timm's models name their parts differently. The models are as timm makes them: most have PyTorch's own batch
    normalisation, which refuses to train where a batch has one value per channel.

    Args:
        spec: the pictures' spec: one floating-point tensor (C, H, W).
        model: the model's name, such as ``resnet18`` or ``convnext_tiny``.
        pretrained: start from timm's weights, which it downloads.
        pool: average over space, (B, D); else whatever the model gives before its pooling.
        options: further arguments of ``timm.create_model``, such as ``{"img_size": 96}`` for a transformer.

    Raises:
        ConfigurationError: if timm cannot be imported, or the spec is of another kind.
    """

    needs: ClassVar[str] = "timm"
    """The package that it cannot do without."""

    def __init__(
        self,
        spec: InputSpec,
        *,
        model: str = "resnet18",
        pretrained: bool = False,
        pool: bool = True,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        try:
            timm: Any = importlib.import_module(self.needs)
        except (ImportError, OSError, RuntimeError) as error:  # any of them comes from a torchvision for another torch
            raise ConfigurationError(
                f"TimmEncoder takes its models from timm, which cannot be imported: {error}. Install it with "
                "`pip install timm`, which brings torchvision; the versions of torch and torchvision must fit."
            ) from error
        channels, *_ = picture_shape(spec, type(self).__name__)
        arguments = {"num_classes": 0, "in_chans": channels, **({} if pool else {"global_pool": ""}), **(options or {})}
        self.model: nn.Module = timm.create_model(model, pretrained=pretrained, **arguments)
        size = size_or_outputs(self.model, spec)
        if not isinstance(size, tuple):
            raise ConfigurationError(f"TimmEncoder: expected {model!r} to give a tensor, found a dict of outputs.")
        self.out_features = size

    def forward(self, inputs: Tensor) -> Tensor:
        """Map pictures (B, C, H, W) to features (B, D), or (B, D, *) without pooling."""
        features: Tensor = self.model(inputs)
        return features
