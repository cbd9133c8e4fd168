"""The numbers that options may be: one table for all classes of this library, and for PyTorch's optimizers.

A number of ours is finite and at least 0, unless the table says otherwise: a new option is checked without a
line here.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from mtl_lightning.errors import ConfigurationError
from mtl_lightning.nested import leaves

__all__ = ["Range", "Ranged", "outside", "range_of"]


@dataclass(frozen=True)
class Range:
    """An interval of numbers, its ends included unless they are open or infinite.

    >>> str(Range(0, 1, open_high=True)), Range(0, 1, open_high=True).holds(1.0)
    ('a number of at least 0 and below 1', False)
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    may_be_infinite: bool = False

    def holds(self, number: float) -> bool:
        """Whether a number is inside; nan never is."""
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return above and below and (self.may_be_infinite or math.isfinite(number))

    def __str__(self) -> str:
        if self.low == -math.inf and self.high == math.inf:
            return "a finite number"
        low = f"above {self.low:g}" if self.open_low else f"of at least {self.low:g}"
        high = f"below {self.high:g}" if self.open_high else f"at most {self.high:g}"
        return f"a finite number {low}" if self.high == math.inf else f"a number {low} and {high}"


ANY = Range()
NOT_NAN = Range(may_be_infinite=True)
FROM_0, FROM_1 = Range(0), Range(1)
POSITIVE = Range(0, open_low=True)
SHARE = Range(0, 1)
BELOW_1 = Range(0, 1, open_high=True)
INSIDE = Range(0, 1, open_low=True, open_high=True)
UP_TO_1 = Range(0, 1, open_low=True)


def _all(names: str, allowed: Range) -> dict[str, Range]:
    return dict.fromkeys(names.split(), allowed)


OURS: dict[str, Range] = {
    **_all("at_least baselines bounds click conversion frequencies gradient_clip ignore_index init intercepts", ANY),
    **_all("invalid mean min_losses phases slopes AutoLambda.floor", ANY),
    **_all("batch_size buffer_rows canvas channels convolutions embedding frequency height hidden", FROM_1),
    **_all("in_features n n_test n_val num_classes num_experts num_labels num_outputs num_own num_selected", FROM_1),
    **_all("num_shared num_tasks out_features", FROM_1),
    **_all("output_size period rates reduction shapes size sizes steps steps_per_epoch update_weights_every", FROM_1),
    **_all("warmup_updates width widths DeadUnits.window ScaleCropFlip.scales", FROM_1),
    **_all("DCNv2.layers DCNv2.rank DCNv2.experts TabularEncoder.frequencies number_width", FROM_1),
    "frequency_scale": POSITIVE,
    **_all("DSelectK.num_experts CorrelatedRegression.features", Range(2)),
    "SyntheticFunnel.features": Range(4),
    "RateFinder.updates": Range(3),
    "RateFinder.per_decade": FROM_1,
    "TaskAffinity.max_networks": FROM_1,
    "TaskAffinity.step": POSITIVE,
    **_all("RateFinder.lowest RateFinder.highest", POSITIVE),
    **_all("delta eps initial_losses lr mu std step_size temperature", POSITIVE),
    **_all("MoCo.gamma MoDo.gamma DSelectK.gamma FairGrad.alpha CorrelatedRegression.scale", POSITIVE),
    "TwoTaskLandscape.scale": POSITIVE,
    "TemperatureSampling.temperature": Range(0, open_low=True, may_be_infinite=True),  # inf: all equally likely
    "seed_everything": Range(0, 2**32 - 1),  # what NumPy takes
    **_all("Conflict.confirm Conflict.looks Conflict.dominance UpdateRatio.apart GateUse.samples", FROM_1),
    **_all("flip fractions leak relax tau CrossStitch.alpha GradVac.beta GateUse.dead", SHARE),
    **_all("beta betas dropout label_smoothing missing momentum val_fraction CRMOGM.alpha", BELOW_1),
    **_all("GradNorm.floor MultiMNIST.val_fraction MultiFashion.val_fraction", INSIDE),
    **_all("Calibration.rows Calibration.least", FROM_1),
    "coverage": INSIDE,
    "Predictor.unseen_share": SHARE,
    **_all("serve.workers serve.max_batch_size serve.max_bytes", FROM_1),
    "serve.batch_wait": FROM_0,
    "serve.timeout": POSITIVE,
    "HeteroscedasticRegression.beta": SHARE,
    "VectorRegression.least_std": INSIDE,
    "least_std": POSITIVE,
    **_all("popart DeadUnits.threshold GateUse.stuck MoCo.beta", UP_TO_1),
    **_all("correlation cosine", Range(-1, 1)),
}
"""By the name of an argument, and under ``Class.argument`` where a class has another. All others: at least 0."""

TORCH: dict[str, Range] = {
    **_all("last_epoch threshold foreach", ANY),
    **_all("T_max T_0 T_mult step_size step_size_up step_size_down total_steps epochs steps_per_epoch", FROM_1),
    **_all("betas pct_start", SHARE),
}
"""The same for ``torch.optim``."""

LIGHTNING: dict[str, Range] = {
    **_all("accumulate_grad_batches check_val_every_n_epoch num_nodes", FROM_1),
    **_all("log_every_n_steps patience", FROM_0),
}
"""Where Lightning takes what it cannot mean; it refuses most numbers itself. All others: finite."""


def range_of(owner: type | None, name: str) -> Range:
    """Return what an argument may be; anything but nan where another library, or a user's class, knows better.

    Args:
        owner: the class that it is an argument of; None for a mere entry of a configuration.
        name: of the argument.
    """
    if owner is None:
        return OURS.get(name, ANY)
    ours = [base for base in owner.__mro__ if base.__module__.startswith("mtl_lightning.")]
    if any(name in _arguments(base) for base in ours):
        named = (OURS[key] for key in (f"{base.__name__}.{name}" for base in ours) if key in OURS)
        return next(named, OURS.get(name, FROM_0))
    if owner.__module__.startswith("torch.optim."):
        return TORCH.get(name, FROM_0)
    return LIGHTNING.get(name, ANY) if owner.__module__.startswith("lightning.") else NOT_NAN


@functools.cache
def _arguments(owner: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(vars(owner)["__init__"]).parameters if "__init__" in vars(owner) else {}


def outside(owner: type | None, name: str, value: Any) -> Iterator[tuple[str, float, Range]]:
    """Yield each number in an argument that it may not be: its dotted name, itself, and what was expected."""
    allowed = range_of(owner, name)
    for place, entry in leaves(value):
        is_number = not isinstance(entry, bool) and isinstance(entry, Real)
        if is_number and not allowed.holds(float(entry)):
            yield ".".join([name, *(key for key in place if isinstance(key, str))]), float(entry), allowed


class _ConstructorSignature:
    """What ``inspect.signature`` shows of a class, for which the arguments of ``__new__`` would hide the real ones."""

    def __get__(self, instance: object | None, owner: type) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")  # of an instance that is called, not of its class
        signature = inspect.signature(owner.__init__)  # type: ignore[misc]  # of the class that defines it
        return signature.replace(parameters=[*signature.parameters.values()][1:])


class Ranged:
    """Mixin whose constructor refuses numbers that are out of range, before anything is made of them.

    Raises:
        ConfigurationError: that names the class and the argument.
    """

    __signature__ = _ConstructorSignature()

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Check the arguments; copies and unpickled instances come without."""
        for name, value in _named(cls, args, kwargs):
            for place, number, allowed in outside(cls, name, value):
                raise ConfigurationError(f"{cls.__name__}: `{place}`: expected {allowed}, found {number:g}.")
        return super().__new__(cls)


def _named(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from kwargs.items()
    if args:
        first = next(base for base in cls.__mro__ if "__init__" in vars(base))
        yield from zip([*_arguments(first)][1:], args, strict=False)
