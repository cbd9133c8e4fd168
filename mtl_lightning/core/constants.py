"""What the trivial predictors reach on the rows of an evaluation, by the same metrics: what to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mtl_lightning.core.evaluation import Evaluation, spread, update_metrics
from mtl_lightning.core.network.network import Network, at_least_float32
from mtl_lightning.core.update.batches import targets_of, weight_of
from mtl_lightning.types import Batch


class ConstantEvaluation(Evaluation):
    """The metrics of one stage and one dataloader, of constants in place of a network's outputs.

    The constants are the network's ``trivial_predictions``, which were fitted to training labels. Tasks without one are
    left out.
    """

    def update(self, network: Network, batch: Batch, outputs: Mapping[str, Tensor]) -> None:
        """Add a batch: of the outputs (B, K, *) only the shapes and dtypes are used."""
        self.started = True
        targets = targets_of(batch)
        self.seen.update(targets)
        for index, (name, task) in enumerate(network.tasks.items()):
            constant = (network.trivial_predictions or {}).get(name)
            if name not in targets or constant is None or constant.shape != (task.output_size,):
                continue
            output, target, weight = at_least_float32(outputs[name]), targets[name], weight_of(batch, name)
            constant = constant.to(output.device, torch.float32 if output.device.type == "mps" else torch.float64)
            lost = task.loss(spread(task.trivial_output(constant), output), target, weight)
            self.losses.update(index, lost, lost, task.count(target, weight))
            shown = spread(task.typical_output(constant), output)
            update_metrics(name, task, cast("MetricCollection", self.metrics[name]), shown, target, weight)
