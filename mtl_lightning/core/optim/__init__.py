"""One optimizer and one scheduler per group of parameters, each kind behind one that Lightning sees."""

from mtl_lightning.core.optim.schedules import Schedule

__all__ = ["Schedule"]
