"""Straight lines with known noise: a problem on which learned uncertainties can be checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mtl_lightning.data.base import MultiTaskDataModule, Split, TaskFactory, TaskOverrides
from mtl_lightning.data.rows import TensorRows
from mtl_lightning.data.seeding import generator_of
from mtl_lightning.tasks.regression import Regression
from mtl_lightning.types import ConfigurationError, TargetSpec, TensorSpec, input_spec_to_dict


class SyntheticRegression(MultiTaskDataModule):
    r"""Tasks ``y1``, ``y2``, ...: :math:`y_k = a_k x + b_k + \sigma_k e_k`, with x and all :math:`e_k` standard normal.

    The first two, :math:`y_1 = 2x + 8 + 10 e_1` and :math:`y_2 = 3x + 3 + e_2`, are the problem of the
    `Keras example <https://github.com/yaringal/multi-task-learning-example>`_ that its authors published for
    `Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics
    <https://arxiv.org/abs/1705.07115>`_. Inputs are (B, 1), targets (B,); the tasks do not standardise their targets,
    so that a learned sigma is to be compared with :math:`\sigma_k` as it is.

    Departure: the example has 100 rows and no validation split; here every split is of any size, drawn by itself.

    Args:
        n: rows for training.
        n_val: rows for validation.
        n_test: rows for test and predict.
        num_tasks: number of tasks; by default as many as a given list has entries, else 2.
        slopes: the a_k; by default k + 1.
        intercepts: the b_k; by default 8 and 3 in turn.
        noise: the sigma_k; by default 10 and 1 in turn.
        batch_size: rows of a batch of one process.
        tasks: other tasks for declared names, as functions of the ``TargetSpec``; None removes a task.
        seed: of the rows and of their order. The rows of a task are the same however many tasks there are.
        num_workers: processes that read rows ahead.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Raises:
        ConfigurationError: if a list has not one entry per task, or a noise is negative.
    """

    def __init__(
        self,
        *,
        n: int = 2000,
        n_val: int = 500,
        n_test: int = 500,
        num_tasks: int | None = None,
        slopes: list[float] | None = None,
        intercepts: list[float] | None = None,
        noise: list[float] | None = None,
        batch_size: int = 100,
        tasks: TaskOverrides | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size=batch_size, tasks=tasks, seed=seed, num_workers=num_workers, drop_last=drop_last)
        given = [values for values in (slopes, intercepts, noise) if values is not None]
        self.num_tasks = num_tasks if num_tasks is not None else len(given[0]) if given else 2
        if not self.num_tasks:
            raise ConfigurationError("SyntheticRegression: expected at least 1 task, found none.")
        self.names = [f"y{k + 1}" for k in range(self.num_tasks)]
        self.sizes: dict[Split, int] = {"train": n, "val": n_val, "test": n_test}
        self.slopes = self._per_task("slopes", slopes, range(2, self.num_tasks + 2))
        self.intercepts = self._per_task("intercepts", intercepts, [8, 3] * self.num_tasks)
        self.noise = self._per_task("noise", noise, [10, 1] * self.num_tasks)

    def _per_task(self, name: str, given: list[float] | None, default: Sequence[float]) -> list[float]:
        if given is not None and len(given) != self.num_tasks:
            raise ConfigurationError(
                f"SyntheticRegression: expected {self.num_tasks} {name}, one per task, found {len(given)}."
            )
        return [float(value) for value in (default[: self.num_tasks] if given is None else given)]

    def read_schema(self) -> dict[str, Any]:
        """Return the input spec; there is nothing to fit."""
        return {"input_spec": input_spec_to_dict(TensorSpec((1,)))}

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        """Return one regression of a number per line."""
        return {name: (TargetSpec(), Regression) for name in self.names}

    def rows(self, split: Split) -> TensorRows:
        """Draw the rows of a split: inputs (N, 1), targets (N,)."""
        size = self.sizes[split]
        x = torch.randn(size, 1, generator=generator_of(self.seed, "x", split))
        lines = zip(self.names, self.slopes, self.intercepts, self.noise, strict=True)
        targets = {
            name: a * x[:, 0] + b + sigma * torch.randn(size, generator=generator_of(self.seed, name, split))
            for name, a, b, sigma in lines
        }
        return TensorRows(x, targets)
