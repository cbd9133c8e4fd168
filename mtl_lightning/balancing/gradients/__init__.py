"""Gradient balancers: methods that see one gradient per task, or these gradients' inner products, and combine them.

Rows (P, D) are the gradients of the P tasks that are present with respect to D shared parameters:

>>> import torch
>>> from mtl_lightning.balancing import PCGrad
>>> rows, present = torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), torch.tensor([True, True])
>>> PCGrad(2).gradient(rows, torch.tensor([1.0, 4.0]), present)
tensor([0.5000, 1.5000])

A new method is one file here, a subclass of :class:`~mtl_lightning.balancing.rows.GramianBalancer` where the inner
products are all that it needs, else of :class:`~mtl_lightning.balancing.rows.GradientBalancer`; and its name in
``__all__``, from where :mod:`mtl_lightning.balancing` takes it.
"""

from mtl_lightning.balancing.gradients.aligned_mtl import AlignedMTL
from mtl_lightning.balancing.gradients.cagrad import CAGrad
from mtl_lightning.balancing.gradients.cosine_gating import CosineGating
from mtl_lightning.balancing.gradients.cr_mogm import CRMOGM
from mtl_lightning.balancing.gradients.db_mtl import DBMTL
from mtl_lightning.balancing.gradients.excess_mtl import ExcessMTL
from mtl_lightning.balancing.gradients.fairgrad import FairGrad
from mtl_lightning.balancing.gradients.graddrop import GradDrop
from mtl_lightning.balancing.gradients.gradient_norm import GradientNormBalancing
from mtl_lightning.balancing.gradients.gradnorm import GradNorm
from mtl_lightning.balancing.gradients.gradvac import GradVac
from mtl_lightning.balancing.gradients.imtl import IMTL
from mtl_lightning.balancing.gradients.imtl_g import IMTLG
from mtl_lightning.balancing.gradients.metabalance import MetaBalance
from mtl_lightning.balancing.gradients.mgda import MGDA
from mtl_lightning.balancing.gradients.moco import MoCo
from mtl_lightning.balancing.gradients.modo import MoDo
from mtl_lightning.balancing.gradients.nash_mtl import NashMTL
from mtl_lightning.balancing.gradients.pcd import PCD
from mtl_lightning.balancing.gradients.pcgrad import PCGrad
from mtl_lightning.balancing.gradients.sdmgrad import SDMGrad
from mtl_lightning.balancing.gradients.upgrad import DualProj, UPGrad

__all__ = [
    "CRMOGM",
    "DBMTL",
    "IMTL",
    "IMTLG",
    "MGDA",
    "PCD",
    "AlignedMTL",
    "CAGrad",
    "CosineGating",
    "DualProj",
    "ExcessMTL",
    "FairGrad",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "GradientNormBalancing",
    "MetaBalance",
    "MoCo",
    "MoDo",
    "NashMTL",
    "PCGrad",
    "SDMGrad",
    "UPGrad",
]
