"""One update as a function of a network, a runtime and a window of micro-batches; see :class:`Updates`."""

from mtl_lightning.core.update.nonfinite import NonFiniteError
from mtl_lightning.core.update.update import Updates
from mtl_lightning.core.update.window import Window

__all__ = ["NonFiniteError", "Updates", "Window"]
