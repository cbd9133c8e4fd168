"""Metrics of groups of rows, such as the rows of one user: how well each group's rows are ordered."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torchmetrics.retrieval as retrieval
from torch import Tensor

from mtl_lightning.names import did_you_mean
from mtl_lightning.types import ConfigurationError

GAUC = "gauc"
_RETRIEVAL: dict[str, Callable[..., retrieval.base.RetrievalMetric]] = {
    "ndcg": retrieval.RetrievalNormalizedDCG,
    "recall": retrieval.RetrievalRecall,
    "precision": retrieval.RetrievalPrecision,
    "hit_rate": retrieval.RetrievalHitRate,
    "mrr": retrieval.RetrievalMRR,
    "map": retrieval.RetrievalMAP,
}
GRADED = ("ndcg",)
"""What takes any labels of at least 0, more being better; the others take 0 and 1."""


class GroupedMetric:
    """A metric of groups, by its name: ``gauc``, or ``ndcg``, ``recall``, ``precision``, ``hit_rate``, ``mrr`` and
    ``map`` of torchmetrics, of all rows of a group or, as ``ndcg@10``, of the first ten.

    ``gauc`` is the mean of the groups' areas under the ROC curve, the probability that a row with label 1 is above one
    with label 0, a tie counting half; groups without both have none. `Deep Interest Network for Click-Through Rate
    Prediction <https://arxiv.org/abs/1706.06978>`_ (Zhou et al. 2018), equation 6, weights each group by its rows. The
    others leave out groups without a label above 0.

    Args:
        name: which.
        weigh_by_rows: weigh the groups of ``gauc`` by their rows.

    Raises:
        ConfigurationError: for an unknown name.
    """

    def __init__(self, name: str, *, weigh_by_rows: bool = False) -> None:
        kind, at, number = name.partition("@")
        known = [GAUC, *_RETRIEVAL]
        if kind not in known or (at and (not number.isdecimal() or int(number) < 1 or kind == GAUC)):
            raise ConfigurationError(
                f"Expected a metric of groups, one of {known}, perhaps of the first rows as `ndcg@10` (not `gauc`), "
                f"found {name!r}.{did_you_mean(kind, known)}"
            )
        self.tag = name.replace("@", "_at_")  # some loggers take no @
        self.is_graded = kind in GRADED
        self.compute: Callable[[Tensor, Tensor, Tensor], Tensor] = (
            partial(grouped_auroc, weigh_by_rows=weigh_by_rows)
            if kind == GAUC
            else partial(_retrieved, kind, int(number) if number else None)
        )
        """Map scores (N,), labels (N,) and groups (N,) int64 to a number (); nan where no group has one."""


def grouped_auroc(scores: Tensor, labels: Tensor, groups: Tensor, *, weigh_by_rows: bool = False) -> Tensor:
    """Return the mean area under the ROC curve () of the groups that have labels 0 and 1; nan if none has.

    From ranks, as Mann and Whitney's statistic, a tie having its mean rank.

    Args:
        scores: (N,), higher for 1.
        labels: (N,), 0 or 1.
        groups: (N,) int64.
        weigh_by_rows: weigh each group by its number of rows.
    """
    _, group, rows = torch.unique(groups, return_inverse=True, return_counts=True)
    order = scores.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    score, label, group = scores[order], labels[order].double(), group[order]
    rank = torch.arange(1, len(score) + 1, device=score.device).double() - (rows.cumsum(0) - rows)[group]
    begins = torch.ones_like(group, dtype=torch.bool)
    begins[1:] = (group[1:] != group[:-1]) | (score[1:] != score[:-1])
    run = begins.cumsum(0) - 1
    tied = torch.zeros(int(run[-1]) + 1 if len(run) else 0, dtype=rank.dtype, device=rank.device)
    mean_rank = tied.index_add(0, run, rank) / tied.index_add(0, run, torch.ones_like(rank))
    ones = torch.zeros(len(rows), dtype=rank.dtype, device=rank.device).index_add(0, group, label)
    sums = torch.zeros_like(ones).index_add(0, group, label * mean_rank[run])
    zeros = rows - ones
    has_both = (ones > 0) & (zeros > 0)
    areas = ((sums - ones * (ones + 1) / 2) / (ones * zeros))[has_both]
    weights = rows[has_both].double() if weigh_by_rows else torch.ones_like(areas)
    found: Tensor = (areas * weights).sum() / weights.sum()
    return found


def _retrieved(kind: str, top_k: int | None, scores: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    if not bool((labels > 0).any()):
        return torch.tensor(torch.nan)
    made = _RETRIEVAL[kind](empty_target_action="skip", top_k=top_k, sync_on_compute=False)
    indexes = torch.unique(groups, return_inverse=True)[1]
    target = labels if kind in GRADED else labels.long()
    made.update(scores.double(), target, indexes=indexes)
    found: Tensor = made.compute()
    return found
