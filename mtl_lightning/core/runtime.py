"""All that an update knows of Lightning: processes, precision, the loss scale, backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from mtl_lightning.core.host_group import can_sum, host_sum
from mtl_lightning.core.spectators import Spectator
from mtl_lightning.types import Batch

LARGE = 1 << 18
"""From so many numbers on, a tensor is summed over processes by itself: to copy it costs more than another message."""
_BY_TORCH = (DDPStrategy.reduce, ModelParallelStrategy.reduce)


class Shortcut(Protocol):
    """What leaves out of Lightning's ways what nobody listens to; each method is False where it did nothing."""

    def start(self, allowed: bool) -> None:
        """Look whether there is a short way."""

    def backward(self, loss: Tensor) -> bool:
        """Go back from a loss ()."""

    def deliver(self, gradients: Sequence[tuple[nn.Parameter, Tensor]]) -> bool:
        """Leave gradients in ``.grad`` without a backward."""

    def step(self, optimizer: LightningOptimizer) -> bool:
        """Step an optimizer."""

    def clear_gradients(self, optimizer: Optimizer, clear: Callable[[], Any]) -> bool:
        """Clear the gradients."""


class Runtime:
    """Where and how a module runs: the one place to look at for another precision or strategy.

    Args:
        module: a module that uses manual optimization; its trainer is looked at when it is needed.
        shortcut: a short way of backward and step, if there is one.
    """

    def __init__(self, module: LightningModule, shortcut: Shortcut | None = None) -> None:
        self._module, self._shortcut = module, shortcut
        self._alone = False  # in a fit of one process that scales nothing, which need not be asked each time
        self._mask_of: tuple[tuple[bool, ...], torch.device | None] = ((), None)
        self._mask = torch.ones(0, dtype=torch.bool)
        self._frozen_at_start: list[nn.Parameter] = []

    @property
    def trainer(self) -> Trainer:
        """Lightning's trainer."""
        return self._module.trainer

    @property
    def device(self) -> torch.device:
        """The module's device."""
        return self._module.device

    @property
    def fast_paths(self) -> bool:
        """Whether what gives the same numbers may be computed in faster ways than the plain one."""
        return bool(self._module.fast_paths)

    @property
    def went_through_all_data(self) -> bool:
        """Whether the epoch that ends was not cut short."""
        trainer = self.trainer
        whole = trainer.is_last_batch and trainer.limit_train_batches == 1.0
        return whole and not trainer.fast_dev_run  # type: ignore[attr-defined]  # set outside its __init__

    # ------------------------------------------------------------------------------------------------------- precision
    @property
    def scaler(self) -> Any:
        """The gradient scaler of 16-mixed precision, or None."""
        if self._alone:
            return None
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def loss_scale(self) -> Tensor | float:
        """Return what the gradient scaler multiplies losses by; 1 without one."""
        return 1.0 if self.scaler is None else cast("Tensor", self.scaler.scale(torch.ones((), device=self.device)))

    def full_precision(self) -> AbstractContextManager[Any]:
        """Switch autocast off, where it is on: losses and what follows from them are never below float32."""
        if self.fast_paths and not torch.is_autocast_enabled(self.device.type):
            return nullcontext()
        return torch.autocast(self.device.type, enabled=False)

    # ------------------------------------------------------------------------------------------------------- processes
    @property
    def world_size(self) -> int:
        """The number of processes; 1 without a trainer."""
        return 1 if self._alone or self._module._trainer is None else self.trainer.world_size

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return self._module.global_rank

    @property
    def waits_for_every_parameter(self) -> bool:
        """Whether a backward has to reach every trained parameter: DDP waits for a gradient of each."""
        return not self._alone and isinstance(self.trainer.strategy, DDPStrategy)

    @property
    def shards_parameters(self) -> bool:
        """Whether parameters are shared out over the processes (FSDP2)."""
        return not self._alone and isinstance(self.trainer.strategy, ModelParallelStrategy)

    def start_afresh(self) -> None:
        """Forget how a fit ran: a trainer is about to begin something, or another one."""
        self._alone = False

    def start(self) -> None:
        """Look how it runs; remember what is frozen when DDP wraps the module, which it never looks at again."""
        if self._shortcut is not None:
            self._shortcut.start(self.fast_paths)
        self._alone = False
        single = type(self.trainer.strategy) is SingleDeviceStrategy
        self._alone = self.fast_paths and single and self.scaler is None
        self._frozen_at_start = [p for p in self._module.parameters() if not p.requires_grad]

    @property
    def left_out_by_ddp(self) -> list[nn.Parameter]:
        """The parameters whose gradients DDP leaves as each process computed them."""
        return self._frozen_at_start if self.waits_for_every_parameter else []

    def all_sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.world_size == 1:
            return tensor
        if self._sums_by_torch:
            (found,) = sum_by_torch([tensor.clone()])
            return found
        return cast("Tensor", self.trainer.strategy.reduce(tensor.clone(), reduce_op="sum"))

    def sum_on_host(self, numbers: np.ndarray[Any, np.dtype[np.float64]]) -> bool:
        """Sum numbers of the host over all processes, in place; False, on all of them, if there is no way to do so.

        There is none where processes share parameters out, which may not all see different rows.
        """
        if self.world_size == 1:
            return True
        possible = self._sums_by_torch and isinstance(self.trainer.strategy, DDPStrategy) and can_sum()
        if possible:
            host_sum(numbers)
        return possible

    def anywhere(self, flag: bool) -> bool:
        """Return whether any process says so."""
        return flag if self.world_size == 1 else bool(self.all_sum(torch.tensor(float(flag), device=self.device)))

    def summed(self, tensors: Sequence[Tensor], owned: int = 0) -> list[Tensor]:
        """Return tensors summed over all processes, in one flat all-reduce; large ones, on a fast path, as they lie.

        Args:
            tensors: of the same shapes on every process.
            owned: how many of them, from the first, may be written over.
        """
        if self.world_size == 1 or not tensors:
            return [*tensors]
        if not self._sums_by_torch:
            return unflattened(self.all_sum(flattened(tensors)), tensors)
        found = {
            index: tensor.contiguous() if index < owned else tensor.clone(memory_format=torch.contiguous_format)
            for index, tensor in enumerate(tensors)
            if tensor.numel() >= LARGE
        }
        small = {index: tensor for index, tensor in enumerate(tensors) if index not in found}
        flat = [flattened([*small.values()])] if small else []
        sum_by_torch([*found.values(), *flat])
        if small:
            found |= zip(small, unflattened(flat[0], [*small.values()]), strict=True)
        return [found[index] for index in range(len(tensors))]

    @property
    def _sums_by_torch(self) -> bool:
        """Whether sums may go past the strategy, which makes all processes wait for each other before each.

        That of Lightning sums by ``torch.distributed`` all the same; one that does anything else is asked.
        """
        strategy: Any = self.trainer.strategy
        return self.fast_paths and type(strategy).reduce in _BY_TORCH and torch.distributed.is_initialized()

    def mask(self, present: tuple[bool, ...]) -> Tensor:
        """Return which tasks are present as a tensor (T,) bool on the module's device, made once per answer."""
        if (present, self.device) != self._mask_of:
            self._mask_of, self._mask = (present, self.device), torch.tensor(present, device=self.device)
        return self._mask

    def to_device(self, batch: Any) -> Any:
        """Return a batch on the module's device; as it is without a trainer."""
        return batch if self._module._trainer is None else self.trainer.strategy.batch_to_device(batch)

    # ------------------------------------------------------------------------------------------------------- callbacks
    def show(self, stage: str, batch: Batch, outputs: Mapping[str, Tensor], dataloader_idx: int) -> None:
        """Show a batch of an evaluation to the spectators among the callbacks; none of a check before the start."""
        trainer = self.trainer
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set outside its __init__
            if isinstance(callback, Spectator) and not trainer.sanity_checking:
                callback.see(self._module, stage, batch, outputs, dataloader_idx)

    # ----------------------------------------------------------------------------------------------- backward and step
    def no_gradient_sync(self) -> AbstractContextManager[Any]:
        """Keep processes from summing gradients in the middle of a window."""
        block = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        return cast("AbstractContextManager[Any]", block())

    def backward(self, loss: Tensor) -> None:
        """Go back from a loss (), with Lightning's hooks and its gradient scaler."""
        if self._shortcut is None or not self._shortcut.backward(loss):
            self._module.manual_backward(loss)

    def deliver(self, gradients: Sequence[tuple[nn.Parameter, Tensor]]) -> bool:
        """Leave gradients in ``.grad`` as a backward would; False, with nothing done, where it has to be one."""
        return self._shortcut is not None and self._shortcut.deliver(gradients)

    def step(self, optimizer: LightningOptimizer) -> None:
        """Step an optimizer, with Lightning's hooks, its gradient scaler and its counters."""
        if self._shortcut is None or not self._shortcut.step(optimizer):
            optimizer.step()

    def clear_gradients(self, optimizer: Optimizer, clear: Callable[[], Any]) -> None:
        """Clear the gradients with the hooks of automatic optimization, and as late: callbacks read them.

        Args:
            optimizer: what the hooks are told.
            clear: clears them.
        """
        if self._shortcut is not None and self._shortcut.clear_gradients(optimizer, clear):
            return
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]  # set outside its __init__
            callback.on_before_zero_grad(self.trainer, self._module, optimizer)
        self._module.on_before_zero_grad(optimizer)
        clear()


def flattened(tensors: Sequence[Tensor]) -> Tensor:
    """Return all numbers of some tensors, one after the other."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflattened(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return numbers in the shapes and dtypes of the tensors that they came from."""
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [piece.view_as(tensor).to(tensor.dtype) for piece, tensor in zip(pieces, tensors, strict=True)]


def sum_by_torch(tensors: list[Tensor]) -> list[Tensor]:
    """Sum tensors over all processes, in place and all at once."""
    works = [torch.distributed.all_reduce(tensor, async_op=True) for tensor in tensors]
    for work in works:
        work.wait()
    return tensors
