"""An exported network as a function of NumPy arrays, whatever runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_lightning.errors import BatchError, ExportError
from mtl_lightning.exported import folder as folders

Arrays = Mapping[str, NDArray[Any]]


class Model(ABC):
    """A network in a file, whose inputs and outputs are those that its schema declares.

    Args:
        path: of the file.
        declared: ``inputs`` and ``outputs`` by name, each with its ``dtype`` and its ``shape`` with the batch axis,
            None where a size varies.

    Attributes:
        inputs: the declared inputs.
        outputs: the declared outputs, in order.

    Raises:
        ExportError: for a file that cannot be opened, or does not fit what is declared.
    """

    def __init__(self, path: Path, declared: Mapping[str, Any]) -> None:
        self.path = path
        self.inputs: dict[str, dict[str, Any]] = dict(declared["inputs"])
        self.outputs: dict[str, dict[str, Any]] = dict(declared["outputs"])
        self._check("inputs", self.inputs, self.found("inputs"))
        self._check("outputs", self.outputs, self.found("outputs"))

    @abstractmethod
    def found(self, which: str) -> dict[str, tuple[str, list[int | None]]]:
        """Return the dtype and shape of each of the file's own ``inputs`` or ``outputs``, in order."""

    @abstractmethod
    def compute(self, inputs: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Run the network on inputs of the declared dtypes."""

    def run(self, inputs: Arrays | NDArray[Any], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Map inputs to outputs (B, *), all or those that are named; may be called from several threads.

        Args:
            inputs: an array (B, *) by name, or the array alone where there is one input.
            outputs: names, as :attr:`outputs` has them.

        Raises:
            BatchError: for other inputs than declared.
        """
        given = inputs if isinstance(inputs, Mapping) else {next(iter(self.inputs)): inputs}
        if {*given} != {*self.inputs}:
            raise BatchError(f"{self.path.name}: expected the inputs {list(self.inputs)}, found {list(given)}.")
        arrays = {name: np.asarray(given[name], dtype=known["dtype"]) for name, known in self.inputs.items()}
        for name, array in arrays.items():
            shape = self.inputs[name]["shape"]
            if len(shape) != array.ndim or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
                raise BatchError(
                    f"{self.path.name}, input {name!r}: expected the shape {readable(shape)}, found {array.shape}."
                )
        if len({len(array) for array in arrays.values()}) > 1:
            sizes = {name: len(array) for name, array in arrays.items()}
            raise BatchError(f"{self.path.name}: expected as many rows in every input, found {sizes}.")
        return self.compute(arrays, list(self.outputs if outputs is None else outputs))

    def _check(self, which: str, declared: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Refuse a file whose inputs or outputs are not the declared ones."""
        if list(declared) != list(found):
            raise ExportError(
                f"{self.path}: expected the {which} {list(declared)} of {folders.SCHEMA}, found {list(found)}: the "
                "network and the schema are not of one export. Export anew."
            )
        for name, (dtype, shape) in found.items():
            known, sizes = declared[name]["dtype"], declared[name]["shape"]
            fits = len(shape) == len(sizes) and all(
                a is None or b is None or a == b for a, b in zip(shape, sizes, strict=True)
            )
            if dtype != known or not fits:
                raise ExportError(
                    f"{self.path}: expected {which[:-1]} {name!r} to be {known} {readable(sizes)} as {folders.SCHEMA} "
                    f"says, found {dtype} {readable(shape)}: the network and the schema are not of one export."
                )


def readable(shape: Sequence[int | None]) -> str:
    """Return a shape in words: ``(B, 3)``."""
    return f"({', '.join(('B' if not n else '*') if size is None else str(size) for n, size in enumerate(shape))})"
