"""What the tests of devices train: a tiny network on batches some of whose tasks and labels are missing."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
    live = _Live()
    with live:
        run()
    return live.peak


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Adds up the bytes of what operations made and is still there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        known = {value.untyped_storage()._cdata for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        for value in tree_leaves(results):
            if isinstance(value, Tensor) and value.untyped_storage()._cdata not in known | self.sizes.keys():
                self._add(value.untyped_storage())
        return results

    def _add(self, storage: torch.UntypedStorage) -> None:
        self.sizes[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, storage._cdata)

    def _remove(self, storage: int) -> None:
        self.now -= self.sizes.pop(storage)
