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

Methods are sorted by what they consume: :mod:`~mtl_lightning.balancing.losses` see the losses alone,
:mod:`~mtl_lightning.balancing.gradients` one gradient per task, and :mod:`~mtl_lightning.balancing.torchjd` takes
torchjd's of both kinds. All of ours are exported here, the one place to import them from. What they share is in
:mod:`~mtl_lightning.balancing.tools`; what the rest of the library asks of them is in ``base``, ``rows``,
``lookahead`` and ``build``.
"""

from mtl_lightning.balancing import gradients, losses
from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.gradients import *  # noqa: F403  # so that a method's export is one line, in its package
from mtl_lightning.balancing.losses import *  # noqa: F403  # likewise
from mtl_lightning.balancing.torchjd import TorchJD

__all__ = ["Balancer", "TorchJD"]
__all__ += gradients.__all__
__all__ += losses.__all__
