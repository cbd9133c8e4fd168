"""What a checkpoint holds beyond Lightning's: plain data that rebuilds the module, and what a run goes on with."""

from mtl_lightning.core.checkpoint import checkpoint, fine_tuning, format_1, resume
from mtl_lightning.core.checkpoint.random_state import RandomState

__all__ = ["RandomState", "checkpoint", "fine_tuning", "format_1", "resume"]
