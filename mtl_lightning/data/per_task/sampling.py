"""Which of several datasets the next batch is taken from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from mtl_lightning.describe import Described


class Sampling(Described, ABC):
    """A policy that gives every step of an epoch one of N datasets.

    The draws are a function of the generator, which is seeded with (seed, epoch): all processes draw alike, and so does
    a run that is resumed.
    """

    @abstractmethod
    def draw(self, batches: Sequence[int], steps: int, generator: torch.Generator) -> Tensor:
        """Return the dataset (steps,) int64 of each step.

        Args:
            batches: the number of batches of each dataset.
            steps: the number of steps of the epoch.
            generator: the only source of random numbers to use.
        """


class RoundRobinSampling(Sampling):
    """One dataset after the other, in turn: a, b, c, a, b, c, ..."""

    def draw(self, batches: Sequence[int], steps: int, generator: torch.Generator) -> Tensor:
        """Return 0, 1, ..., N - 1, 0, 1, ... (steps,)."""
        return torch.arange(steps) % len(batches)


class UniformSampling(Sampling):
    """Each dataset with probability 1 / N, whatever its size."""

    def draw(self, batches: Sequence[int], steps: int, generator: torch.Generator) -> Tensor:
        """Return independent draws (steps,)."""
        return torch.randint(len(batches), (steps,), generator=generator)


class ProportionalSampling(Sampling):
    """Each dataset as often as it has batches: all batches of all datasets once, in a random order.

    In an epoch of the usual length every row is seen exactly once. A longer epoch goes through new orders, a shorter
    one sees the beginning of an order.
    """

    def draw(self, batches: Sequence[int], steps: int, generator: torch.Generator) -> Tensor:
        """Return shuffled owners (steps,) of the batches."""
        owners = torch.repeat_interleave(torch.arange(len(batches)), torch.tensor(batches))
        rounds = -(-steps // len(owners))
        orders = [owners[torch.randperm(len(owners), generator=generator)] for _ in range(rounds)]
        return torch.cat(orders)[:steps]


class TemperatureSampling(Sampling):
    r"""Dataset i with probability :math:`p_i = n_i^{1/T} / \sum_j n_j^{1/T}`, where :math:`n_i` is its number of
    batches.

    Small datasets are drawn more often than their share for T > 1: T = 1 is in proportion to the sizes (independent
    draws, unlike :class:`ProportionalSampling`), and T = inf is uniform. `Exploring the Limits of Transfer Learning
    with a Unified Text-to-Text Transformer <https://arxiv.org/abs/1910.10683>`_ (Raffel et al., 2020), section 3.5.2.

    Departure: the paper counts rows and cuts large sizes off at a limit; here sizes are counted in batches, of which a
    step takes one, and nothing is cut off.

    Args:
        temperature: T, above 0; the paper tries 2, 4 and 8.

    Raises:
        ConfigurationError: for a temperature that is not above 0.
    """

    def __init__(self, temperature: float = 2.0) -> None:
        self.temperature = temperature

    def probabilities(self, batches: Sequence[int]) -> Tensor:
        """Return the p_i (N,), float64."""
        return torch.softmax(torch.tensor(batches, dtype=torch.float64).log() / self.temperature, 0)

    def draw(self, batches: Sequence[int], steps: int, generator: torch.Generator) -> Tensor:
        """Return independent draws (steps,)."""
        return torch.multinomial(self.probabilities(batches), steps, replacement=True, generator=generator)
