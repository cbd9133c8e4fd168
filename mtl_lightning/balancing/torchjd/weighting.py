"""torchjd's weightings as aggregators, of which a balancer is made: weights of rows, from these or their products."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from torch import nn
from torchjd.aggregation import (
    Aggregator,
    GramianWeightedAggregator,
    MoDoWeighting,
    SDMGradWeighting,
    WeightedAggregator,
    Weighting,
)
from torchjd.linalg import PSDMatrix

from mtl_lightning.types import ConfigurationError

_OF_SAMPLES: dict[type, str] = {MoDoWeighting: "MoDo", SDMGradWeighting: "SDMGrad"}  # and what we call them


def as_aggregator(weighting: Weighting[Any]) -> Aggregator:
    """Return the aggregator that sums rows with a weighting's weights.

    Raises:
        ConfigurationError: for one that needs the inner products of the rows of independent batches.
    """
    for kind, ours in _OF_SAMPLES.items():
        if any(isinstance(part, kind) for part in weighting.modules()):
            raise ConfigurationError(
                f"`balancer`: expected a weighting of one batch's gradients, found torchjd's {kind.__name__}, which "
                f"needs those of independent batches. Use mtl_lightning.balancing.{ours}, which splits each batch."
            )
    return GramianWeightedAggregator(weighting) if _reads_products(weighting) else WeightedAggregator(weighting)


def _reads_products(weighting: nn.Module) -> bool:
    """Whether a weighting takes the inner products of the rows, and not these: what its base class is declared with.

    One that is declared with neither smooths the weights of another, unless it first applies a function to the rows.
    """
    for cls in type(weighting).__mro__:
        for base in getattr(cls, "__orig_bases__", ()):
            (statistic,) = get_args(base) if get_origin(base) is Weighting else (None,)
            if statistic is not None and hasattr(statistic, "__mro__"):
                return bool(statistic is PSDMatrix)
    inner = getattr(weighting, "weighting", None)
    return isinstance(inner, Weighting) and not hasattr(weighting, "fn") and _reads_products(inner)
