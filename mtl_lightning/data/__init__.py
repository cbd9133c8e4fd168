"""Where batches come from: datamodules that declare their tasks, and a loader that can be resumed and shared out.

A datamodule knows its tasks and the size of its inputs before training starts, so nothing has to repeat them:

>>> from mtl_lightning.data import SyntheticRegression
>>> data = SyntheticRegression(n=1000, batch_size=250)
>>> list(data.tasks), data.input_spec.shape
(['y1', 'y2'], (1,))
>>> loader = data.train_dataloader()
>>> batch = next(iter(loader))
>>> len(loader), batch["inputs"].shape, batch["targets"]["y1"].shape
(4, torch.Size([250, 1]), torch.Size([250]))

A dataset of your own is a subclass of :class:`MultiTaskDataModule` with three methods: ``read_schema`` (what is fitted
on the training split, as plain data), ``declared_tasks`` and ``rows``.

Several datasets, one per task or per domain, are one with :class:`PerTaskData`:

>>> from mtl_lightning.data import PerTaskData, TemperatureSampling
>>> several = PerTaskData({"near": data, "far": SyntheticRegression(n=4000)}, sampling=TemperatureSampling(2.0))
>>> list(several.tasks), len(several.train_dataloader())
(['near_y1', 'near_y2', 'far_y1', 'far_y2'], 44)
"""

from mtl_lightning.data.base import MultiTaskDataModule, Split, TaskFactory, TaskOverrides
from mtl_lightning.data.celeba import CelebA
from mtl_lightning.data.census_income import CensusIncome
from mtl_lightning.data.cityscapes import Cityscapes
from mtl_lightning.data.correlated import CorrelatedRegression
from mtl_lightning.data.funnel import SyntheticFunnel
from mtl_lightning.data.loader import EpochSampler, ResumableLoader
from mtl_lightning.data.multidigit import MultiDigit
from mtl_lightning.data.multimnist import MultiFashion, MultiMNIST
from mtl_lightning.data.nyuv2 import NYUv2
from mtl_lightning.data.office import Office
from mtl_lightning.data.office_domain import OfficeDomain
from mtl_lightning.data.per_task import PerTaskData
from mtl_lightning.data.per_task_loader import PerTaskLoader
from mtl_lightning.data.rows import BatchRows, TensorRows
from mtl_lightning.data.sampling import (
    ProportionalSampling,
    RoundRobinSampling,
    Sampling,
    TemperatureSampling,
    UniformSampling,
)
from mtl_lightning.data.stream import StreamLoader
from mtl_lightning.data.stream_table import Streaming
from mtl_lightning.data.synthetic import SyntheticRegression
from mtl_lightning.data.synthetic_shapes import SyntheticShapes
from mtl_lightning.data.table import TableData
from mtl_lightning.data.table_columns import TableColumns, TargetColumn
from mtl_lightning.data.table_encoder import TableEncoder
from mtl_lightning.data.table_schema import TableFitter
from mtl_lightning.data.table_split import TableSplit
from mtl_lightning.data.toy import TwoTaskLandscape

__all__ = [
    "BatchRows",
    "CelebA",
    "CensusIncome",
    "Cityscapes",
    "CorrelatedRegression",
    "EpochSampler",
    "MultiDigit",
    "MultiFashion",
    "MultiMNIST",
    "MultiTaskDataModule",
    "NYUv2",
    "Office",
    "OfficeDomain",
    "PerTaskData",
    "PerTaskLoader",
    "ProportionalSampling",
    "ResumableLoader",
    "RoundRobinSampling",
    "Sampling",
    "Split",
    "StreamLoader",
    "Streaming",
    "SyntheticFunnel",
    "SyntheticRegression",
    "SyntheticShapes",
    "TableColumns",
    "TableData",
    "TableEncoder",
    "TableFitter",
    "TableSplit",
    "TargetColumn",
    "TaskFactory",
    "TaskOverrides",
    "TemperatureSampling",
    "TensorRows",
    "TwoTaskLandscape",
    "UniformSampling",
]
