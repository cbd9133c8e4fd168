"""The calibration of a task, as plain data, from rows of a split that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from mtl_lightning.calibration.conformal import half_widths
from mtl_lightning.calibration.probabilities import NotCalibratedError, isotonic, platt, temperature
from mtl_lightning.calibration.sample import Rows
from mtl_lightning.tasks.base import Task

_OF_EACH = 10  # yeses, and noes


@dataclass(frozen=True)
class Options:
    """How tasks are calibrated.

    Attributes:
        binary: of yes-or-no labels.
        coverage: the share of rows whose numbers are to lie in their interval.
        by: a column; rows with the same value of it get intervals of their own, where it has labels enough.
        least: so many labels are needed, of each output.
    """

    binary: Literal["platt", "isotonic"] = "platt"
    coverage: float = 0.9
    by: str | None = None
    least: int = 100


def fit(
    task: Task, rows: Rows, options: Options, name_of: Callable[[int], str | None] = lambda _: None
) -> dict[str, Any]:
    """Return a task's calibration; what it looks like is in :mod:`mtl_lightning.core.network.calibration`.

    Args:
        task: one whose ``calibrated_by`` is not empty.
        rows: of :meth:`~mtl_lightning.tasks.Task.calibration_rows`.
        options: how.
        name_of: the value of the column ``by`` that a group is of; None for rows of no group.

    Raises:
        NotCalibratedError: that says why there is none, in a clause that follows the task's name.
    """
    method = options.binary if options.binary in task.calibrated_by else task.calibrated_by[0]
    found = int(rows.known.sum(0).min()) if len(rows.known) else 0
    if found < options.least and not (method == "platt" and rows.known.shape[1] > 1):
        raise _too_few(found, options.least)
    if method == "temperature":
        return {"method": method, "temperature": temperature(rows.outputs, rows.targets[:, 0], rows.weight)}
    if method == "platt":
        lines = _each(rows, options.least, platt, (1.0, 0.0))
        return {"method": method, "slope": [a for a, _ in lines], "intercept": [b for _, b in lines]}
    if method == "isotonic":
        knots = _each(rows, options.least, isotonic)
        return {"method": method, "x": [x for x, _ in knots], "y": [y for _, y in knots]}
    return _intervals(rows, options, name_of)


def described(known: Mapping[str, Any], units: str = "") -> str:
    """Say in a few words what a task's calibration is."""
    if known["method"] == "temperature":
        return f"temperature {known['temperature']:.3g}"
    if known["method"] == "platt":
        lines = zip(known["slope"], known["intercept"], strict=True)
        return f"Platt: {', '.join(f'{a:.3g} z {b:+.3g}' for a, b in lines)}"
    if known["method"] == "isotonic":
        return f"isotonic, {', '.join(str(len(x)) for x in known['x'])} knots"
    widths = ", ".join(f"{width:.4g}" for width in known["half_width"])
    groups = f", {len(known['groups'])} intervals by {known['by']}" if known.get("groups") else ""
    return f"{100 * known['coverage']:g} % within {widths}{f' {units}' if units else ''}{groups}"


def _too_few(found: int, least: int) -> NotCalibratedError:
    return NotCalibratedError(f"expected at least {least} labelled rows, found {found}")


def _each(rows: Rows, least: int, method: Callable[[Tensor, Tensor, Tensor], Any], without: Any = None) -> list[Any]:
    """Fit each label by itself; ``without`` stands for a label that cannot be, unless all are such, or it is None."""
    fits: list[Any] = []
    reasons: list[NotCalibratedError] = []
    for column in range(rows.targets.shape[1]):
        mask = rows.known[:, column]
        logits, labels = rows.outputs[mask, column], rows.targets[mask, column]
        rarer = min(int((labels == 1).sum()), int((labels != 1).sum()))
        try:
            if len(labels) < least:
                raise _too_few(len(labels), least)
            if rarer < _OF_EACH:
                raise NotCalibratedError(f"expected at least {_OF_EACH} rows of each answer, found {rarer} of one")
            fits.append(method(logits, labels, rows.weight[mask]))
        except NotCalibratedError as reason:
            fits.append(without)
            reasons.append(reason)
    if reasons and (without is None or len(reasons) == len(fits)):
        raise reasons[0]
    return fits


def _intervals(rows: Rows, options: Options, name_of: Callable[[int], str | None]) -> dict[str, Any]:
    errors = (rows.outputs.double() - rows.targets.double()).abs()
    whole = half_widths(errors, rows.known, options.coverage, rows.weight)
    groups = None
    if options.by is not None:
        groups = {}
        for code in rows.group.unique().tolist():  # type: ignore[no-untyped-call]  # torch leaves it untyped
            mask, name = rows.group == code, name_of(code)
            known = rows.known[mask]
            if name is not None and int(known.sum(0).min()) >= options.least:
                groups[name] = half_widths(errors[mask], known, options.coverage, rows.weight[mask])
    found = {"method": "conformal", "coverage": options.coverage, "half_width": whole}
    return {**found, "by": options.by, "groups": groups}
