"""One optimizer and one scheduler per group of parameters, each kind behind one that Lightning sees."""

from mtl_lightning.core.optim.composite import CompositeOptimizer, composite_of
from mtl_lightning.core.optim.plan import OptimizerPlan
from mtl_lightning.core.optim.schedules import CompositeScheduler, Schedule, SchedulerFactory, step_due

__all__ = [
    "CompositeOptimizer",
    "CompositeScheduler",
    "OptimizerPlan",
    "Schedule",
    "SchedulerFactory",
    "composite_of",
    "step_due",
]
