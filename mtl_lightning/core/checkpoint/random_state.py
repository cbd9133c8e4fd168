"""The state of the random generators of one process."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from mtl_lightning.core.runtime import Runtime


class RandomState:
    """Python's, NumPy's and torch's generators, and that of the module's GPU, as plain data and tensors."""

    process_only: ClassVar[tuple[str, ...]] = ("python", "numpy", "torch", "cuda")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generators."""
        numpy = np.random.get_state(legacy=False)
        assert isinstance(numpy, dict)  # what `legacy=False` gives, for the type checker
        numpy["state"] = {"key": numpy["state"]["key"].tolist(), "pos": numpy["state"]["pos"]}
        state: dict[str, Any] = {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state()}
        device = self._runtime.device
        if device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(device)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned; nothing if it is another process's."""
        if "python" not in state:
            return
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        numpy = state["numpy"]
        key = np.array(numpy["state"]["key"], dtype=np.uint32)
        np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})
        torch.set_rng_state(state["torch"].cpu())
        device = self._runtime.device
        if "cuda" in state and device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"].cpu(), device)
