"""``mtl-lightning export``: a checkpoint as a folder that runs without this library, with a model card."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

import numpy as np

from mtl_lightning.checkpoint_file import read_part
from mtl_lightning.cli.export_data import Known, known_of
from mtl_lightning.cli.parser import Parser
from mtl_lightning.core import MultiTaskModule
from mtl_lightning.encoding import RowEncoder, TableFiles
from mtl_lightning.errors import ConfigurationError
from mtl_lightning.export import Exported, export_network
from mtl_lightning.export.formats import check_format
from mtl_lightning.export.rows import NUMBER
from mtl_lightning.exported.folder import refuse_foreign
from mtl_lightning.predictor.description import is_table


def export(
    ckpt_path: str,
    format: Literal["onnx", "pt2"] = "onnx",
    out: str = "exported",
    rows: str | None = None,
    use_data: bool = True,
    intended_use: str = "",
    module: str = "mtl_lightning.MultiTaskModule",
    trusted: list[str] | None = None,
) -> Exported:
    """Export a checkpoint: the network as ONNX or .pt2, its schema, and a model card.

    Args:
        ckpt_path: the checkpoint's file.
        format: onnx, which onnxruntime runs, or pt2, which torch runs.
        out: the folder to write; an older export there is replaced, anything else refused.
        rows: a table to compare the export on; by default rows of the data that the checkpoint names, else made up.
        use_data: read that data: for rows to compare on, and for the card's numbers of rows, labels, and metrics.
        intended_use: what the answers are for, and what not, for the card.
        module: the class of the module, if it is one of yours.
        trusted: modules or packages of yours whose classes the checkpoint may name.
    """
    check_format(format)
    refuse_foreign(out)
    cls = resolve_name(module)
    if not (isinstance(cls, type) and issubclass(cls, MultiTaskModule)):
        raise ConfigurationError(f"`module`: expected a MultiTaskModule or a subclass of it, found {module}.")
    names = trusted or []
    made: MultiTaskModule = cls.load_from_checkpoint(ckpt_path, map_location="cpu", trusted=names)
    saved = read_part(ckpt_path)
    known = known_of(made, ckpt_path, saved, names) if use_data else Known()
    data = (saved.get("data") or {}).get("init_args") or {}
    given, source = (
        (known.rows, known.source) if rows is None else (_rows_of(rows, made, data), f"of {Path(rows).name}")
    )
    return export_network(
        made,
        out,
        format,
        given,
        source=source,
        facts=known.facts(saved, intended_use),
        text=data,
    )


def _rows_of(file: str, module: MultiTaskModule, data: Mapping[str, Any]) -> Any:
    """Return the first rows of a table as the network reads them."""
    schema = module.trained_on
    if schema is None or not is_table(schema):
        raise ConfigurationError(
            f"`rows`: expected none, since the checkpoint holds no schema of a table to read {file} by. Leave the "
            "option out, or call `module.export(folder, rows=...)` with inputs of a batch."
        )
    text = {key: data[key] for key in ("delimiter", "header", "encoding") if data.get(key) is not None}
    encoder = RowEncoder(schema)
    files = TableFiles(file, missing=schema["missing_values"], **text)
    parts: list[dict[str, Any]] = []
    for piece in files.pieces(encoder.features()):
        parts.append(encoder.inputs(piece.rows.slice(0, NUMBER)))
        if sum(len(part["numeric"]) for part in parts) >= NUMBER:
            break
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def main(arguments: list[str]) -> None:
    """Run the command with the arguments that follow its name."""
    parser = Parser(prog="mtl-lightning export", description=str(export.__doc__).partition("\n")[0])
    parser.add_argument("-c", "--config", action="config", help="Path to a file with these options.")
    parser.add_function_arguments(export)
    options = {name: value for name, value in parser.parse_args(arguments).as_dict().items() if name != "config"}
    found = export(**options)
    sys.stdout.write(
        f"{found}\nWritten: {found.folder}. Its README.md is the model card: say there what the model is for.\n"
    )
