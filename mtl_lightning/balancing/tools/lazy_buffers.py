"""State of a balancer whose width is known only once rows have been seen."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mtl_lightning.types import MtlLightningWarning


class LazyBuffers(nn.Module):
    """Mixin of a balancer with buffers (T, ..., W): W, such as the length D of a row, is 0 until the first update.

    A checkpoint brings its own width along. If W changes in the middle of training, because parameters were frozen or
    unfrozen, entries of the state no longer belong to entries of the rows: all state starts afresh, with a warning.

    Attributes:
        lazy: names of these buffers, which a subclass registers with W = 0, for :meth:`widen` to fill with 0.
    """

    lazy: ClassVar[tuple[str, ...]] = ()

    def widen(self, width: int, like: Tensor) -> None:
        """Give the lazy buffers W = ``width``, and the device and dtype (float32 or better) of ``like``."""
        found = getattr(self, self.lazy[0]).shape[-1]
        if found == width:
            return
        if found:
            warnings.warn(
                f"{type(self).__name__}: expected rows that fit its state of width {found}, as before, found {width}, "
                "since parameters were frozen or unfrozen; its state starts afresh.",
                MtlLightningWarning,
                stacklevel=2,
            )
            self.restart()
        dtype = torch.promote_types(like.dtype, torch.float32)
        for name in self.lazy:
            shape = (*getattr(self, name).shape[:-1], width)
            setattr(self, name, torch.zeros(shape, dtype=dtype, device=like.device))

    def restart(self) -> None:
        """Give the other buffers the values of a fresh instance."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Take on the width that a checkpoint has, before torch compares shapes."""
        for name in self.lazy:
            mine, loaded = getattr(self, name), state_dict.get(prefix + name)
            if isinstance(loaded, Tensor) and mine.shape[:-1] == loaded.shape[:-1] and mine.shape != loaded.shape:
                setattr(self, name, torch.zeros(loaded.shape, dtype=loaded.dtype, device=mine.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
