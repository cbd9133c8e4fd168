"""Networks in PyTorch's own format, ``.pt2``, run by torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.export.passes import move_to_device_pass

from mtl_lightning.errors import ExportError
from mtl_lightning.exported import pt2_file
from mtl_lightning.exported.model import Arrays, Model


class Pt2Model(Model):
    """A ``.pt2`` file, which :func:`~mtl_lightning.exported.pt2_file.check` has read before torch does."""

    def __init__(self, path: Path, declared: Mapping[str, Any], device: str = "cpu") -> None:
        pt2_file.check(path)
        try:
            program = torch.export.load(path)
            self._program = program if device == "cpu" else move_to_device_pass(program, device)
            self._module = self._program.module(check_guards=False)
        except Exception as error:  # of torch, whatever a file holds
            raise ExportError(f"{path}: torch cannot open it: {str(error).strip().splitlines()[0]:.300}") from error
        self._device = device
        super().__init__(path, declared)
        self._single = isinstance(_inputs_of(self._program), str)

    def found(self, which: str) -> dict[str, tuple[str, list[int | None]]]:
        """Return what the graph says."""
        return interface(self._program)[which]

    def compute(self, inputs: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Run the graph."""
        tensors = {name: torch.from_numpy(array).to(self._device) for name, array in inputs.items()}
        with torch.inference_mode():
            found = self._module(next(iter(tensors.values())) if self._single else tensors)
        return {name: found[name].cpu().numpy() for name in outputs}


def interface(program: ExportedProgram) -> dict[str, dict[str, tuple[str, list[int | None]]]]:
    """Return the dtypes and shapes of a program's inputs and outputs by their names: those of a dict, or ``inputs``.

    Raises:
        ExportError: for a program with other arguments than one tensor or one dict of tensors.
    """
    signature, nodes = program.graph_signature, {node.name: node for node in program.graph.nodes}
    arguments = [spec.arg.name for spec in signature.input_specs if spec.kind is InputKind.USER_INPUT]
    named = _inputs_of(program)
    keys = [named] if isinstance(named, str) else named
    results = json.loads(torch.utils._pytree.treespec_dumps(program.call_spec.out_spec))[1]
    if len(keys) != len(arguments) or results["type"] != "builtins.dict":
        raise ExportError("A .pt2 file: expected one tensor or one dict of tensors in, a dict out, found others.")
    outputs = zip(json.loads(results["context"]), signature.user_outputs, strict=True)
    return {
        "inputs": {key: _size(nodes[name].meta["val"]) for key, name in zip(keys, arguments, strict=True)},
        "outputs": {str(key): _size(nodes[str(name)].meta["val"]) for key, name in outputs},
    }


def _inputs_of(program: ExportedProgram) -> str | list[str]:
    """Return the keys of the dict that a program takes, or ``inputs`` if it takes a tensor."""
    specs = json.loads(torch.utils._pytree.treespec_dumps(program.call_spec.in_spec))[1]
    (argument,) = specs["children_spec"][0]["children_spec"]
    return "inputs" if argument["type"] is None else [str(key) for key in json.loads(argument["context"])]


def _size(value: Any) -> tuple[str, list[int | None]]:
    dtype = str(value.dtype).removeprefix("torch.")
    return dtype, [size if isinstance(size, int) else None for size in value.shape]
