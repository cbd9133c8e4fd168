"""From a trained network to a folder that was compared with it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mtl_lightning.core.network.final import FinalNetwork
from mtl_lightning.core.network.network import Network
from mtl_lightning.errors import ExportError
from mtl_lightning.export import comparison, formats, program
from mtl_lightning.export import rows as some_rows
from mtl_lightning.export.card import Facts, card
from mtl_lightning.export.comparison import Difference
from mtl_lightning.export.described import description
from mtl_lightning.export.formats import Format
from mtl_lightning.exported import folder as folders
from mtl_lightning.exported import open_model


@dataclass(frozen=True)
class Exported:
    """What was written, and how it compares.

    Attributes:
        folder: where it is.
        rows: how many rows were compared.
        source: where these are from, in words.
        differences: of each output.
    """

    folder: Path
    rows: int
    source: str
    differences: Mapping[str, Difference]

    def __str__(self) -> str:
        listed = "\n".join(f"  {name}: {one}" for name, one in self.differences.items())
        return f"Compared with `predict` on {self.rows} rows ({self.source}), the largest differences:\n{listed}"


def export_network(
    network: Network,
    folder: str | Path,
    format: Format = "onnx",
    rows: Any = None,
    source: str = "",
    facts: Facts | None = None,
    schema: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a network as a folder, after it was compared with the network.

    Args:
        network: a trained network; it is left as it is, mode and device included.
        folder: where to; an older export there is replaced, anything else refused.
        format: ``"onnx"``, which onnxruntime runs, or ``"pt2"``, which torch runs.
        rows: inputs as in a batch to compare on, the first 500; by default made up by the input spec.
        source: where the rows are from, in words.
        facts: what the model card tells of data and metrics.
        schema: of the data, plain; by default the one that came with a checkpoint.
        text: arguments of the datamodule, of which those about text files are kept.

    Raises:
        ExportError: for a part that cannot be exported, for answers that differ, and for a folder that is not ours.
        ConfigurationError: for a network that is not ready, and for a missing package.
    """
    formats.check_format(format)
    folders.refuse_foreign(folder)
    final = stand_alone(network)
    given = some_rows.made_up(network.input_spec) if rows is None else some_rows.as_tensors(rows)
    source = source or ("made up by the input spec" if rows is None else "given")
    given = some_rows.of_dtype(given, _dtype(final))
    traced = program.trace(final, _two_at_least(given), network.input_spec)
    declared = formats.declared(traced, format)
    known = description(network, network.trained_on if schema is None else schema, text)
    facts = facts or Facts()
    found: dict[str, Difference] = {}

    def fill(new: Path) -> str:
        file = new / declared["file"]
        formats.write(traced, file, format, declared)
        found.update(comparison.compare(network, open_model(file, declared), given, known["schema"]))
        return card(network, known, declared, facts, found, f"on {some_rows.count(given)} rows ({source})")

    written = folders.write(folder, {**known, "model": declared}, fill)
    return Exported(written, some_rows.count(given), source, found)


def stand_alone(network: Network) -> FinalNetwork:
    """Return a copy, on the CPU and in evaluation mode, of what predictions need of a network.

    Raises:
        ConfigurationError: for a network that waits for its sizes, or has tasks that were never fitted.
        ExportError: for one that cannot be copied.
    """
    network.check_built()
    network.check_fitted()
    parts = ("tasks", "architecture", "heads")
    alone = Network.__new__(Network)
    nn.Module.__init__(alone)
    try:
        memo: dict[int, Any] = {}
        for name in parts:
            setattr(alone, name, copy.deepcopy(getattr(network, name), memo))
    except Exception as error:  # of whatever a part keeps
        raise ExportError(
            f"The network cannot be copied: {type(error).__name__}: {str(error)[:300]} Export it from a checkpoint: "
            "`mtl-lightning export --ckpt_path ...`."
        ) from error
    alone.graph, alone.input_spec = network.graph, network.input_spec
    alone.calibration, alone.trained_on = network.calibration, network.trained_on
    alone.to("cpu").requires_grad_(False)
    return FinalNetwork(alone)


def _dtype(final: FinalNetwork) -> torch.dtype:
    """Return the dtype that a network reads numbers in.

    Raises:
        ExportError: for half precision, which would round the answers.
    """
    network = final.network
    found = {p.dtype for part in (network.architecture, network.heads) for p in part.parameters()}
    if half := [dtype for dtype in found if dtype.is_floating_point and dtype.itemsize < 4]:
        raise ExportError(
            f"The network: expected weights in float32, found {half[0]}. Load it from its checkpoint, which gives "
            "float32, or call `module.float()`."
        )
    return torch.float64 if found == {torch.float64} else torch.float32


def _two_at_least(rows: Any) -> Any:
    if some_rows.count(rows) >= program.LEAST_ROWS:
        return some_rows.cut(rows, slice(5))
    if isinstance(rows, Mapping):
        return {name: part.repeat(2, *(1,) * (part.dim() - 1)) for name, part in rows.items()}
    return rows.repeat(2, *(1,) * (rows.dim() - 1))
