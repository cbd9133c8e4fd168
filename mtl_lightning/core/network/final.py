"""A network whose outputs are final: probabilities, and values in original units; what is exported and called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from typing_extensions import Self

from mtl_lightning.core.network.network import Network
from mtl_lightning.names import known_name

PROBABILITY, LABEL = "probability", "label"


class FinalNetwork(nn.Module):
    """A network with what each task predicts of its outputs, as tensors by name.

    The network is put into evaluation mode, and stays in it. Gradients are not switched off here: whoever calls does so
    (``torch.inference_mode()``).

    Args:
        network: a network that is built, with weights, statistics of targets, and its calibration if it has one; not
            copied.
        tasks: the tasks to predict, all by default; only they, and those that they read, are computed.

    Attributes:
        tasks: their names, in the network's order.

    Raises:
        ConfigurationError: for a task that the network does not have, and for one that was never fitted.
    """

    def __init__(self, network: Network, tasks: Sequence[str] | None = None) -> None:
        super().__init__()
        for name in tasks or ():
            known_name(name, network.tasks, "tasks")
        network.check_fitted()
        self.network = network
        self.tasks = [name for name in network.tasks if tasks is None or name in tasks]
        self.eval()

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        """Map inputs, as in a batch, to the final outputs of each task; see :func:`final_outputs`."""
        outputs, _ = self.network.run(inputs, self.tasks)
        network = self.network
        return final_outputs(
            {name: network.tasks[name].final(network.calibrated(name, outputs[name])) for name in self.tasks}
        )

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)


def final_outputs(predictions: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what tasks give as final, as tensors by name.

    A task's values, or its probabilities, go by the task's name: the label that comes with these is the likeliest one
    and is left out. Whatever else a task predicts goes by ``<task>.<key>``.

    Args:
        predictions: what each task's ``final`` gives, a tensor (B, *) or a dict of such.
    """
    final: dict[str, Tensor] = {}
    for name, prediction in predictions.items():
        if isinstance(prediction, Tensor):
            final[name] = prediction
        elif {*prediction} == {PROBABILITY, LABEL}:
            final[name] = prediction[PROBABILITY]
        else:
            final |= {f"{name}.{key}": value for key, value in prediction.items()}
    return final
