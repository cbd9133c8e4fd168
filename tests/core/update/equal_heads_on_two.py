"""Trains equal heads on this process's half of the rows, with all fast paths and without; run by test_equal_heads."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy

from tests.conformance.signature import split
from tests.core.update.test_equal_heads import CASES, train


def main(folder: str) -> None:
    """Save what this process ends with."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    ended: dict[str, Any] = {}
    for name in ("complete", "absent"):
        strategy = DDPStrategy(process_group_backend="gloo")
        data = split(CASES[name], rank, world)
        if rank and name == "absent":  # the second process has none of this task
            for batch in data:
                batch["targets"]["b0"] = torch.full_like(batch["targets"]["b0"], -100)
        ended[name] = train(data, strategy=strategy, devices=world, use_distributed_sampler=False)
    torch.save(ended, f"{folder}/rank{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
