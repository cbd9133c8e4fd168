"""What the tests of devices train: a tiny network on batches some of whose tasks and labels are missing."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, MTAN, PLE, BatchNorm, MMoE, SharedBottom
from mtl_lightning.types import Batch
from tests.helpers import fit, make_batches, make_module, with_gaps, without

ENCODER = partial(MLP, hidden=[8, 6], activation=nn.Tanh, norm=BatchNorm)
ARCHITECTURES: dict[str, Any] = {
    "SharedBottom": partial(SharedBottom, encoder=ENCODER),
    "MMoE": partial(MMoE, encoder=ENCODER, num_experts=2),
    "PLE": partial(PLE, encoder=ENCODER),
    "MTAN": partial(MTAN, encoder=ENCODER),
    "MMoE without norms": partial(MMoE, encoder=partial(MLP, hidden=[8, 6], activation=nn.Tanh), num_experts=2),
}


def batches(number: int = 6) -> list[Batch]:
    """With gaps, the second without a task."""
    made = with_gaps(make_batches(number, rows=12), share=0.2)
    return [made[0], without(made[1], "kind"), *made[2:]]


def trained(
    device: str,
    balancer: Any,
    architecture: str = "SharedBottom",
    trainer: dict[str, Any] | None = None,
    data: list[Batch] | None = None,
    cls: type[MultiTaskModule] = MultiTaskModule,
    **options: Any,
) -> MultiTaskModule:
    """A module after two epochs on a device."""
    optimizers = {"default": partial(Adam, lr=0.01)}
    module = make_module(
        cls, balancer=balancer, architecture=ARCHITECTURES[architecture], optimizers=optimizers, **options
    )
    fit(module, batches() if data is None else data, accelerator=device, **{"max_epochs": 2, **(trainer or {})})
    return module


def state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, on the CPU."""
    saved = module.state_dict().items()
    return {name: value.detach().cpu().clone() for name, value in saved if isinstance(value, Tensor)}


def peak_growth(device: str, run: Any) -> int:
    """By how many bytes the memory of tensors grows at most while something runs."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    results: Any = profile.profiler
    now = peak = 0
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
