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

from mtl_lightning.balancing.aligned_mtl import AlignedMTL
from mtl_lightning.balancing.auto_lambda import AutoLambda
from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.cagrad import CAGrad
from mtl_lightning.balancing.cosine_gating import CosineGating
from mtl_lightning.balancing.cr_mogm import CRMOGM
from mtl_lightning.balancing.db_mtl import DBMTL
from mtl_lightning.balancing.dwa import DWA
from mtl_lightning.balancing.ema_normalization import EMANormalization
from mtl_lightning.balancing.excess_mtl import ExcessMTL
from mtl_lightning.balancing.fairgrad import FairGrad
from mtl_lightning.balancing.famo import FAMO
from mtl_lightning.balancing.fixed import FixedWeighting
from mtl_lightning.balancing.geometric_mean import GeometricMean
from mtl_lightning.balancing.graddrop import GradDrop
from mtl_lightning.balancing.gradient_norm import GradientNormBalancing
from mtl_lightning.balancing.gradnorm import GradNorm
from mtl_lightning.balancing.gradvac import GradVac
from mtl_lightning.balancing.imtl import IMTL
from mtl_lightning.balancing.imtl_g import IMTLG
from mtl_lightning.balancing.imtl_l import IMTLL
from mtl_lightning.balancing.log_losses import LogLosses
from mtl_lightning.balancing.metabalance import MetaBalance
from mtl_lightning.balancing.mgda import MGDA
from mtl_lightning.balancing.moco import MoCo
from mtl_lightning.balancing.modo import MoDo
from mtl_lightning.balancing.nash_mtl import NashMTL
from mtl_lightning.balancing.pcd import PCD
from mtl_lightning.balancing.pcgrad import PCGrad
from mtl_lightning.balancing.random_weighting import RandomWeighting
from mtl_lightning.balancing.sdmgrad import SDMGrad
from mtl_lightning.balancing.stch import STCH
from mtl_lightning.balancing.torchjd import TorchJD
from mtl_lightning.balancing.uncertainty import UncertaintyWeighting
from mtl_lightning.balancing.upgrad import DualProj, UPGrad
from mtl_lightning.balancing.uwso import UWSO

__all__ = [
    "CRMOGM",
    "DBMTL",
    "DWA",
    "FAMO",
    "IMTL",
    "IMTLG",
    "IMTLL",
    "MGDA",
    "PCD",
    "STCH",
    "UWSO",
    "AlignedMTL",
    "AutoLambda",
    "Balancer",
    "CAGrad",
    "CosineGating",
    "DualProj",
    "EMANormalization",
    "ExcessMTL",
    "FairGrad",
    "FixedWeighting",
    "GeometricMean",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "GradientNormBalancing",
    "LogLosses",
    "MetaBalance",
    "MoCo",
    "MoDo",
    "NashMTL",
    "PCGrad",
    "RandomWeighting",
    "SDMGrad",
    "TorchJD",
    "UPGrad",
    "UncertaintyWeighting",
]
