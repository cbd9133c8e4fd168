"""torchjd's aggregators as balancers: one gradient per task, combined into one."""

from __future__ import annotations

from torch import Tensor
from torchjd import Stateful
from torchjd.aggregation import Aggregator

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.types import ConfigurationError


class TorchJD(Balancer):
    """Combines the rows of the tasks that are present with an aggregator of `torchjd <https://torchjd.org>`_.

    The rows are those of the summed window over all processes, so that the update is exact under accumulation and
    distribution. Heads get the gradients of their own losses, unweighted.

    Args:
        num_tasks: T.
        aggregator: a stateless aggregator such as ``UPGrad()``. Its own weights per task (``pref_vector``) need every
            task to be present.

    Raises:
        ConfigurationError: for a stateful aggregator, whose state does not survive a checkpoint.
    """

    rows = True

    def __init__(self, num_tasks: int, *, aggregator: Aggregator) -> None:
        super().__init__(num_tasks)
        if any(isinstance(part, Stateful) for part in aggregator.modules()):
            raise ConfigurationError(
                f"{aggregator} keeps state between updates, which a checkpoint would lose: expected a stateless "
                "aggregator such as UPGrad."
            )
        self.aggregator = aggregator

    def gradient(self, jacobian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map rows (P, D) to the aggregated gradient (D,), computed in float32 or better."""
        rows = jacobian.float() if jacobian.dtype.itemsize < 4 else jacobian
        combined: Tensor = self.aggregator(rows).to(jacobian.dtype)
        return combined
