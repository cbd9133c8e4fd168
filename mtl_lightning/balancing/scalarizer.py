"""Where :class:`TorchJDScalarizer` was: checkpoints and configs saved before it moved name it so."""

from mtl_lightning.balancing.torchjd import TorchJDScalarizer

__all__ = ["TorchJDScalarizer"]
