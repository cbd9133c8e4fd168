"""Reads and runs what an export wrote: a folder with a network, ``schema.json`` and a model card.

Nothing here imports torch, but :mod:`~mtl_lightning.exported.pt2_model`, which runs ``.pt2`` files and is imported for
these alone::

    folder = ExportedFolder("exported")   # checked against its checksums
    folder.model.run({"numeric": numbers, "categorical": codes})   # arrays in, an array per task out
"""

from mtl_lightning.exported.folder import CARD, FORMAT, SCHEMA
from mtl_lightning.exported.model import Model
from mtl_lightning.exported.opened import ExportedFolder, open_model

__all__ = ["CARD", "FORMAT", "SCHEMA", "ExportedFolder", "Model", "open_model"]
