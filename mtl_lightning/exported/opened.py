"""Opens a file with what runs its format, and a whole folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mtl_lightning.errors import ExportError
from mtl_lightning.exported import folder
from mtl_lightning.exported.model import Arrays, Model
from mtl_lightning.exported.onnx_model import OnnxModel


def open_model(path: Path, declared: Mapping[str, Any], device: str = "cpu") -> Model:
    """Open a file with what runs its format.

    Args:
        path: of the file.
        declared: the ``model`` of ``schema.json``.
        device: ``cpu``, ``cuda`` or ``cuda:<number>``.
    """
    form = declared.get("format")
    if form == "onnx":
        return OnnxModel(path, declared, device)
    if form == "pt2":
        try:
            from mtl_lightning.exported.pt2_model import Pt2Model  # with torch, which nothing else here needs
        except ImportError as error:
            raise ExportError(
                f"{path}: a .pt2 file is run by torch, which cannot be imported: {error}. Install torch, or export "
                "with `format: onnx`."
            ) from error

        return Pt2Model(path, declared, device)
    raise ExportError(f"{path}: expected the format onnx or pt2, found {form!r}.")


class ExportedFolder:
    """A folder that ``mtl-lightning export`` or ``module.export`` wrote, checked and opened.

    Args:
        path: of the folder.
        device: where to run the network, ``cpu`` or ``cuda``.

    Attributes:
        document: what ``schema.json`` says.
        model: the network.

    Raises:
        ExportError: for another folder, one that has been changed, of another format, or whose parts do not fit.
    """

    def __init__(self, path: str | Path, device: str = "cpu") -> None:
        self.path = Path(path)
        self.document = folder.read(self.path)
        declared = self.document["model"]
        self.model = open_model(self.path / declared["file"], declared, device)

    @property
    def description(self) -> dict[str, Any]:
        """What a predictor has to know beside the network (:mod:`mtl_lightning.predictor.description`)."""
        return self.document

    def run(self, inputs: Arrays | NDArray[Any], tasks: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return the final outputs (B, *) of some tasks by name: ``<task>``, or ``<task>.<key>``.

        Args:
            inputs: an array (B, *), or several by name.
            tasks: those to return; all are computed.
        """
        names = [name for name in self.model.outputs if name.partition(".")[0] in tasks]
        return self.model.run(inputs, names)
