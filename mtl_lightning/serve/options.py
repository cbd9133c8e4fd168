"""Options of a server that cannot be right are refused before anything is loaded or a process starts."""

from __future__ import annotations

import errno
import json
import socket
from pathlib import Path

from mtl_lightning.errors import ConfigurationError
from mtl_lightning.ranges import OURS
from mtl_lightning.serve.model import Served

ANYWHERE = ("127.0.0.1", "0.0.0.0", "::")
LEAST_PORT, LARGEST_PORT = 1024, 65535


def check_numbers(**options: float) -> None:
    """Refuse numbers that are out of range, by the table in :mod:`mtl_lightning.ranges`.

    Raises:
        ConfigurationError: that names the option.
    """
    for name, value in options.items():
        allowed = OURS[f"serve.{name}"]
        if not allowed.holds(value):
            raise ConfigurationError(f"`{name}`: expected {allowed}, found {value:g}.")
    if options["batch_wait"] >= options["timeout"]:
        raise ConfigurationError(
            f"`batch_wait`: expected less than the `timeout` of {options['timeout']:g} seconds, found "
            f"{options['batch_wait']:g}. Wait less, or raise the timeout."
        )


def device_of(served: Served, accelerator: str) -> str:
    """Return where workers run a model: ``cpu`` or ``cuda``, which ``auto`` takes if it is there.

    Raises:
        ConfigurationError: for ``cuda`` where there is none for this model.
    """
    if accelerator == "cpu":
        return "cpu"
    lacking = _lacks_cuda(served)
    if lacking and accelerator == "cuda":
        raise ConfigurationError(f"`accelerator`: expected a GPU for cuda, found {lacking}. Use cpu or auto.")
    return "cpu" if lacking else "cuda"


def _lacks_cuda(served: Served) -> str:
    """Return what is not there to run a model on a GPU; nothing if all is."""
    if _is_onnx(Path(served.path)):
        import onnxruntime
        from litserve.connector import check_cuda_with_nvidia_smi

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return "an onnxruntime without CUDA (onnxruntime-gpu has it)"
        return "" if check_cuda_with_nvidia_smi() > 0 else "none"
    import torch

    return "" if torch.cuda.device_count() > 0 else "none that torch can use"


def _is_onnx(path: Path) -> bool:
    return path.is_dir() and json.loads((path / "schema.json").read_bytes())["model"]["format"] == "onnx"


def check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be listened at.

    Raises:
        ConfigurationError: for another host or port, or one that is taken.
    """
    if host not in ANYWHERE:
        raise ConfigurationError(f"`host`: expected one of {list(ANYWHERE)}, found {host!r}.")
    if not LEAST_PORT <= port <= LARGEST_PORT:
        raise ConfigurationError(f"`port`: expected a number from {LEAST_PORT} to {LARGEST_PORT}, found {port}.")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            tried.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"`port`: expected one that is free, found {port} taken. Stop what listens there, or choose another."
            ) from error
        raise ConfigurationError(
            f"`host`: expected an address of this machine, found that {host} with the port {port} cannot be listened "
            f"at: {error.strerror}. Choose another."
        ) from error
