"""Random numbers that are a function of a seed and the number of updates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class SeededGenerator(nn.Module):
    """Source of a balancer's random numbers: the same on every process, for every micro-batch, and after a resume.

    Nothing is drawn from torch's global state. A balancer draws with :meth:`normal` or :meth:`uniform`, any number of
    times with the same result, and calls :meth:`advance` after each update.

    Args:
        seed: an integer; by default the one that torch was seeded with. Core makes it equal on all processes.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed = torch.initial_seed() % 2**31 if seed is None else int(seed)
        self.updates = 0

    def normal(self, *shape: int, like: Tensor) -> Tensor:
        """Return standard normal numbers of a shape, with the dtype and device of ``like``."""
        return torch.randn(shape, generator=self._generator(), dtype=torch.float64).to(like)

    def uniform(self, *shape: int, like: Tensor) -> Tensor:
        """Return numbers in [0, 1) of a shape, with the dtype and device of ``like``."""
        return torch.rand(shape, generator=self._generator(), dtype=torch.float64).to(like)

    def advance(self) -> None:
        """Go on to the next update."""
        self.updates += 1

    @contextmanager
    def forked(self, device: torch.device) -> Iterator[None]:
        """Seed torch's global state, for code that draws from it, on the CPU and a device; leave it as it was."""
        others = [] if device.type in ("cpu", "meta") else [device]
        with torch.random.fork_rng(others, device_type=device.type if others else "cuda"):
            seed = self._generator().initial_seed()
            torch.default_generator.manual_seed(seed)
            if others:
                torch.get_device_module(device).manual_seed(seed)
            yield

    def get_extra_state(self) -> dict[str, int]:
        """Return what a checkpoint keeps."""
        return {"seed": self.seed, "updates": self.updates}

    def set_extra_state(self, state: Any) -> None:
        """Take up what a checkpoint kept."""
        self.seed, self.updates = int(state["seed"]), int(state["updates"])

    def _generator(self) -> torch.Generator:
        mixed = hashlib.sha256(f"{self.seed} {self.updates}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(mixed[:8], "big", signed=True))
