"""The only part that knows Lightning's training loop: tasks and parts in, updates, records and checkpoints out.

It sees the base classes of tasks, balancers and architectures, never a concrete one. One update is a function of a
network, a runtime and a window; ``docs/architecture.md`` walks one batch through it.
"""

from mtl_lightning.core.module import MultiTaskModule
from mtl_lightning.core.network import Edge, Network
from mtl_lightning.core.optim import Schedule
from mtl_lightning.core.update import NonFiniteError

__all__ = ["Edge", "MultiTaskModule", "Network", "NonFiniteError", "Schedule"]
