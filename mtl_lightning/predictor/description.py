"""What a predictor has to know beside the network: one dict of plain data, which any JSON file can hold.

- ``schema``: the table's schema, as of :meth:`~mtl_lightning.data.TableFitter.finish`; None for other data;
- ``input_spec``: as of :func:`~mtl_lightning.types.input_spec_to_dict`;
- ``tasks``: of each task how final outputs become answers, as of :meth:`~mtl_lightning.tasks.Task.decoding`;
- ``calibration``: of each calibrated task its calibration (:mod:`~mtl_lightning.core.network.calibration`), or None;
- ``text``: how text files of the table were read in training: ``header``, ``delimiter``, ``encoding``;
- ``versions``: of this library, and of the ``format`` of this dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtl_lightning.errors import CheckpointError
from mtl_lightning.version import __version__

__all__ = ["FORMAT", "FORMS", "check_description", "is_table", "make_description", "names_from_schema"]

FORMAT = 1
FORMS = ("binary", "classes", "labels", "values", "fields", "arrays")
_TEXT = ("header", "delimiter", "encoding")
_KINDS: dict[str, tuple[type, ...]] = {
    "schema": (dict, type(None)),
    "input_spec": (dict, type(None)),
    "tasks": (dict,),
    "calibration": (dict, type(None)),
    "versions": (dict,),
}


def make_description(
    *,
    tasks: Mapping[str, Mapping[str, Any]],
    schema: Mapping[str, Any] | None,
    input_spec: Mapping[str, Any] | None,
    calibration: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put a description together.

    Args:
        tasks: each task's ``decoding()``.
        schema: the schema of the data, kept if it is a table's.
        input_spec: as plain data.
        calibration: the network's.
        text: arguments of the datamodule, of which those about text files are kept.
    """
    table = schema if is_table(schema) else None
    return {
        "schema": None if table is None else dict(table),
        "input_spec": None if input_spec is None else dict(input_spec),
        "tasks": {name: names_from_schema(name, decoding, table) for name, decoding in tasks.items()},
        "calibration": {name: dict(known) for name, known in (calibration or {}).items()} or None,
        "text": {name: text[name] for name in _TEXT if text.get(name) is not None} if text else {},
        "versions": {"format": FORMAT, "mtl_lightning": __version__},
    }


def is_table(schema: Mapping[str, Any] | None) -> bool:
    """Whether a schema is that of a table, by which rows can be encoded."""
    return schema is not None and {"numeric", "categorical", "missing_values", "targets"} <= {*schema}


def names_from_schema(task: str, decoding: Mapping[str, Any], schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return how a task is decoded, with the names of its classes from the table's schema where this has them.

    Args:
        task: its name.
        decoding: as of the task.
        schema: the table's, or None.
    """
    known = (schema or {}).get("targets", {}).get(task, {})
    values = known.get("values", []) if known.get("kind") in ("classes", "ordinal") else []
    fits = decoding.get("form") in ("binary", "classes") and len(values) == len(decoding["names"])
    return {**decoding, "names": list(values)} if fits else dict(decoding)


def check_description(found: Any, where: str) -> dict[str, Any]:
    """Return a description that was read from somewhere, if it is one that this version knows.

    Raises:
        CheckpointError: that says what is wrong with it.
    """
    if not isinstance(found, dict):
        raise CheckpointError(f"{where}: expected the description of a predictor, found {type(found).__name__}.")
    number = found["versions"].get("format") if isinstance(found.get("versions"), dict) else None
    if number != FORMAT:
        raise CheckpointError(
            f"{where}: expected a description of format {FORMAT}, found {number!r}. Export the model again, or use the "
            "version of mtl_lightning that wrote it."
        )
    for key, kinds in _KINDS.items():
        if not isinstance(found.get(key), kinds):
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise CheckpointError(f"{where}: expected `{key}` as {wanted}, found {found.get(key)!r:.60}.")
    if found["schema"] is not None and not is_table(found["schema"]):
        raise CheckpointError(f"{where}: expected the schema of a table, found keys {sorted(found['schema'])[:8]}.")
    for name, decoding in found["tasks"].items():
        form = decoding.get("form") if isinstance(decoding, dict) else None
        if form not in FORMS or not _is_named(decoding):
            raise CheckpointError(
                f"{where}: expected of task {name!r} a `form` among {list(FORMS)} with `names`, or with `fields` by "
                f"name, found {decoding!r:.80}."
            )
    return found


def _is_named(decoding: Mapping[str, Any]) -> bool:
    """Whether a decoding says what its outputs are called, as its form needs it."""
    if decoding["form"] == "fields":
        fields = decoding.get("fields")
        return isinstance(fields, dict) and "value" in fields and all(isinstance(one, list) for one in fields.values())
    return decoding["form"] == "arrays" or isinstance(decoding.get("names"), list)
