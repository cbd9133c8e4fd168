"""Writes a trained network as a folder that runs without this library, and checks that it gives the same answers.

``module.export("folder", format="onnx")`` and ``mtl-lightning export`` come here; what reads the folder is
:mod:`mtl_lightning.exported`.
"""

import mtl_lightning.core.network  # noqa: F401  # first, as the module, which is above, imports what follows
from mtl_lightning.export.card import Facts
from mtl_lightning.export.exporter import Exported, export_network, stand_alone

__all__ = ["Exported", "Facts", "export_network", "stand_alone"]
