"""How much each task counts, chosen once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtl_lightning.types import ConfigurationError


class Preferences(nn.Module):
    """One number per task, or equal shares of the tasks that are present.

    Args:
        num_tasks: T.
        values: (T,) numbers that are not negative and not all 0; None for equal shares.
        owner: who asks, for errors.

    Raises:
        ConfigurationError: for other values.
    """

    values: Tensor

    def __init__(self, num_tasks: int, values: Sequence[float] | None, owner: str) -> None:
        super().__init__()
        self.equal = values is None
        numbers = [1.0] * num_tasks if values is None else [float(value) for value in values]
        valid = len(numbers) == num_tasks and all(0 <= n < math.inf for n in numbers) and any(numbers)
        if not valid:
            raise ConfigurationError(
                f"{owner}: expected `pref_vector` to be {num_tasks} finite numbers, none negative and not all 0, found "
                f"{numbers}."
            )
        self.register_buffer("values", torch.tensor(numbers, dtype=torch.float64), persistent=False)

    def among(self, present: Tensor, like: Tensor) -> Tensor:
        """Return the numbers (P,) of the present tasks, of which there are as many as ``like`` has rows."""
        if self.equal:
            return like.new_full((len(like),), 1 / len(like))
        values = self.values if len(like) == len(self.values) else self.values[present]
        return values.to(like)
