"""What ``schema.json`` says of a network, beside its file: columns, answers, calibration, versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from mtl_lightning.core.network.network import Network
from mtl_lightning.types import input_spec_to_dict
from mtl_lightning.version import __version__


def description(network: Network, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return it as plain data."""
    return {
        "schema": schema,
        "input_spec": input_spec_to_dict(network.input_spec),
        "tasks": {},
        "calibration": network.calibration,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return what this was made with."""
    return {
        "mtl_lightning": __version__,
        "torch": str(torch.__version__),
        "lightning": version("lightning"),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
