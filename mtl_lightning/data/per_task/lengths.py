"""How many batches a loader has that is combined with others, and which loaders cannot be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any, cast

import torch.distributed as dist
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, DistributedSampler

from mtl_lightning.types import ConfigurationError


def length_of(name: str, loader: Iterable[Any]) -> int:
    """Return the number of batches of a loader that may be combined with others."""
    if isinstance(loader, list | tuple | Mapping | CombinedLoader):
        raise ConfigurationError(
            f"PerTaskLoader, {name!r}: expected one loader, found a {type(loader).__name__} of several. Give each a "
            "name of its own."
        )
    length = _found(loader)
    if length is None:
        kind, dataset = type(loader).__name__, getattr(loader, "dataset", None)
        kind, owner = (
            (kind, kind) if dataset is None else (f"{kind} of {type(dataset).__name__}", type(dataset).__name__)
        )
        raise ConfigurationError(
            f"PerTaskLoader, {name!r}: expected a loader with a length, found {kind}: how many steps an epoch has "
            f"must be known. Give {owner} a `__len__` that is exact, or use a map dataset."
        )
    if length < 1:
        raise ConfigurationError(f"PerTaskLoader, {name!r}: expected at least one batch, found none.")
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if several and isinstance(loader, DataLoader) and not isinstance(loader.sampler, DistributedSampler):
        raise ConfigurationError(
            f"PerTaskLoader, {name!r}: expected a loader that gives each process its share of the rows, found a "
            f"DataLoader with {type(loader.sampler).__name__}. Make it a ResumableLoader, or give it a "
            "DistributedSampler."
        )
    return length


def _found(loader: object) -> int | None:
    """Return the number of batches of a loader; None if it does not know."""
    try:
        return len(cast("Sized", loader))
    except (
        TypeError,
        NotImplementedError,
    ):  # of a DataLoader over an IterableDataset, which has the method all the same
        return None
