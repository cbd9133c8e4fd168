"""Targets under other names, for datasets that call different tasks the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any, TypeAlias, cast

TargetNames: TypeAlias = Mapping[str, list[str]]  # {a target's key: its new keys}


def renamed(batch: Any, names: TargetNames) -> Any:
    """Return a batch with its targets, and sample weights by task, under new names; inputs stay the same object.

    Args:
        batch: a :class:`~mtl_lightning.types.Batch`; anything else is returned as it is.
        names: the new keys of each key; with an empty list the target is left out. Keys that are not in it stay.
    """
    if not isinstance(batch, Mapping):
        return batch
    per_task = [key for key in ("targets", "weights") if isinstance(batch.get(key), Mapping)]
    return {
        **batch,
        **{key: {new: v for old, v in batch[key].items() for new in names.get(old, [old])} for key in per_task},
    }


class RenamedLoader(Iterable[Any]):
    """A loader whose batches are :func:`renamed`, and which is otherwise the one it is made from.

    Args:
        loader: gives the batches.
        names: as in :func:`renamed`.
    """

    def __init__(self, loader: Iterable[Any], names: TargetNames) -> None:
        self.loader, self.names = loader, dict(names)

    def __iter__(self) -> Iterator[Any]:
        return (renamed(batch, self.names) for batch in self.loader)

    def __len__(self) -> int:
        return len(cast("Sized", self.loader))

    @property
    def sampler(self) -> Any:
        """What Lightning tells the epoch."""
        return getattr(self.loader, "sampler", None)

    @property
    def batch_sampler(self) -> Any:
        """Likewise, for loaders whose order is made there."""
        return getattr(self.loader, "batch_sampler", None)
