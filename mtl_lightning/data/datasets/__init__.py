"""Datamodules, one file each: real datasets, made ones, and tables of one's own.

>>> from mtl_lightning.data import SyntheticFunnel
>>> data = SyntheticFunnel(n=1000)
>>> list(data.tasks), len(data.train_dataloader())
(['click', 'conversion', 'click_and_conversion'], 4)

A new dataset is a file here, and one line here: :mod:`mtl_lightning.data` exports whatever is in this ``__all__``.
What several datasets share is in ``images`` (pictures in image files), ``idx`` (MNIST's format), ``dense`` (pictures
with maps of labels) and ``packaged`` (files of a Python package).
"""

from mtl_lightning.data.datasets.celeba import CelebA
from mtl_lightning.data.datasets.census_income import CensusIncome
from mtl_lightning.data.datasets.cityscapes import Cityscapes
from mtl_lightning.data.datasets.correlated import CorrelatedRegression
from mtl_lightning.data.datasets.flights import Flights
from mtl_lightning.data.datasets.funnel import SyntheticFunnel
from mtl_lightning.data.datasets.multidigit import MultiDigit
from mtl_lightning.data.datasets.multimnist import MultiFashion, MultiMNIST
from mtl_lightning.data.datasets.nyuv2 import NYUv2
from mtl_lightning.data.datasets.office import Office
from mtl_lightning.data.datasets.office_domain import OfficeDomain
from mtl_lightning.data.datasets.qm9 import QM9
from mtl_lightning.data.datasets.synthetic import SyntheticRegression
from mtl_lightning.data.datasets.synthetic_shapes import SyntheticShapes
from mtl_lightning.data.datasets.table import TableData
from mtl_lightning.data.datasets.toy import TwoTaskLandscape

__all__ = [
    "QM9",
    "CelebA",
    "CensusIncome",
    "Cityscapes",
    "CorrelatedRegression",
    "Flights",
    "MultiDigit",
    "MultiFashion",
    "MultiMNIST",
    "NYUv2",
    "Office",
    "OfficeDomain",
    "SyntheticFunnel",
    "SyntheticRegression",
    "SyntheticShapes",
    "TableData",
    "TwoTaskLandscape",
]
