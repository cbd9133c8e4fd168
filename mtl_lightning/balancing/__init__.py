"""Balancers: how the losses of T tasks become one update.

A balancer is an ``nn.Module`` made from the number of tasks. In a bare PyTorch loop it maps the losses (T,) to the
number to minimise; what it learns is among its parameters:

>>> import torch
>>> from mtl_lightning.balancing import UncertaintyWeighting
>>> balancer = UncertaintyWeighting(2)
>>> balancer(torch.tensor([1.0, 4.0])).item()
2.5
>>> balancer.sigmas()
tensor([1., 1.])

:class:`Balancer` itself is the plain sum. A balancer of your own is a subclass of it.
"""

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.fixed import FixedWeighting
from mtl_lightning.balancing.uncertainty import UncertaintyWeighting

__all__ = ["Balancer", "FixedWeighting", "UncertaintyWeighting"]
