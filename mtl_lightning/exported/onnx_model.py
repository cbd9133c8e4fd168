"""Networks in ONNX's format, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mtl_lightning.errors import ConfigurationError, ExportError
from mtl_lightning.exported.model import Arrays, Model

_DTYPES = {"float": "float32", "double": "float64"}


class OnnxModel(Model):
    """An ``.onnx`` file. Operators of onnxruntime alone are run: no library of another's is loaded."""

    def __init__(self, path: Path, declared: Mapping[str, Any], device: str = "cpu") -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigurationError(
                "ONNX files are run by onnxruntime, which is not installed: pip install 'mtl-lightning[export]' (or "
                "onnxruntime alone)."
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=_providers(device, onnxruntime))
        except Exception as error:  # onnxruntime's own classes share no base
            text = str(error).strip()
            raise ExportError(f"{path}: onnxruntime cannot open it: {text.splitlines()[0]:.300}") from error
        super().__init__(path, declared)

    def found(self, which: str) -> dict[str, tuple[str, list[int | None]]]:
        """Return what the session says."""
        nodes = self._session.get_inputs() if which == "inputs" else self._session.get_outputs()
        return {
            node.name: (
                _dtype(node.type),
                [size if isinstance(size, int) else None for size in node.shape],
            )
            for node in nodes
        }

    def compute(self, inputs: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Run the session."""
        return dict(zip(outputs, self._session.run(list(outputs), dict(inputs)), strict=True))


def _dtype(text: str) -> str:
    name = text.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(name, name)


def _providers(device: str, onnxruntime: Any) -> list[Any]:
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    known = onnxruntime.get_available_providers()
    if kind != "cuda" or "CUDAExecutionProvider" not in known:
        raise ConfigurationError(
            f"`device`: expected one that this onnxruntime has, {known}, found {device!r}. Use cpu, or install "
            "onnxruntime-gpu."
        )
    return [("CUDAExecutionProvider", {"device_id": int(number or 0)}), "CPUExecutionProvider"]
