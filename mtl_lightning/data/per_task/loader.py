"""Batches of several datasets, side by side or one at a time, in an order that can be told and taken up again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor
from typing_extensions import Self

from mtl_lightning.data.loader import place_in_data
from mtl_lightning.data.per_task.lengths import length_of
from mtl_lightning.data.per_task.renaming import TargetNames, renamed
from mtl_lightning.data.per_task.sampling import Sampling
from mtl_lightning.data.seeding import generator_of
from mtl_lightning.describe import describe
from mtl_lightning.errors import CheckpointError
from mtl_lightning.types import ConfigurationError

Mode: TypeAlias = Literal["min_size", "max_size_cycle", "max_size", "sequential"]
_MODES = ("min_size", "max_size_cycle", "max_size", "sequential")
_PASS = 2**32  # what a further pass through a dataset adds to its epoch


class PerTaskLoader(Iterable[dict[str, Any]]):
    """Combines loaders by name: a step gives ``{name: batch}``, which is trained on as one update.

    With a ``mode``, those of Lightning's ``CombinedLoader``:

    - ``"max_size_cycle"`` (the default): a batch of every dataset, as many steps as the longest has batches; shorter
      ones begin again, in a new order;
    - ``"max_size"``: likewise, but those that are over give ``None``;
    - ``"min_size"``: a batch of every dataset, as many steps as the shortest has;
    - ``"sequential"``: the batches of the first dataset, then those of the second, ..., one a step.

    With a ``sampling`` policy instead, every step takes a batch of one dataset, drawn as a function of (seed, epoch,
    step) and so equal on all processes; an epoch has as many steps as all datasets together have batches, unless
    ``steps_per_epoch`` says otherwise.

    Within an epoch a dataset is gone through without repetition before it begins again. Every epoch begins each of them
    anew. ``len()`` is exact. Unlike a ``CombinedLoader``, an interrupted epoch is continued exactly in every mode, if
    the loaders can be continued: a :class:`~mtl_lightning.data.ResumableLoader` can, and any other with ``state_dict``
    and ``load_state_dict``. Of other loaders the batches that were handed out are read once more and dropped, which is
    exact only if they come in an order that is a function of their sampler's epoch.

    Args:
        loaders: loaders by name, each with a length that is the same on all processes.
        mode: see above.
        sampling: see above; in place of a mode.
        seed: of the sampling.
        steps_per_epoch: the length of an epoch with a sampling policy.
        targets: ``{name: {key: [new keys]}}``, what becomes of a dataset's targets; see
            :func:`~mtl_lightning.data.per_task.renaming.renamed`.
        reshuffle: tell the loaders the epoch; without it every epoch is the first again.

    Raises:
        ConfigurationError: for no loaders, loaders without a length or a batch, options that do not go together, and
            when an epoch is to be continued with other data than it was begun with.
    """

    def __init__(
        self,
        loaders: Mapping[str, Iterable[Any]],
        mode: Mode | None = None,
        *,
        sampling: Sampling | None = None,
        seed: int = 0,
        steps_per_epoch: int | None = None,
        targets: Mapping[str, TargetNames] | None = None,
        reshuffle: bool = True,
    ) -> None:
        self.mode, self.sampling = check_order(mode, sampling, steps_per_epoch)
        self.loaders = dict(loaders)
        if not self.loaders:
            raise ConfigurationError("PerTaskLoader: expected at least one loader, found none.")
        _ = self.lengths  # which refuses loaders that have none
        self.seed, self.targets, self.reshuffle = seed, dict(targets or {}), reshuffle
        self.steps_per_epoch = steps_per_epoch
        self.epoch = 0
        self._position = {"epoch": 0, "batches": 0}
        self._resumed: dict[str, Any] | None = None

    @property
    def lengths(self) -> dict[str, int]:
        """The number of batches of each loader; it may change when processes are launched."""
        return {name: length_of(name, loader) for name, loader in self.loaders.items()}

    def __len__(self) -> int:
        """Return the number of steps of an epoch."""
        lengths = list(self.lengths.values())
        if self.sampling is not None or self.mode == "sequential":
            return self.steps_per_epoch or sum(lengths)
        return min(lengths) if self.mode == "min_size" else max(lengths)

    @property
    def sampler(self) -> Self:
        """What Lightning tells the epoch."""
        return self

    @property
    def batch_sampler(self) -> None:
        """None: the order is not made of rows; Lightning asks."""
        return None

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch that the next batches belong to."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Return an iterator that starts at its first ``next``, when the epoch has been told."""
        return _Pass(self)

    # ------------------------------------------------------------------------------------------------------- the order
    def owners(self, epoch: int) -> Tensor | None:
        """Return which dataset (steps,) each step of an epoch takes a batch of; None if every step takes all."""
        lengths = list(self.lengths.values())
        if self.sampling is not None:
            return self.sampling.draw(lengths, len(self), generator_of(self.seed, "datasets", epoch))
        if self.mode == "sequential":
            return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        return None

    def _drawn(self, owners: Tensor | None, steps: int) -> list[int]:
        """Return how many batches of each dataset the first ``steps`` steps have taken."""
        if owners is not None:
            return torch.bincount(owners[:steps], minlength=len(self.lengths)).tolist()
        return [min(steps, n) if self.mode == "max_size" else steps for n in self.lengths.values()]

    def begin(self) -> Iterator[dict[str, Any]]:
        """Start the epoch's steps, at the first or where the saved state says; for the iterator."""
        first, states = self._first()
        epoch = self.epoch if self.reshuffle else 0
        self._position, self._resumed = {"epoch": self.epoch, "batches": first}, None
        owners, lengths, steps = self.owners(epoch), self.lengths, len(self)
        drawn = self._drawn(owners, first)
        streams = {
            name: _Stream(loader, lengths[name], epoch, count, states.get(name))
            for (name, loader), count in zip(self.loaders.items(), drawn, strict=True)
        }
        for step in range(first, steps):
            self._position["batches"] = step + 1  # before the step is handed out: a checkpoint is written after it
            if owners is not None:
                name = list(streams)[int(owners[step])]
                yield {name: self._batch(name, streams[name])}
            else:
                over = {name for name in streams if self.mode == "max_size" and step >= lengths[name]}
                yield {name: None if name in over else self._batch(name, s) for name, s in streams.items()}

    def _batch(self, name: str, stream: _Stream) -> Any:
        batch = next(stream)
        return renamed(batch, self.targets[name]) if name in self.targets else batch

    # ----------------------------------------------------------------------------------------------------------- state
    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, the steps of it that were handed out, what their order depends on, and loaders' states."""
        if self._resumed is not None:
            return dict(self._resumed)
        stateful = {name: cast("Any", loader) for name, loader in self.loaders.items() if _is_stateful(loader)}
        return {
            **self._position,
            **self._identity(),
            "loaders": {name: loader.state_dict() for name, loader in stateful.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the saved epoch, or begin the next if that one is complete, at the next iteration.

        Whoever sets another epoch before iterating, as Lightning does, gets that epoch from its start.
        """
        self._resumed = place_in_data(state_dict)
        self.epoch = state_dict["epoch"] + (state_dict["batches"] >= len(self))

    def _first(self) -> tuple[int, dict[str, Any]]:
        """Return the index of the first step to hand out, and the states of the loaders to continue."""
        saved = self._resumed
        if saved is None or saved["epoch"] != self.epoch or not 0 < saved["batches"] < len(self):
            return 0, {}
        now = self._identity()
        if changed := {key: (saved.get(key), now[key]) for key in now if saved.get(key) != now[key]}:
            raise CheckpointError(
                f"Cannot continue epoch {saved['epoch']} after its first {saved['batches']} steps: expected the "
                "datasets as it was begun with, found "
                + ", ".join(f"{key} {new} instead of {old}" for key, (old, new) in changed.items())
                + ". Restore that, or resume from a checkpoint of an epoch's end."
            )
        return int(saved["batches"]), dict(saved.get("loaders", {}))

    def _identity(self) -> dict[str, Any]:
        """What the order of the steps depends on."""
        policy = self.mode if self.sampling is None else describe(self.sampling)
        return {"datasets": dict(self.lengths), "order": policy, "seed": self.seed, "steps": len(self)}


class _Pass(Iterator[dict[str, Any]]):
    """One pass through the steps, which begins late."""

    def __init__(self, loader: PerTaskLoader) -> None:
        self._loader = loader
        self._steps: Iterator[dict[str, Any]] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        if self._steps is None:
            self._steps = self._loader.begin()
        return next(self._steps)


class _Stream:
    """The batches of one loader without end: pass after pass, each in the order of an epoch of its own.

    Args:
        loader: gives the batches.
        length: their number.
        epoch: of the first pass.
        drawn: how many were handed out before, in all passes.
        state: the loader's own, when ``drawn`` were.
    """

    def __init__(self, loader: Iterable[Any], length: int, epoch: int, drawn: int, state: Any) -> None:
        self._loader, self._length, self._epoch = loader, length, epoch
        self._pass, self._left = drawn // length, 0
        self._batches: Iterator[Any] = iter(())
        if drawn % length:
            self._begin(drawn % length, state)

    def _begin(self, done: int = 0, state: Any = None) -> None:
        """Begin a pass after the first ``done`` of its batches."""
        if done and state is not None:
            cast("Any", self._loader).load_state_dict(state)
        _set_epoch(self._loader, self._epoch + self._pass * _PASS)
        self._batches, self._left = iter(self._loader), self._length - done
        if state is None:
            for _ in range(done):
                next(self._batches)
        self._pass += 1

    def __next__(self) -> Any:
        if not self._left:
            self._begin()
        self._left -= 1
        try:
            return next(self._batches)
        except StopIteration:
            raise ConfigurationError(
                f"PerTaskLoader: expected {self._length} batches, as `len` says, found {self._left + 1} fewer."
            ) from None


def check_order(mode: Mode | None, sampling: Sampling | None, steps: int | None) -> tuple[Mode, Sampling | None]:
    """Return the mode and the policy; raise a :class:`ConfigurationError` if they cannot be meant together."""
    if mode is not None and mode not in _MODES:
        raise ConfigurationError(f"`mode`: expected one of {_MODES}, found {mode!r}.")
    if mode is not None and sampling is not None:
        raise ConfigurationError(
            f"Expected a `mode` or a `sampling` policy, found {mode!r} and {type(sampling).__name__}: a policy takes a "
            "batch of one dataset a step, a mode says how all of them go together."
        )
    if steps is not None and (sampling is None or steps < 1):
        raise ConfigurationError(
            f"`steps_per_epoch`: expected at least 1, together with a `sampling` policy, found {steps} and "
            f"sampling={sampling}. A `mode` has its own length."
        )
    return mode or "max_size_cycle", sampling


def _is_stateful(loader: object) -> bool:
    return callable(getattr(loader, "state_dict", None)) and callable(getattr(loader, "load_state_dict", None))


def _set_epoch(loader: object, epoch: int) -> None:
    """Tell a loader's sampler the epoch, if it wants to know."""
    for owner in (loader, getattr(loader, "batch_sampler", None)):
        tell = getattr(getattr(owner, "sampler", None), "set_epoch", None)
        if callable(tell):
            tell(epoch)
