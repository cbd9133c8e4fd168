"""Export: ours, beside what Lightning's modules inherit.

Relies on ``LightningModule.to_onnx`` handing its sample to ``torch.onnx.export``, which takes a dict at the end of the
arguments for keyword arguments of ``forward``, unless another one follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import torch
from lightning.pytorch import LightningModule, Trainer

from mtl_lightning.core.network.network import Network
from mtl_lightning.errors import ConfigurationError
from mtl_lightning.export.card import Facts
from mtl_lightning.export.exporter import Exported, export_network

_INSTEAD = (
    "Or use `module.export(folder)`, which takes any number of rows, gives final outputs, and names what cannot be "
    "exported."
)


class Exports(LightningModule):
    """A module that is exported with final outputs, and whose inputs may be a dict, such as those of a table."""

    def export(
        self,
        folder: str | Path,
        *,
        format: Literal["onnx", "pt2"] = "onnx",
        rows: Any = None,
        intended_use: str = "",
    ) -> Exported:
        """Write a folder that gives the answers of :meth:`predict` without this library: network, schema, model card.

        Inputs and outputs have names, any number of rows goes in, and what comes out is final, a tensor per task:
        probabilities, values in original units, calibration included. Before it is there, its answers are compared with
        :meth:`predict`. ``Predictor.from_export(folder)`` reads it; so does any program with onnxruntime. With
        several processes, call it on one of them.

        Args:
            folder: where to; an older export there is replaced, anything else refused.
            format: ``"onnx"`` (extra ``export``), which onnxruntime runs, or ``"pt2"``, which torch runs.
            rows: inputs of a batch (B, *) to compare on; by default those of the trainer's validation data, if there
                is a trainer, else made up by the input spec.
            intended_use: goes into the model card.

        Returns:
            What was written, with the largest difference of each output.

        Raises:
            ExportError: for a part that cannot be exported, which it names, for answers that differ by more than 1e-5
                of a probability or of the target's standard deviation, and for a folder that is not ours.
            ConfigurationError: for a module that is not ready, and for a package that is not installed.
        """
        source = ""
        if rows is None and self._trainer is not None:
            rows, source = _rows_of(self._trainer)
        data = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        facts = Facts(
            metrics={} if self._trainer is None else _numbers(self._trainer.callback_metrics),
            stage="val",
            config=getattr(self, "config", {}),
            intended_use=intended_use,
        )
        network = cast("Network", self)
        schema = network.trained_on or getattr(data, "schema", None)
        text = getattr(data, "text_options", None)
        return export_network(network, folder, format, rows, source=source, facts=facts, schema=schema, text=text)

    def to_onnx(self, file_path: Any = None, input_sample: Any | None = None, **kwargs: Any) -> Any:
        """Save ``forward`` in ONNX's format, as Lightning does: logits and standardised values; see :meth:`export`.

        Args:
            file_path: where to.
            input_sample: inputs of a batch, as ``forward`` takes them: a tensor, or a dict.
            kwargs: for ``torch.onnx.export``.

        Raises:
            ConfigurationError: without inputs, and where PyTorch cannot write it.
        """
        sample: Any = (input_sample, {}) if isinstance(input_sample, Mapping) else input_sample
        if sample is None and self.example_input_array is None:
            raise ConfigurationError(
                f"`to_onnx`: expected an `input_sample`, the inputs of a batch, found none. {_INSTEAD}"
            )
        try:
            return super().to_onnx(file_path, sample, **kwargs)
        except (torch.onnx.OnnxExporterError, TypeError, ValueError, RuntimeError) as error:
            words = (str(error).strip().splitlines() or ["without a message"])[0]
            raise ConfigurationError(
                f"`to_onnx`: PyTorch cannot write it with these inputs, {type(error).__name__}: {words:.300} {_INSTEAD}"
            ) from error

    def to_torchscript(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not here: TorchScript is deprecated in PyTorch and Lightning, and cannot read these networks.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(
            "`to_torchscript`: expected `module.export(folder, format='pt2')`, which writes PyTorch's own format, or "
            "`format='onnx'`; TorchScript, which PyTorch has given up, does not read these networks."
        )


def _rows_of(trainer: Trainer) -> tuple[Any, str]:
    """Return the inputs of a validation batch, and that they are from there; None where there is none."""
    data: Any = getattr(trainer, "datamodule", None)
    try:
        loader: Any = trainer.val_dataloaders if data is None else data.val_dataloader()
        return next(iter(loader)), "of the validation data"
    except Exception:  # no loader, or one that yields something of its own kind
        return None, ""


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
