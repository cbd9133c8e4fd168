"""One optimizer and one scheduler per group of parameters, each kind behind one that Lightning sees."""

from mtl_lightning.core.optim.composite import CompositeOptimizer, composite_of
from mtl_lightning.core.optim.plan import OptimizerPlan
from mtl_lightning.core.optim.schedulers import ChainedScheduler, ReduceLROnPlateau, SchedulerFactory, SequentialLR
from mtl_lightning.core.optim.schedules import CompositeScheduler, Schedule, step_due

__all__ = [
    "ChainedScheduler",
    "CompositeOptimizer",
    "CompositeScheduler",
    "OptimizerPlan",
    "ReduceLROnPlateau",
    "Schedule",
    "SchedulerFactory",
    "SequentialLR",
    "composite_of",
    "step_due",
]
