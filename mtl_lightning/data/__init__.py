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
"""

from mtl_lightning.data.base import MultiTaskDataModule, Split, TaskFactory, TaskOverrides
from mtl_lightning.data.loader import EpochSampler, ResumableLoader
from mtl_lightning.data.multidigit import MultiDigit
from mtl_lightning.data.rows import BatchRows, TensorRows
from mtl_lightning.data.synthetic import SyntheticRegression
from mtl_lightning.data.toy import TwoTaskLandscape

__all__ = [
    "BatchRows",
    "EpochSampler",
    "MultiDigit",
    "MultiTaskDataModule",
    "ResumableLoader",
    "Split",
    "SyntheticRegression",
    "TaskFactory",
    "TaskOverrides",
    "TensorRows",
    "TwoTaskLandscape",
]
