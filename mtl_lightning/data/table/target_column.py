"""What a user declares of a target's column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from mtl_lightning.encoding.cells import whole
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import ConfigurationError

Level: TypeAlias = str | int | float
TargetKind = Literal["number", "classes", "count", "ordinal", "survival"]


@dataclass(frozen=True)
class TargetColumn(Ranged):
    """Where a task's target comes from.

    ::

        targets:
          price: {kind: number}
          visits: {kind: count, exposure: days}          # how often in so many days
          stars: {order: [poor, fair, good]}             # levels, the lowest first
          churn: {column: days, event: churned}          # the time to an event, or until nobody looked any more
          liked: {column: stars, positive: [good]}       # yes or no: one of these
          late: {column: delay, at_least: 15}            # yes or no: at least so much
          silent: {column: answer, is_missing: true}     # yes or no: nothing there
          log_income: {column: income, log: true}        # the natural logarithm of a positive number
          made_up: {column: arrival, minus: departure}   # the difference of two numbers or dates (in seconds)

    Args:
        column: the column; by default the one that is called as the task.
        positive: make a yes-or-no target of the column: 1 where it holds one of these values, else 0.
        at_least: make a yes-or-no target of a column of numbers: 1 where the number is at least this, else 0.
        kind: read the target as a ``"number"``, as one of several ``"classes"``, as a ``"count"`` of events, as one of
            several levels that have an order (``"ordinal"``), or as the time to an event (``"survival"``); by default
            what the task takes, or what the values look like.
        exposure: of a count, the column of numbers above 0 that it is in proportion to: days, square metres, views.
        order: of an ordinal target, all its levels, the lowest first; by default numbers in their order.
        event: of the time to an event, the column that says whether the event was met then: 1 (true) if so, 0 (false)
            if that is only as long as the row was observed.
        is_missing: make a yes-or-no target of the column: 1 where it holds nothing, else 0.
        log: take the natural logarithm of a column of positive numbers; what is predicted is a logarithm too.
        minus: subtract this column of numbers, or dates; what is predicted is the difference.

    Raises:
        ConfigurationError: for arguments that do not go together.
    """

    column: str | None = None
    positive: list[Level] | None = None
    at_least: float | None = None
    kind: TargetKind | None = None
    exposure: str | None = None
    order: list[Level] | None = None
    event: str | None = None
    is_missing: bool = False
    log: bool = False
    minus: str | None = None

    def __post_init__(self) -> None:
        ways = ("positive", "at_least", "is_missing", "log", "minus", "kind")
        given = [name for name in ways if getattr(self, name) not in (None, False)]
        if len(given) > 1:
            raise ConfigurationError(f"Target: expected at most one of {given}. Remove all but one.")
        parts = [name for name in _PARTS if getattr(self, name) is not None]
        kinds = {_PARTS[name] for name in parts} | {name for name in given if name != "kind"}
        kinds |= set() if self.kind is None else {self.kind}
        if parts and len(kinds) > 1:
            raise ConfigurationError(
                f"Target: expected `{parts[0]}` with `kind: {_PARTS[parts[0]]}`, found it with "
                f"{sorted(kinds - {_PARTS[parts[0]]})}. Remove either."
            )
        if self.kind == "survival" and self.event is None:
            raise ConfigurationError(
                "Target: expected of the time to an event the column `event`, which is 1 where the event was met and "
                "0 where the row was only observed so long, found none. Write `{column: days, event: churned}`."
            )
        levels = [as_text(level) for level in self.order or ()]
        if self.order is not None and (len(levels) < 2 or len({*levels}) < len(levels)):
            raise ConfigurationError(
                f"Target: expected as `order` at least 2 different levels, the lowest first, found {self.order}."
            )

    @property
    def is_derived(self) -> bool:
        """Whether the target is a question about the column, so that its kind is settled."""
        return self.is_yes_or_no or self.log or self.minus is not None

    @property
    def is_yes_or_no(self) -> bool:
        """Whether it is a question about the column whose answer is yes or no."""
        return self.positive is not None or self.at_least is not None or self.is_missing

    @property
    def settled(self) -> TargetKind | None:
        """The kind, as declared, or as the columns say that go with it; None where it is open."""
        return self.kind or next((kind for name, kind in _PARTS.items() if getattr(self, name) is not None), None)


_PARTS: dict[str, TargetKind] = {"exposure": "count", "order": "ordinal", "event": "survival"}


def as_text(value: object) -> str:
    """Return how a value of YAML stands in a column: 1 and 1.0 as ``1``, true as ``true``."""
    if isinstance(value, bool):
        return str(value).lower()
    return (whole(value) or str(value)) if isinstance(value, float) else str(value).strip()
