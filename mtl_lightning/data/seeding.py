"""Random numbers that are a function of what they are for, never of what was drawn before."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mixed_seed(*parts: int | str) -> int:
    """Return a seed in 0..2^63-1 that is a function of ``parts`` and looks unrelated for parts that are close.

    Adding numbers up instead, as ``seed + epoch``, would give epoch 1 of seed 0 the order of epoch 0 of seed 1.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_of(*parts: int | str) -> torch.Generator:
    """Return a torch generator seeded with :func:`mixed_seed` of ``parts``."""
    return torch.Generator().manual_seed(mixed_seed(*parts))


@contextmanager
def random_state_of(seed: int) -> Iterator[None]:
    """Run a block with the global CPU random states (Python, NumPy, torch) set by ``seed``; put the old ones back."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators as well
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
