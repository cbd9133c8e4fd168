"""Runs the network of a checkpoint, or of a module that is there, with torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from mtl_lightning.checkpoint_file import read_part
from mtl_lightning.core.module import MultiTaskModule
from mtl_lightning.core.network import Network
from mtl_lightning.core.network.final import FinalNetwork
from mtl_lightning.errors import ConfigurationError
from mtl_lightning.predictor.arrays import Inputs
from mtl_lightning.predictor.description import make_description
from mtl_lightning.types import input_spec_to_dict

__all__ = ["CheckpointBackend", "describe_network"]


class CheckpointBackend:
    """A network in evaluation mode on a device.

    Args:
        network: built and fitted; it is moved to the device, put into evaluation mode, and never changed after.
        device: where it runs; where it is by default.
        schema: that of the data; by default what the network was trained on.
        text: how text files of the table are read.

    Raises:
        ConfigurationError: for a network that waits for the sizes of its inputs, or was never fitted.
    """

    def __init__(
        self,
        network: Network,
        *,
        device: Any = None,
        schema: Mapping[str, Any] | None = None,
        text: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(network, Network):
            raise ConfigurationError(
                f"Expected a MultiTaskModule, a Network or a backend to predict with, found {type(network).__name__}."
            )
        network.check_built()
        first = next(network.parameters(), torch.zeros(()))
        self._device = torch.device(first.device if device is None else device)
        self._elsewhere = self._device.type != "cpu"
        self._network = network.to(self._device)
        self._finals = {tuple(network.tasks): FinalNetwork(network)}
        self._dtype = first.dtype if first.dtype in (torch.float64, torch.float16, torch.bfloat16) else None
        self.description = describe_network(network, schema, text)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, *, device: Any = "cpu", trusted: Sequence[str] = (), **changes: Any
    ) -> CheckpointBackend:
        """Load a checkpoint; arguments and errors are those of ``MultiTaskModule.load_from_checkpoint``."""
        module = MultiTaskModule.load_from_checkpoint(path, map_location=device, trusted=trusted, **changes)
        data: Mapping[str, Any] = read_part(path).get("data") or {}
        return cls(module, device=device, text=data.get("init_args"))

    @classmethod
    def of_copy(cls, network: Network, *, device: Any = None) -> CheckpointBackend:
        """Take a copy of a network, so that one that is trained on meanwhile predicts as it does now."""
        trainer = getattr(network, "_trainer", None)
        data: Any = getattr(trainer, "datamodule", None)
        known: Any = getattr(network, "trained_on", None) or getattr(data, "schema", None)
        return cls(copy.deepcopy(network), device=device, schema=known, text=getattr(data, "text_options", None))

    def run(self, inputs: Inputs, tasks: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return the final outputs (B, *) of some tasks by name."""
        key = tuple(tasks)
        final = self._finals.get(key)
        if final is None:
            final = self._finals[key] = FinalNetwork(self._network, tasks)
        with torch.inference_mode():
            found = final(
                {name: self._tensor(array) for name, array in inputs.items()}
                if isinstance(inputs, dict)
                else self._tensor(inputs)
            )
            return {name: _array(output) for name, output in found.items()}

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        if self._elsewhere:
            tensor = tensor.to(self._device)
        return tensor if self._dtype is None or not tensor.is_floating_point() else tensor.to(self._dtype)


def _array(output: torch.Tensor) -> NDArray[Any]:
    found: NDArray[Any] = (output.float() if output.dtype == torch.bfloat16 else output).cpu().numpy()
    return found


def describe_network(
    network: Network, schema: Mapping[str, Any] | None = None, text: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what a predictor has to know of a network, as plain data (:mod:`mtl_lightning.predictor.description`).

    Args:
        network: the network.
        schema: that of the data; by default what the network was trained on.
        text: how text files of the table are read.
    """
    return make_description(
        tasks={name: task.decoding() for name, task in network.tasks.items()},
        schema=network.trained_on if schema is None else schema,
        input_spec=input_spec_to_dict(network.input_spec),
        calibration=network.calibration,
        text=text,
    )
