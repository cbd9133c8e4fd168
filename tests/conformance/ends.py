"""A program of two processes that says, when all else is over, whether a process group was left behind.

``python -m tests.conformance.ends WAY``, with a way of :data:`WAYS`: it trains twice and predicts, with the trainer's
own group or one that was there before; or its second process fails between the two trainings.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any

import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy

from tests.helpers import TinyData, fit, make_module, make_trainer

WAYS = {"runs": 0, "a group of the user's": 0, "a failure": 1}
"""And the status of the second process."""


def say_what_is_left() -> None:
    """Runs last: handlers run in the reverse of their order."""
    sys.stdout.write(f"group: {dist.is_initialized()}\n")


def main(way: str) -> None:
    """Train, train again, predict."""
    atexit.register(say_what_is_left)
    if way == "a group of the user's":
        dist.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=2)
    module = make_module()
    options: dict[str, Any] = {"devices": 2, "max_steps": 1, "precision": "32-true"}
    fit(module, TinyData(), strategy=DDPStrategy(process_group_backend="gloo"), **options)
    assert dist.is_initialized()
    if way == "a failure" and os.environ["LOCAL_RANK"] == "1":
        raise ValueError("for the test")
    fit(module, TinyData(), strategy=DDPStrategy(process_group_backend="gloo"), **options)
    make_trainer(strategy=DDPStrategy(process_group_backend="gloo"), **options).predict(module, TinyData())
    assert dist.is_initialized()


if __name__ == "__main__":
    main(sys.argv[1])
