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

The names here are the ones to use: files may move. Inside, each imports only from below itself::

    datasets        one file per datamodule, TableData among them
    per_task  |  streaming      several datamodules as one  |  tables larger than memory
                 table          columns, schema, encoding, files and splits of a table
    base            the data contract: splits, tasks, sizes and the schema
    loader  saved   batches in an order that can be resumed  |  a datamodule that a checkpoint rebuilds
    rows            the rows of a split as the loader fetches them
    seeding  files  archives    random numbers by (seed, epoch)  |  downloads  |  unpacking
"""

from mtl_lightning.data import datasets
from mtl_lightning.data.base import MultiTaskDataModule, Split, TaskFactory, TaskOverrides
from mtl_lightning.data.datasets import *  # noqa: F403  # so that a new dataset is one line, in that package
from mtl_lightning.data.loader import EpochSampler, ResumableLoader
from mtl_lightning.data.per_task import (
    PerTaskData,
    PerTaskLoader,
    ProportionalSampling,
    RoundRobinSampling,
    Sampling,
    TemperatureSampling,
    UniformSampling,
)
from mtl_lightning.data.rows import BatchRows, TensorRows
from mtl_lightning.data.streaming import Streaming, StreamLoader
from mtl_lightning.data.table import (
    DateColumn,
    ListColumn,
    TableColumns,
    TableEncoder,
    TableFitter,
    TableSplit,
    TargetColumn,
    TextColumn,
)

__all__ = [
    "BatchRows",
    "DateColumn",
    "EpochSampler",
    "ListColumn",
    "MultiTaskDataModule",
    "PerTaskData",
    "PerTaskLoader",
    "ProportionalSampling",
    "ResumableLoader",
    "RoundRobinSampling",
    "Sampling",
    "Split",
    "StreamLoader",
    "Streaming",
    "TableColumns",
    "TableEncoder",
    "TableFitter",
    "TableSplit",
    "TargetColumn",
    "TaskFactory",
    "TaskOverrides",
    "TemperatureSampling",
    "TensorRows",
    "TextColumn",
    "UniformSampling",
]
__all__ += datasets.__all__
