"""One update as a function of a network, a runtime and a window of micro-batches.

A batch is checked (:mod:`~mtl_lightning.core.update.batches`) and added to an :class:`Accumulation`; when that gives a
complete :class:`Window`, whose labels are counted, :class:`Updates` makes one update from it.
"""

from mtl_lightning.core.update.accumulation import Accumulation
from mtl_lightning.core.update.batches import micro_batches
from mtl_lightning.core.update.host_counts import HostCounts
from mtl_lightning.core.update.intake import Intake
from mtl_lightning.core.update.labels import LabelWatch
from mtl_lightning.core.update.nonfinite import NonFiniteError
from mtl_lightning.core.update.update import Updates
from mtl_lightning.core.update.window import Window

__all__ = ["Accumulation", "HostCounts", "Intake", "LabelWatch", "NonFiniteError", "Updates", "Window", "micro_batches"]
