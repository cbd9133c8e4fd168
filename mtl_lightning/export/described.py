"""What ``schema.json`` says of a network, beside its file."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from mtl_lightning.core.network.network import Network
from mtl_lightning.predictor.description import make_description
from mtl_lightning.types import input_spec_to_dict


def description(
    network: Network, schema: Mapping[str, Any] | None, text: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the description of a predictor with this network; its ``versions`` are those of what made it, too.

    Args:
        network: the network.
        schema: of its data, plain.
        text: arguments of its datamodule, of which those about text files are kept.
    """
    known = make_description(
        tasks={name: task.decoding() for name, task in network.tasks.items()},
        schema=schema,
        input_spec=input_spec_to_dict(network.input_spec),
        calibration=network.calibration,
        text=text,
    )
    made_with = {
        "torch": str(torch.__version__),
        "lightning": version("lightning"),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    return {**known, "versions": {**known["versions"], **made_with}}
