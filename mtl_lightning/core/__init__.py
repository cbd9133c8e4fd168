"""The only part that knows Lightning's training loop: tasks and parts in, updates, records and checkpoints out.

It sees the base classes of tasks, balancers and architectures, never a concrete one.
"""

from mtl_lightning.core.graph import Edge
from mtl_lightning.core.module import MultiTaskModule
from mtl_lightning.core.optimizers import Schedule
from mtl_lightning.core.step import NonFiniteError

__all__ = ["Edge", "MultiTaskModule", "NonFiniteError", "Schedule"]
