"""Loss balancers: methods that see the losses of the tasks alone, and weigh them.

An update costs one backward, whatever the number of tasks. What such a method remembers from epoch to epoch or learns
by gradient is in its state:

>>> import torch
>>> from mtl_lightning.balancing import FixedWeighting
>>> balancer = FixedWeighting(2, weights=[0.5, 2.0])
>>> balancer(torch.tensor([1.0, 4.0])).item()
8.5

A new method is one file here, a subclass of :class:`~mtl_lightning.balancing.Balancer` that writes its ``objective``,
and its name in ``__all__``, from where :mod:`mtl_lightning.balancing` takes it.
"""

from mtl_lightning.balancing.losses.auto_lambda import AutoLambda
from mtl_lightning.balancing.losses.dwa import DWA
from mtl_lightning.balancing.losses.ema_normalization import EMANormalization
from mtl_lightning.balancing.losses.famo import FAMO
from mtl_lightning.balancing.losses.fixed import FixedWeighting
from mtl_lightning.balancing.losses.geometric_mean import GeometricMean
from mtl_lightning.balancing.losses.imtl_l import IMTLL
from mtl_lightning.balancing.losses.log_losses import LogLosses
from mtl_lightning.balancing.losses.random_weighting import RandomWeighting
from mtl_lightning.balancing.losses.stch import STCH
from mtl_lightning.balancing.losses.uncertainty import UncertaintyWeighting
from mtl_lightning.balancing.losses.uwso import UWSO

__all__ = [
    "DWA",
    "FAMO",
    "IMTLL",
    "STCH",
    "UWSO",
    "AutoLambda",
    "EMANormalization",
    "FixedWeighting",
    "GeometricMean",
    "LogLosses",
    "RandomWeighting",
    "UncertaintyWeighting",
]
