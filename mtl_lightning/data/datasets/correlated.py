"""Two regressions whose relatedness is set by one number: the synthetic problem of mixtures of experts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from mtl_lightning.data.base import MultiTaskDataModule, Split, TaskFactory, TaskOverrides
from mtl_lightning.data.rows import TensorRows
from mtl_lightning.data.seeding import generator_of
from mtl_lightning.tasks.regression import Regression
from mtl_lightning.types import ConfigurationError, TargetSpec, TensorSpec, input_spec_to_dict


class CorrelatedRegression(MultiTaskDataModule):
    r"""Tasks ``y1`` and ``y2`` of one input x, whose weight vectors have a set correlation p.

    The recipe of `Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts
    <https://doi.org/10.1145/3219819.3220007>`_ (Ma et al. 2018), section 3.2. With orthogonal unit vectors
    :math:`u_1, u_2` and a scale c, the weight vectors are :math:`w_1 = c u_1` and
    :math:`w_2 = c (p u_1 + \sqrt{1 - p^2} u_2)`, so that p is their cosine, and

    .. math:: y_k = w_k^\top x + \sum_{i=1}^m \sin(\alpha_i w_k^\top x + \beta_i) + \epsilon_k

    with the elements of x standard normal and :math:`\epsilon_k` of variance 0.01. Both tasks have the same waves; at
    p = 1 they differ in noise alone. Without waves p is the correlation of the noiseless labels too; with them theirs
    grows with p, but is another number.

    Inputs are (B, D), targets (B,); the tasks standardise their targets, so that a loss of 1 is what predicting the
    mean gives. Departures: the paper gives no c, m, alpha and beta: here :math:`\alpha_i = \beta_i = i` by default. Its
    noise, N(0, 0.01), is read as a variance.

    Args:
        correlation: p, from -1 to 1.
        n: rows for training.
        n_val: rows for validation.
        n_test: rows for test and predict.
        features: D, at least 2.
        scale: c, the standard deviation of w x.
        frequencies: the alpha_i; an empty list gives linear tasks.
        phases: the beta_i, in radians.
        noise: the standard deviation of epsilon.
        batch_size: rows of a batch of one process.
        tasks: other tasks for declared names, as functions of the ``TargetSpec``; None removes a task.
        seed: of the vectors, the rows and their order. The same seed gives the same x and u at every correlation.
        num_workers: processes that read rows ahead.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Raises:
        ConfigurationError: for a correlation out of range, fewer than 2 features, not one phase per frequency, or other
            impossible numbers.
    """

    def __init__(
        self,
        *,
        correlation: float = 0.5,
        n: int = 10_000,
        n_val: int = 1000,
        n_test: int = 1000,
        features: int = 100,
        scale: float = 1.0,
        frequencies: Sequence[float] = (1.0, 2.0, 3.0),
        phases: Sequence[float] = (1.0, 2.0, 3.0),
        noise: float = 0.1,
        batch_size: int = 100,
        tasks: TaskOverrides | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size=batch_size, tasks=tasks, seed=seed, num_workers=num_workers, drop_last=drop_last)
        if len(frequencies) != len(phases):
            raise ConfigurationError(
                f"CorrelatedRegression: expected one phase per frequency, found {list(phases)} and {list(frequencies)}."
            )
        self.sizes: dict[Split, int] = {"train": n, "val": n_val, "test": n_test}
        self.correlation, self.features, self.scale = correlation, features, scale
        self.waves = torch.tensor([frequencies, phases], dtype=torch.float64)
        self.noise = noise

    def weights(self) -> Tensor:
        """Return the two weight vectors (2, D), of norm c and cosine p."""
        drawn = torch.randn(self.features, 2, generator=generator_of(self.seed, "u"), dtype=torch.float64)
        first, second = torch.linalg.qr(drawn).Q.T
        p = self.correlation
        return self.scale * torch.stack([first, p * first + sqrt(1 - p**2) * second])

    def curve(self, projections: Tensor) -> Tensor:
        """Map w x (*) to the noiseless labels (*)."""
        alpha, beta = self.waves
        waves: Tensor = (projections.unsqueeze(-1) * alpha + beta).sin()
        return projections + waves.sum(-1)

    def read_schema(self) -> dict[str, Any]:
        """Return the input spec; the tasks are fitted on the training targets."""
        return {"input_spec": input_spec_to_dict(TensorSpec((self.features,)))}

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        """Return two regressions of a number."""
        return {name: (TargetSpec(), partial(Regression, standardize=True)) for name in ("y1", "y2")}

    def rows(self, split: Split) -> TensorRows:
        """Draw the rows of a split: inputs (N, D), targets (N,)."""
        x = torch.randn(self.sizes[split], self.features, generator=generator_of(self.seed, "x", split))
        targets = {}
        for name, w in zip(("y1", "y2"), self.weights(), strict=True):
            noise = torch.randn(len(x), generator=generator_of(self.seed, name, split))
            targets[name] = self.curve(x.double() @ w).float() + self.noise * noise
        return TensorRows(x, targets)
