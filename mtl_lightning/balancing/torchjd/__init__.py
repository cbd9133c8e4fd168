"""torchjd's scalarizers, aggregators and weightings, and a user's of the same kinds, as balancers.

A class of torchjd is given where a balancer is; the library wraps it in one of the two adapters:

>>> from torchjd.aggregation import UPGrad
>>> from mtl_lightning.balancing.build import build_balancer
>>> type(build_balancer(UPGrad, 2)).__name__
'TorchJD'
"""

from mtl_lightning.balancing.torchjd.aggregator import TorchJD
from mtl_lightning.balancing.torchjd.factories import call_factory
from mtl_lightning.balancing.torchjd.scalarizer import TorchJDScalarizer
from mtl_lightning.balancing.torchjd.weighting import as_aggregator

__all__ = ["TorchJD", "TorchJDScalarizer", "as_aggregator", "call_factory"]
