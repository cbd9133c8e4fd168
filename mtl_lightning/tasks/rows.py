"""What the tasks with one label, or one vector of labels, per row have in common: shapes, dtypes and messages."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mtl_lightning.tasks.base import MetricFactories, Task, feed, per_element
from mtl_lightning.types import ConfigurationError, Likelihood, TargetError, TargetSpec

MISSING = -100
"""Marks a missing label in an integer target; ``nan`` does in a float target."""


def needs_float64(mean: float, std: float) -> bool:
    """Whether float32 rounds numbers of this mean by more than 1e-4 of their standard deviation, in the same units."""
    return abs(mean) * 2.0**-24 > 1e-4 * std


class RowTask(Task):
    """A task with outputs (B, K) and targets (B,), or (B, D) where a row has D labels; it reads K estimates from K
    outputs.

    A subclass works on *elements*: the target's values, (B,) or (B, D), whose dtype and shape have been checked.
    Looking at dtypes and shapes costs no host sync, so it is done on every call.

    Args:
        spec: what the data knows of the target.
        columns: D, or None for one label a row.
        output_size: K.
        likelihood: the form of the uncertainty term that fits the loss.
        metrics: metrics by name, in place of the default ones.

    Attributes:
        dtypes: the dtypes that targets may have, in words.
        values: the values that targets may have, in words.
        parts: of how many numbers (B, parts) each row's one element is made, None if it is one number;
            :meth:`is_labelled` is then (B,), :meth:`is_valid` of each number.
    """

    dtypes: str
    values: str
    parts: int | None = None

    def __init__(
        self,
        spec: TargetSpec,
        *,
        columns: int | None,
        output_size: int,
        likelihood: Likelihood,
        metrics: MetricFactories | None,
    ) -> None:
        super().__init__(
            spec, output_size=output_size, estimate_size=output_size, likelihood=likelihood, metrics=metrics
        )
        self.columns = columns

    # ------------------------------------------------------------------------------------------ what a subclass gives
    @abstractmethod
    def accepts(self, dtype: torch.dtype) -> bool:
        """Can a target have this dtype?"""

    @abstractmethod
    def is_labelled(self, elements: Tensor) -> Tensor:
        """Map elements to a bool mask of their shape."""

    @abstractmethod
    def is_valid(self, elements: Tensor) -> Tensor:
        """Map elements to a bool mask of their shape; missing labels are valid."""

    @abstractmethod
    def losses(self, output: Tensor, elements: Tensor, mask: Tensor) -> Tensor:
        """Map outputs (B, K), elements and the mask of labelled ones to one loss per element.

        Unlabelled elements are filled with 0.
        """

    @abstractmethod
    def for_metrics(self, output: Tensor) -> Tensor:
        """Map outputs (B, K) to what metrics compare with the elements: (B,) or (B, D), or (B, K) with (B,)."""

    def metric_target(self, elements: Tensor) -> Tensor:
        """Map labelled elements (N,) to the dtype that metrics take; as they are by default."""
        return elements

    # ---------------------------------------------------------------------------------------------------- the contract
    def elements(self, target: Tensor) -> Tensor:
        """Return the target as (B,), from (B,) or (B, 1), or as (B, D), or (B, parts).

        Raises:
            TargetError: for another dtype or shape.
        """
        if not self.accepts(target.dtype):
            raise TargetError(
                f"{type(self).__name__}: expected {self.values} in a target of {self.dtypes}, found {target.dtype}. "
                "Convert the target in your data, missing labels included."
            )
        if self.columns is None and self.parts is None and target.dim() == 2 and target.shape[1] == 1:
            return target[:, 0]
        size = self.parts or self.columns
        if target.shape[1:] != (() if size is None else (size,)) or not target.dim():
            expected = "(B,) or (B, 1)" if size is None else f"(B, {size})"
            raise TargetError(
                f"{type(self).__name__}: expected a target of shape {expected}, found {tuple(target.shape)}. Reshape "
                "it in your data, or correct the task's TargetSpec."
            )
        return target

    def labelled(self, target: Tensor) -> Tensor:
        """Map a target to a bool mask (B,), or (B, D)."""
        return self.is_labelled(self.elements(target))

    def invalid(self, target: Tensor) -> Tensor:
        """Return () bool: does the target hold a value that this task cannot take?"""
        return ~self.is_valid(self.elements(target)).all()

    def is_whole(self, elements: Tensor) -> bool:
        """Whether one look, which reads on the host, says that all elements are labels, and such as can be.

        False says nothing: there are none, or it takes a closer look.
        """
        return False

    def whole_counts(self, targets: Sequence[Tensor]) -> float | None:
        """Return the number of elements of each task if :meth:`is_whole` says that all are labels."""
        elements = self.elements(torch.cat([*targets]) if len(targets) > 1 else targets[0])
        number = elements[:, 0].numel() if self.parts else elements.numel()
        return number / len(targets) if number and self.is_whole(elements) else None

    def count_together(self, targets: Sequence[Tensor]) -> Tensor:
        """Return the counts (N,) of N batchable tasks, all nan if a value is invalid; checks shapes once."""
        elements = self.elements(torch.cat([*targets]) if len(targets) > 1 else targets[0])
        counts = self.is_labelled(elements).reshape(len(targets), -1).sum(1, dtype=torch.float32)
        return torch.where(self.is_valid(elements).all(), counts, torch.nan)

    def check(self, target: Tensor) -> None:
        """Check dtype, shape and values.

        Raises:
            TargetError: that shows the first value which cannot be right, and where it is.
        """
        elements = self.elements(target)
        bad = (~self.is_valid(elements)).nonzero()
        if len(bad):
            row, *column = bad[0].tolist()
            place = f"row {row}" + "".join(f", column {c}" for c in column)
            raise TargetError(
                f"{type(self).__name__}: expected {self.values}, found {elements[tuple(bad[0])].item()} in {place}. "
                "Correct the target in your data, or mark the label as missing."
            )

    def picked(self, target: Tensor) -> Tensor:
        """Every row may get into the sample that the trivial predictor is fitted to."""
        return self.elements(target)

    def columns_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the elements of rows (N,) or (N, D) as columns (N, D), where D may be 1, and which are labelled."""
        columns = self.elements(rows).reshape(len(rows), -1)
        return columns, self.is_labelled(columns)

    def calibration_rows(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return outputs (B, K), the target's columns (B, D) and which of their entries are labelled (B, D)."""
        return (self.outputs(output), *self.columns_of(target))

    def elementwise_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Map outputs (B, K) and a target to one loss per element."""
        elements = self.elements(target)
        output = self.outputs(output)
        if len(output) != len(elements):
            raise TargetError(f"{type(self).__name__}: expected {len(output)} targets, found {len(elements)}.")
        mask = self.is_labelled(elements)
        shown = mask if self.parts is None else mask.unsqueeze(1)
        return self.losses(output, torch.where(shown, elements, 0), mask)

    def outputs(self, output: Tensor) -> Tensor:
        """Return outputs (B, K) as they are.

        Raises:
            ConfigurationError: for another shape, which a network of the user's own may give.
        """
        if output.dim() != 2 or output.shape[1] != self.output_size:
            raise ConfigurationError(
                f"{type(self).__name__}: expected outputs of shape (B, {self.output_size}), found "
                f"{tuple(output.shape)}. The task's head, or a network that returns final outputs, must give them."
            )
        return output

    def precise(self, output: Tensor) -> Tensor:
        """Return outputs (B, K) in float32 or better."""
        output = self.outputs(output)
        return output.to(torch.promote_types(output.dtype, torch.float32))

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Feed the labelled elements to ``metrics``, all in one row (N,); does nothing where there is none."""
        elements = self.elements(target)
        mask = self.is_labelled(elements)
        weights = None if weight is None else per_element(weight, mask)
        if weights is not None:
            mask = mask & (weights > 0)
        if mask.any():
            shown = self.for_metrics(output.detach())[mask]
            feed(metrics, shown, self.metric_target(elements[mask]), None if weights is None else weights[mask])
