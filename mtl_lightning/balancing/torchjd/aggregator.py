"""torchjd's aggregators as balancers: one gradient per task, combined into one."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchjd import Stateful
from torchjd.aggregation import Aggregator, UPGrad

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GradientBalancer, LossBalancer, Rescale
from mtl_lightning.balancing.tools.seeded_generator import SeededGenerator
from mtl_lightning.balancing.torchjd.factories import call_factory
from mtl_lightning.balancing.torchjd.foreign_state import ForeignState, plain
from mtl_lightning.types import ConfigurationError

_NORM_EPS = 1e-20
_KEY = "_state_key"
_OURS = ("CRMOGM", "ExcessMTL", "GradVac", "NashMTL", "PCD")  # methods with state that we have too, for messages
_PER_TASK = ("pref_vector", "leak", "weights")  # torchjd's public attributes that may hold one number per task


class TorchJD(GradientBalancer):
    """Combines the rows of the tasks that are present with an aggregator of `torchjd <https://torchjd.org>`_, or a
    user's: a subclass of ``torchjd.aggregation.Aggregator``.

    The rows are those of the summed window over all processes, so that the update is exact under accumulation and
    distribution. What the adapter takes care of:

    - Absent tasks' rows are left out, not zeroed: a row of 0 makes some aggregators (MGDA, CAGrad) return 0. Of a
      public vector of one number per task (``pref_vector``, ``leak``, ``weights``) the present ones' are seen.
    - *Stateful* aggregators (GradVac, NashMTL, ExcessMTL, PCD, anything smoothed by CRMOGMWeighting) hold their state
      for all tasks at once. It is saved as plain data, and follows the rows to another device. They need every
      task in every update; ours of the same names do not.
    - Those that draw from torch's global random state (PCGrad, GradVac, GradDrop, Random) draw what follows from
      ``seed`` and the number of updates, alike on all processes and after a resume; that state is left as it was.
    - CAGrad, UPGrad and DualProj take gradients for 0 that are shorter than 0.01, by their ``norm_eps`` of 1e-4. It is
      set to 1e-20, on the instance, unless it has another value than the default.
    - Parameters that an aggregator may have are no parameters of the balancer.

    The aggregator's own behaviour on degenerate rows stays: MGDA's and CAGrad's 0 for one task without a gradient, for
    one. Heads get the gradients of their own losses, unweighted.

    Args:
        num_tasks: T.
        aggregator: what combines the rows: an instance, which is not copied, a class, or a function of T that makes
            one. For a class that needs the number of tasks (NashMTL's ``n_tasks``) the library fills it in.
        seed: of what it draws; see :class:`SeededGenerator`.
        losses: see :class:`GradientBalancer`.
        rescale: see :class:`GradientBalancer`.

    Raises:
        ConfigurationError: for an aggregator that cannot be made, or cannot combine the gradients of T tasks, such as
            ``Krum`` and ``TrimmedMean`` with few of them.
    """

    solves_on_host = True
    scale = "none"  # not known

    def __init__(
        self,
        num_tasks: int,
        *,
        aggregator: Aggregator | Callable[..., Aggregator] = UPGrad,
        seed: int | None = None,
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale)
        made = aggregator if isinstance(aggregator, Aggregator) else call_factory(aggregator, num_tasks)
        if not isinstance(made, Aggregator):
            raise ConfigurationError(
                f"TorchJD: expected as `aggregator` one of torchjd, its class or a function of the number of tasks "
                f"that makes one, found {made!r}."
            )
        _lower_thresholds(made)
        self._outside = (made,)  # in a tuple, which keeps what it holds out of parameters and state dicts
        stateful = {name: part for name, part in made.named_modules() if _remembers(part)}
        self._memory = ForeignState(stateful, plain)
        self._per_task = [
            (part, name, value)
            for part in made.modules()
            for name in _PER_TASK
            if isinstance(value := getattr(part, name, None), Tensor)
        ]
        self.draws = SeededGenerator(seed)
        self._call(copy.deepcopy(made), torch.eye(num_tasks))  # fails now, or not for the number of tasks

    @property
    def aggregator(self) -> Aggregator:
        """The aggregator itself; no submodule, so that nobody else moves, saves or optimizes what it holds."""
        return self._outside[0]

    def combine(self, jacobian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map rows (P, D) to the aggregated gradient (D,), computed in float32 or better.

        Raises:
            ConfigurationError: if the aggregator needs every task, or more than are present.
        """
        rows = jacobian.float() if jacobian.dtype.itemsize < 4 else jacobian
        if self._memory.parts and len(rows) < self.num_tasks:
            raise ConfigurationError(self._wants_every_task(present))
        for part in self._memory.parts.values():
            _follow(part, rows)
        with self._of_the_present(rows, present):
            return self._call(self.aggregator, rows).to(jacobian.dtype)

    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Go on to the next draws."""
        super().after_update(losses)
        self.draws.advance()

    def get_extra_state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: what the aggregator remembers, as plain data."""
        return {**self._identity(), "memory": self._memory.read()}

    def set_extra_state(self, state: Any) -> None:
        """Take up what a checkpoint kept; what another aggregator remembered, or of other tasks, fits nothing."""
        if {key: state.get(key) for key in self._identity()} == self._identity():
            self._memory.write(state["memory"], lambda: self._call(self.aggregator, torch.eye(self.num_tasks)))

    def extra_repr(self) -> str:
        """Show the aggregator, which is no submodule."""
        return repr(self.aggregator)

    # --------------------------------------------------------------------------------------------------------- details
    def _call(self, aggregator: Aggregator, rows: Tensor) -> Tensor:
        try:
            with self.draws.forked(rows.device):
                combined: Tensor = aggregator(rows)
        except (ValueError, IndexError) as error:
            raise ConfigurationError(
                f"torchjd's {aggregator!r} cannot combine the gradients of {len(rows)} of {self.num_tasks} tasks: "
                f"{error} Give it other arguments, or choose another aggregator."
            ) from error
        return combined

    @contextmanager
    def _of_the_present(self, rows: Tensor, present: Tensor) -> Iterator[None]:
        """Let the aggregator see the present tasks' entries of vectors (T,), with the rows' device and dtype."""
        for part, name, value in self._per_task:
            setattr(part, name, self.here(value, present.to(value.device), len(rows)).to(rows))
        try:
            yield
        finally:
            for part, name, value in self._per_task:
                setattr(part, name, value)

    def _identity(self) -> dict[str, Any]:
        return {"aggregator": type(self.aggregator).__name__, "num_tasks": self.num_tasks}

    def _wants_every_task(self, present: Tensor) -> str:
        names = [type(part).__name__.strip("_").removesuffix("Weighting") for part in self._memory.parts.values()]
        ours = sorted({f"mtl_lightning.balancing.{name}" for name in names if name in _OURS})
        absent = [index for index, found in enumerate(present.tolist()) if not found]
        return (
            f"torchjd's {self.aggregator!r} keeps state for all {self.num_tasks} tasks at once: expected every task to "
            f"have a label in each update, found none of the tasks with the numbers {absent}. Use "
            f"{' or '.join(ours) or 'a balancer of ours'}, whose state is per task, or label every task in each batch."
        )


def _lower_thresholds(aggregator: Aggregator) -> None:
    """Set ``norm_eps`` where it has the default, below which gradients would be taken for 0."""
    for part in aggregator.modules():
        for holder in (part, getattr(part, "projector", None)):
            setting = inspect.signature(type(holder)).parameters.get("norm_eps") if holder is not None else None
            if setting is not None and getattr(holder, "norm_eps", None) == setting.default:
                setattr(holder, "norm_eps", _NORM_EPS)  # noqa: B010  # of whatever class has it


def _remembers(part: nn.Module) -> bool:
    return isinstance(part, Stateful)


def _follow(part: nn.Module, rows: Tensor) -> None:
    """Bring a stateful part's tensors to the device and dtype of the rows (P, D), where the part works there.

    Such parts start afresh, without a word, where an attribute ``_state_key`` (number of rows, dtype, device) does not
    fit the rows. One whose key names no device works on the CPU whatever the rows' device is.
    """
    key = getattr(part, _KEY, ())
    if not isinstance(key, tuple):
        return
    kinds = [type(item) for item in key]
    device = rows.device if not hasattr(part, _KEY) or torch.device in kinds else None
    dtype = rows.dtype if torch.dtype in kinds else None
    for name, buffer in list(part.named_buffers(recurse=False)):
        setattr(part, name, buffer.to(device=device, dtype=dtype))
    if hasattr(part, _KEY):
        values = {torch.device: rows.device, torch.dtype: rows.dtype}
        setattr(part, _KEY, tuple(values.get(type(item), item) for item in key))
