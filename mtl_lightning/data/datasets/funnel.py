"""Clicks, and conversions of those who click: a funnel whose true rates are known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtl_lightning.data.base import MultiTaskDataModule, Split, TaskFactory, TaskOverrides
from mtl_lightning.data.rows import TensorRows
from mtl_lightning.data.seeding import generator_of
from mtl_lightning.tasks.classification import BinaryClassification
from mtl_lightning.tasks.rows import MISSING
from mtl_lightning.types import TargetSpec, TensorSpec, input_spec_to_dict

_HIDDEN = 4  # interests that clicks and conversions follow from
_STRENGTH = 3.0  # how far a logit moves with them


class SyntheticFunnel(MultiTaskDataModule):
    r"""Impressions x with the tasks ``click``, ``conversion`` and ``click_and_conversion``, all yes or no.

    The setting of `Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion Rate
    <https://arxiv.org/abs/1804.07931>`_ (Ma et al. 2018): what is wanted is the conversion rate of every impression, if
    it were clicked, but conversions are seen among the few that were. With interests
    :math:`z = \tanh(V x)` in 4 dimensions, which both events depend on,

    .. math:: \mathrm{logit}\, p(\mathrm{click}) = a_0 + 3 a^\top z, \qquad
        \mathrm{logit}\, p(\mathrm{conversion} \mid \mathrm{click}) = b_0 + 3 b^\top z,

    with a and b of length 1 and a set cosine. Where it is positive, those who click are likelier to buy than others:
    the clicked rows are no fair sample (the paper's sample selection bias).

    Labels: ``click`` and ``click_and_conversion`` are there on every row. ``conversion`` is missing where nobody
    clicked, but for the test split: there it is drawn for every row as if it had been clicked, which only made data can
    tell, so that ``test/.../conversion`` is the quality over the entire space. Inputs are (B, D), targets (B,) int64.

    Args:
        n: rows for training.
        n_val: rows for validation.
        n_test: rows for test and predict.
        features: D, at least 4.
        cosine: of a and b, from -1 to 1.
        click: a_0; at the default about one row in ten is clicked.
        conversion: b_0; at the default about one click in five converts.
        conversion_labels: give the training rows that were clicked the label of ``conversion``. Without it the task has
            no label of its own, as in the paper, and is learned through
            :class:`~mtl_lightning.architectures.Product`; list it in ``allow_unlabelled`` of the module.
        batch_size: rows of a batch of one process.
        tasks: other tasks for declared names, as functions of the ``TargetSpec``; None removes a task.
        seed: of V, a and b, the rows and their order.
        num_workers: processes that read rows ahead.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Raises:
        ConfigurationError: for a cosine out of range, too few features, or a split without rows.
    """

    def __init__(
        self,
        *,
        n: int = 20_000,
        n_val: int = 5000,
        n_test: int = 5000,
        features: int = 20,
        cosine: float = 0.8,
        click: float = -3.0,
        conversion: float = -2.5,
        conversion_labels: bool = True,
        batch_size: int = 250,
        tasks: TaskOverrides | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size=batch_size, tasks=tasks, seed=seed, num_workers=num_workers, drop_last=drop_last)
        self.sizes: dict[Split, int] = {"train": n, "val": n_val, "test": n_test}
        self.features, self.cosine = features, cosine
        self.offsets = (click, conversion)
        self.conversion_labels = conversion_labels

    def rates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map inputs (B, D) to the true p(click) and p(conversion | click), both (B,) float64."""
        random = generator_of(self.seed, "weights")
        v = torch.randn(self.features, _HIDDEN, generator=random, dtype=torch.float64) / self.features**0.5
        a, other = torch.linalg.qr(torch.randn(_HIDDEN, 2, generator=random, dtype=torch.float64)).Q.T
        b = self.cosine * a + (1 - self.cosine**2) ** 0.5 * other
        z = torch.tanh(2 * x.double() @ v)
        click, conversion = (start + _STRENGTH * z @ w for start, w in zip(self.offsets, (a, b), strict=True))
        return click.sigmoid(), conversion.sigmoid()

    def read_schema(self) -> dict[str, Any]:
        """Return the input spec; there is nothing to fit."""
        return {"input_spec": input_spec_to_dict(TensorSpec((self.features,)))}

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        """Return the three yes-or-no tasks."""
        return {
            name: (TargetSpec(classes=2), BinaryClassification)
            for name in ("click", "conversion", "click_and_conversion")
        }

    def rows(self, split: Split) -> TensorRows:
        """Draw the rows of a split: inputs (N, D), targets (N,)."""
        size = self.sizes[split]
        x = torch.randn(size, self.features, generator=generator_of(self.seed, "x", split))
        draws = torch.rand(2, size, generator=generator_of(self.seed, "draws", split), dtype=torch.float64)
        click, conversion = (draw < rate for draw, rate in zip(draws, self.rates(x), strict=True))
        seen = click & (self.conversion_labels or split != "train") | (split == "test")
        return TensorRows(
            x,
            {
                "click": click.long(),
                "conversion": conversion.long().masked_fill(~seen, MISSING),
                "click_and_conversion": (click & conversion).long(),
            },
        )
