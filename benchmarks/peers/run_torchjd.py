"""torchjd by hand on Census-Income: a plain PyTorch loop whose gradients an aggregator combines."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

import torch
from census import BATCH, EMBEDDING, EPOCHS, RATE, TOWER, TRUNK, auc, codes, read
from record import TASKS, TEST, TRAINING, run
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchjd.aggregation import Sum
from torchjd.autojac import jac_to_grad, mtl_backward


class Trunk(nn.Module):
    """Embeds the categories, and maps them and the numbers to features."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, EMBEDDING) for size in sizes)
        wide = len(sizes) * EMBEDDING + 7
        self.layers = nn.Sequential(nn.Linear(wide, TRUNK[0]), nn.ReLU(), nn.Linear(TRUNK[0], TRUNK[1]), nn.ReLU())

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        """Map codes (B, 31) and numbers (B, 7) to features (B, 128)."""
        embedded = [embed(column) for embed, column in zip(self.embeddings, categories.unbind(1), strict=True)]
        features: Tensor = self.layers(torch.cat([*embedded, numbers], dim=1))
        return features


def job(options: Namespace, phase: Callable[[str], None]) -> dict[str, float]:
    """Load, train and test."""
    torch.manual_seed(options.seed)
    encoded, sizes = codes(read(options.root))
    rows = {split: [torch.from_numpy(array) for array in arrays] for split, arrays in encoded.items()}
    trunk = Trunk(sizes)
    if options.embeddings == "small":
        for embed in trunk.embeddings:
            nn.init.normal_(embed.weight, std=0.01)
    heads = nn.ModuleList(nn.Sequential(nn.Linear(TRUNK[1], TOWER), nn.ReLU(), nn.Linear(TOWER, 1)) for _ in TASKS)
    optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=RATE)

    def evaluate(split: str) -> dict[str, float]:
        categories, numbers, labels = rows[split]
        with torch.no_grad():
            batches = zip(categories.split(BATCH), numbers.split(BATCH), strict=True)
            outputs = [
                torch.cat([head(features) for head in heads], dim=1) for features in (trunk(*b) for b in batches)
            ]
        scores = torch.cat(outputs)
        return {task: auc(labels[:, t].numpy(), scores[:, t].numpy()) for t, task in enumerate(TASKS)}

    phase(TRAINING)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(rows["train"][0])).split(BATCH):
            categories, numbers, labels = (part[chosen] for part in rows["train"])
            features = trunk(categories, numbers)
            losses = [
                binary_cross_entropy_with_logits(head(features)[:, 0], labels[:, t]) for t, head in enumerate(heads)
            ]
            optimizer.zero_grad()
            mtl_backward(losses, features=features)
            jac_to_grad(trunk.parameters(), Sum())
            optimizer.step()
        print(evaluate("val"))
    phase(TEST)
    return evaluate("test")


if __name__ == "__main__":
    run(job, "torchjd by hand", ["torchjd"], (("embeddings", ["torch's", "small"]),))
