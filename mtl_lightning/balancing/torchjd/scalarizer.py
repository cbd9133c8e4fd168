"""torchjd's scalarizers as balancers: losses combined into one number."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torchjd import Stateful
from torchjd.scalarization import DWA, FAMO, IMTLL, UW, GeometricMean, Scalarizer, Sum
from typing_extensions import Self

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.tools.seeded_generator import SeededGenerator
from mtl_lightning.balancing.torchjd import foreign_state
from mtl_lightning.balancing.torchjd.factories import call_factory
from mtl_lightning.types import ConfigurationError, state_dtype

_NONNEGATIVE = (DWA, FAMO, IMTLL, UW, GeometricMean)  # whose formulas hold for losses of 0 or more alone
_OURS = {"UW": "UncertaintyWeighting"}  # where ours has another name; only messages use it


@runtime_checkable
class _CountsEpochs(Protocol):
    """A scalarizer that is to be told when an epoch is over, such as DWA."""

    def step(self) -> None: ...


@runtime_checkable
class _LearnsFromUpdates(Protocol):
    """A scalarizer that is to be shown the losses after an update, such as FAMO."""

    def update(self, values: Tensor, /) -> None: ...


class TorchJDScalarizer(Balancer):
    """Combines the losses with a scalarizer of `torchjd <https://torchjd.org>`_, one of its own or a user's.

    - One without state (``Mean``, ``STCH``, ``COSMOS``...) sees the losses of the tasks that are present, in order; of
      a public tensor attribute (T,), such as ``weights`` or ``reference``, it sees these tasks' entries.
    - One with parameters or state (``UW``, ``IMTLL``, ``DWA``, ``FAMO``) holds it for all tasks at once: an optimizer
      would move an absent task's share of a parameter on. It needs every task in every update; ours do not.
    - Its public parameters belong to the balancer, and so to the user's optimizer. Private ones, whose names begin with
      an underscore, it learns by itself: they and all its other state are saved as plain data, and follow ``.to()``.
    - ``update(losses)``, if it has that, is called after each update with the losses at the new weights; ``step()``, if
      it has that, after each epoch.
    - What it draws from torch's global random state follows from ``seed`` and the number of updates, so that all
      processes and a resumed run draw alike; that state is left as it was.

    Objectives are taken for non-linear: with accumulated micro-batches each task costs a backward of its own, even for
    ``Sum``, which :class:`~mtl_lightning.balancing.Balancer` does without. An update waits once for the device, to know
    which tasks are present.

    Args:
        num_tasks: T.
        scalarizer: what combines them: an instance, which is not copied, a class, or a function of T that makes one.
            For a class that needs the number of tasks (``shape``) the library fills it in.
        seed: of what it draws; drawn itself by default.

    Raises:
        ConfigurationError: for a scalarizer that cannot be made, is for another number of tasks, or has state that a
            checkpoint cannot hold.
    """

    affine = False
    scale = "none"  # not known
    like: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        scalarizer: Callable[..., Scalarizer] | Scalarizer = Sum,
        seed: int | None = None,
    ) -> None:
        super().__init__(num_tasks)
        made = scalarizer if isinstance(scalarizer, Scalarizer) else call_factory(scalarizer, num_tasks)
        if not isinstance(made, Scalarizer):
            raise ConfigurationError(
                "TorchJDScalarizer: expected as `scalarizer` one of torchjd, its class or a function of the number of "
                f"tasks that makes one, found {made!r}."
            )
        _check_shapes(made, num_tasks)
        self._outside = (made,)  # in a tuple, which keeps its private parameters out of `parameters()`
        own = {name: p for name, p in made.named_parameters() if not name.rpartition(".")[2].startswith("_")}
        self.learned = nn.ParameterDict({name.replace(".", "/"): p for name, p in own.items()})
        self.draws = SeededGenerator(seed)
        # follows `.to()` for what is outside of the module tree
        dtype = state_dtype()
        self.register_buffer("like", torch.zeros(1, dtype=dtype), persistent=False)
        self._private = foreign_state.ForeignState(dict(made.named_modules()), foreign_state.private)
        self._needs_all = _has_state(made)
        self.follows_epochs = isinstance(made, _CountsEpochs)
        self.least_loss = 0.0 if isinstance(made, _NONNEGATIVE) else None
        self._seen = False  # whether it knows the losses of the update that is being made

    @property
    def scalarizer(self) -> Scalarizer:
        """The scalarizer itself; no submodule, so that nobody else moves, saves or optimizes its private state."""
        return self._outside[0]

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,) and present (T,) bool to the scalarizer's number ().

        Losses that are not finite never reach one that has state: their sum is then the objective.

        Raises:
            ConfigurationError: if it needs every task, and one is absent.
        """
        self._seen = False
        here = present.tolist()
        if not any(here):
            return torch.where(present, losses, 0.0).sum()
        if not self._needs_all:
            values = losses if all(here) else losses[present]
            return self._call(self.scalarizer if all(here) else _cut(self.scalarizer, present), values)
        if not all(here):
            raise ConfigurationError(self._wants_every_task(here))
        if not bool(losses.detach().isfinite().all()):
            return losses.sum()
        self._seen = True
        return self._call(self.scalarizer, losses)

    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Show the scalarizer the losses at the new weights, if it wants to see them; go on to the next draw."""
        super().after_update(losses)
        if self._seen and isinstance(self.scalarizer, _LearnsFromUpdates):
            values = losses().detach()
            if bool(values.isfinite().all()):
                self.scalarizer.update(values)
        self._seen = False
        self.draws.advance()

    def after_epoch(self, losses: Tensor, present: Tensor) -> None:
        """Tell the scalarizer that an epoch is over, if it counts them."""
        super().after_epoch(losses, present)
        if isinstance(self.scalarizer, _CountsEpochs):
            self.scalarizer.step()

    def get_extra_state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the scalarizer's private state, as plain data."""
        return {**self._identity(), "state": self._private.read()}

    def set_extra_state(self, state: Any) -> None:
        """Take up what a checkpoint kept; state of another scalarizer, or of another number of tasks, fits nothing."""
        if {key: state.get(key) for key in self._identity()} == self._identity():
            self._private.write(state["state"], self._prime, self.like)

    def extra_repr(self) -> str:
        """Show the scalarizer, which is no submodule."""
        return repr(self.scalarizer)

    # --------------------------------------------------------------------------------------------------------- details
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow ``.to()`` with everything that the scalarizer holds; see :class:`Balancer` for half precision."""
        super()._apply(fn, recurse)
        for name, parameter in self.learned.items():  # some conversions make a new parameter
            owner, _, key = name.replace("/", ".").rpartition(".")
            setattr(self.scalarizer.get_submodule(owner), key, parameter)
        self._private.move(self.like)
        for part in self.scalarizer.modules():
            foreign_state.move_public_tensors(part, self.like)
        return self

    def _call(self, scalarizer: Scalarizer, values: Tensor) -> Tensor:
        with self.draws.forked(values.device):
            return scalarizer(values)

    def _identity(self) -> dict[str, Any]:
        return {"scalarizer": type(self.scalarizer).__name__, "num_tasks": self.num_tasks}

    def _prime(self) -> None:
        """Let the scalarizer create what it creates on its first use; what it learns by that is overwritten."""
        values = self.like.new_ones(self.num_tasks)
        self._call(self.scalarizer, values)
        if isinstance(self.scalarizer, _LearnsFromUpdates):
            self.scalarizer.update(values)

    def _wants_every_task(self, here: list[bool]) -> str:
        name = type(self.scalarizer).__name__
        absent = [index for index, found in enumerate(here) if not found]
        return (
            f"torchjd's {name} keeps state for all {self.num_tasks} tasks at once: expected every task to have a label "
            f"in each update, found none of the tasks with the numbers {absent}. Use "
            f"mtl_lightning.balancing.{_OURS.get(name, name)} or another of ours, whose state is per task, or label "
            "every task in each batch."
        )


def _has_state(scalarizer: Scalarizer) -> bool:
    """Whether it learns or remembers anything, or has parts of its own that hold entries per task."""
    held = [value for part in scalarizer.modules() for value in foreign_state.private(part).values()]
    remembers = any(not isinstance(value, bool | int | float | str) for value in held)  # those are constants
    parts = list(scalarizer.modules())
    nested = any(value.dim() for part in parts[1:] for value in foreign_state.public_tensors(part).values())
    return remembers or nested or any(True for _ in scalarizer.parameters()) or isinstance(scalarizer, Stateful)


def _check_shapes(scalarizer: Scalarizer, num_tasks: int) -> None:
    plain = {key: value for part in scalarizer.modules() for key, value in foreign_state.public_tensors(part).items()}
    for name, tensor in [*scalarizer.named_parameters(), *scalarizer.named_buffers(), *plain.items()]:
        if tensor.dim() and tensor.shape != (num_tasks,):
            raise ConfigurationError(
                f"{type(scalarizer).__name__}: expected `{name}` of shape ({num_tasks},), one entry per task, found "
                f"{tuple(tensor.shape)}."
            )


def _cut(scalarizer: Scalarizer, present: Tensor) -> Scalarizer:
    """Return a shallow copy of a scalarizer without state, whose arrays (T,) have only the present tasks' entries."""
    part = copy.copy(scalarizer)
    for key, value in foreign_state.public_tensors(part).items():
        if value.dim():
            setattr(part, key, value[present.to(value.device)])
    return part
