"""LibMTL on Census-Income: hard parameter sharing, equal weights, on the CPU (``libmtl_cpu.patch``)."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

import numpy as np
import torch
from census import BATCH, EMBEDDING, EPOCHS, RATE, TOWER, TRUNK, auc, codes, read
from LibMTL import Trainer
from LibMTL.loss import AbsLoss
from LibMTL.metrics import AbsMetric
from record import TASKS, TRAINING, run
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

CATEGORIES = 31


class Rows(Dataset):
    """Rows, or batches of rows where the index is a list: one tensor of codes and numbers, and the label by task."""

    def __init__(self, categories: np.ndarray, numbers: np.ndarray, labels: np.ndarray) -> None:
        self.inputs = torch.from_numpy(np.concatenate([categories.astype("float32"), numbers], axis=1))
        self.labels = {task: torch.from_numpy(labels[:, t].copy()) for t, task in enumerate(TASKS)}

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int | list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.inputs[index], {task: labels[index] for task, labels in self.labels.items()}


class BinaryLoss(AbsLoss):
    """Binary cross-entropy of one logit."""

    def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
        """Return the mean over rows."""
        return binary_cross_entropy_with_logits(pred[:, 0], gt)


class AUC(AbsMetric):
    """Area under the ROC curve over an epoch."""

    def update_fun(self, pred: Tensor, gt: Tensor) -> None:
        """Keep a batch."""
        self.record.append((pred[:, 0].detach(), gt))

    def score_fun(self) -> list[float]:
        """Return the area over what was kept."""
        scores, labels = (torch.cat(part).numpy() for part in zip(*self.record, strict=True))
        self.last = auc(labels, scores)
        return [self.last]


def job(options: Namespace, phase: Callable[[str], None]) -> dict[str, float]:
    """Load, train and test."""
    torch.manual_seed(options.seed)
    encoded, sizes = codes(read(options.root))

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings = nn.ModuleList(nn.Embedding(size, EMBEDDING) for size in sizes)
            wide = len(sizes) * EMBEDDING + 7
            self.layers = nn.Sequential(nn.Linear(wide, TRUNK[0]), nn.ReLU(), nn.Linear(TRUNK[0], TRUNK[1]), nn.ReLU())

        def forward(self, inputs: Tensor) -> Tensor:
            columns = inputs[:, :CATEGORIES].long().unbind(1)
            embedded = [embed(column) for embed, column in zip(self.embeddings, columns, strict=True)]
            features: Tensor = self.layers(torch.cat([*embedded, inputs[:, CATEGORIES:]], dim=1))
            return features

    def loader(split: str) -> DataLoader:
        rows = Rows(*encoded[split])
        if options.loader == "rows":
            return DataLoader(rows, batch_size=BATCH, shuffle=split == "train")
        order = RandomSampler(rows) if split == "train" else SequentialSampler(rows)
        return DataLoader(rows, sampler=BatchSampler(order, BATCH, drop_last=False), batch_size=None)

    tasks = {task: {"metrics": ["AUC"], "metrics_fn": AUC(), "loss_fn": BinaryLoss(), "weight": [1]} for task in TASKS}
    decoders = {task: nn.Sequential(nn.Linear(TRUNK[1], TOWER), nn.ReLU(), nn.Linear(TOWER, 1)) for task in TASKS}
    trainer = Trainer(
        task_dict=tasks, weighting="EW", architecture="HPS",
        encoder_class=Encoder, decoders=nn.ModuleDict(decoders), rep_grad=False, multi_input=False,
        optim_param={"optim": "adam", "lr": RATE}, scheduler_param=None, weight_args={}, arch_args={},
    )  # fmt: skip
    phase(TRAINING)
    trainer.train(loader("train"), loader("test"), EPOCHS, val_dataloaders=loader("val"))
    return {task: tasks[task]["metrics_fn"].last for task in TASKS}


if __name__ == "__main__":
    run(job, "LibMTL 4336804", [], (("loader", ["rows", "batches"]),))
