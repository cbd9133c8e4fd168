"""A graph in a file: ONNX or PyTorch's own format; and what the file's inputs and outputs are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch.export import ExportedProgram

from mtl_lightning.errors import ConfigurationError, ExportError
from mtl_lightning.export.program import part_of, quiet, without_traces
from mtl_lightning.exported import pt2_file
from mtl_lightning.exported.pt2_model import interface

Format: TypeAlias = Literal["onnx", "pt2"]
FORMATS: tuple[Format, ...] = ("onnx", "pt2")


def check_format(format: str) -> None:
    """Refuse a format that we do not write, and one whose writer is not installed.

    Raises:
        ConfigurationError: with what to install.
    """
    if format not in FORMATS:
        raise ConfigurationError(f"`format`: expected one of {list(FORMATS)}, found {format!r}.")
    if format == "onnx":
        try:
            import onnx  # noqa: F401  # is it there?
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(
                f"`format: onnx` needs {error.name}, which is not installed: pip install 'mtl-lightning[export]'. "
                "`format: pt2` needs nothing more, but is run by torch."
            ) from error


def declared(program: ExportedProgram, format: Format) -> dict[str, Any]:
    """Return what ``schema.json`` says of the model: its file, and the dtypes and shapes of what goes in and out."""
    found = interface(program)
    sides = {
        which: {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in found[which].items()}
        for which in ("inputs", "outputs")
    }
    return {"file": f"model.{format}", "format": format, **sides}


def write(program: ExportedProgram, file: Path, format: Format, declared: Mapping[str, Any]) -> None:
    """Write a graph.

    Raises:
        ExportError: that names the part with an operator that the format does not have.
    """
    with quiet():
        if format == "pt2":
            torch.export.save(without_traces(program), file)
            pt2_file.check(file)
        else:
            _write_onnx(program, file, list(declared["inputs"]), list(declared["outputs"]))


def _write_onnx(program: ExportedProgram, file: Path, inputs: list[str], outputs: list[str]) -> None:
    try:
        converted = torch.onnx.export(
            program, input_names=inputs, output_names=outputs, dynamo=True, optimize=True, verbose=False
        )
    except Exception as error:  # of torch
        raise ExportError(_failure(program, error)) from error
    assert converted is not None  # as there is no file to write to
    for node in converted.model.graph.all_nodes():
        node.metadata_props.clear()
    converted.model.metadata_props.clear()
    converted.save(file)


def _failure(program: ExportedProgram, error: Exception) -> str:
    text: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text.append(str(cause))
        cause = cause.__cause__
    whole = "\n".join(text)
    found = re.search(r"No ONNX function found for <?\w*\(?op='?([\w.]+)|No decomposition[^']*'([\w.]+)'", whole)
    if found:
        operator = found[1] or found[2]
        return (
            f"{part_of(program, operator)} cannot be exported to ONNX, which has no operator for {operator}. "
            "Write that part in other operators, or use `format: pt2`."
        )
    lines = [line.strip() for line in text[-1].splitlines() if line.strip()]
    return (
        f"The network cannot be exported to ONNX: {type(error).__name__}: {(lines or ['without a message'])[0]:.300}. "
        "Use `format: pt2`, which runs whatever PyTorch runs."
    )
