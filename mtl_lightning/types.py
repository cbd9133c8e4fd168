"""The words that every layer shares: batches, specs and likelihoods; and, beside them, the errors.

Letters for shapes, used in every docstring: B rows of a batch, T tasks, D features, K outputs of one task,
E channels of an estimate, P parameters. ``*`` stands for any further axes (height and width of a picture).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict, cast

import torch
from torch import Tensor

from mtl_lightning.describe import Described, constructor_arguments, describe  # public here, too
from mtl_lightning.errors import (
    BatchError,
    ConfigurationError,
    DataError,
    MtlLightningError,
    MtlLightningWarning,
    NotDescribableError,
    TargetError,
)
from mtl_lightning.layout import tensors_of_table

__all__ = [
    "Batch",
    "BatchError",
    "ConfigurationError",
    "DataError",
    "Described",
    "Features",
    "InputSpec",
    "Likelihood",
    "MtlLightningError",
    "MtlLightningWarning",
    "NotDescribableError",
    "TableSpec",
    "TargetError",
    "TargetSpec",
    "TensorSpec",
    "as_spec",
    "constructor_arguments",
    "describe",
    "input_spec_from_dict",
    "input_spec_to_dict",
    "sample_inputs",
    "spec_of",
    "state_dtype",
]


# ---------------------------------------------------------------------------------------------------------------- batch
class Batch(TypedDict, total=False):
    """What a loader yields. Only ``inputs`` is required, and only ``predict`` may leave ``targets`` out.

    - ``inputs``: anything that has ``.to()`` or is a dict of such;
    - ``targets``: ``{task: Tensor}``. Missing labels: ``nan`` in float targets, ``-100`` (or the task's
      ``ignore_index``) in integer targets, a task absent from the dict;
    - ``weights``: sample weights, (B,) for all tasks or ``{task: (B,)}``;
    - ``ids``: what travels along with the rows and comes out beside their predictions, never seen by the network: a
      tensor (B, *), a NumPy array, a list, or a dict of such.
    """

    inputs: Any
    targets: dict[str, Tensor]
    weights: Tensor | dict[str, Tensor]
    ids: Any


@dataclass(frozen=True)
class Features:
    """What an architecture returns: features (B, D, *) per task, and auxiliary losses () that are already scaled."""

    per_task: Mapping[str, Tensor]
    aux: Mapping[str, Tensor] = field(default_factory=dict)


class Likelihood(NamedTuple):
    """The uncertainty term ``a * exp(-s) * L + b * s`` of a task whose loss is L, the mean over labelled entries.

    ``scale`` says what s is: ``"log_var"``, the log of a variance (Gaussian noise, a softmax temperature), or
    ``"log_scale"``, the log of a scale b (Laplace noise, whose standard deviation is ``sqrt(2) * b``).
    """

    a: float
    b: float
    scale: Literal["log_var", "log_scale"]

    def sigma(self, s: Tensor) -> Tensor:
        """Map s to the standard deviation it stands for, in the units of the loss."""
        return torch.exp(0.5 * s) if self.scale == "log_var" else 2.0**0.5 * torch.exp(s)


# ---------------------------------------------------------------------------------------------------------------- specs
@dataclass(frozen=True)
class TensorSpec:
    """One input tensor: its shape without the batch axis (``None`` where it varies) and its dtype's name."""

    shape: tuple[int | None, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class TableSpec:
    """A table: names of the numeric columns, and the number of codes of each categorical one.

    Inputs are ``{"numeric": (B, Dn) float32, "categorical": (B, Dc) int64}``; code 0 means missing or unseen. Columns
    of lists are beside them in ``"lists"`` (B, L) int64, one after the other, each as wide as its longest; code 0 there
    is no element.

    Args:
        numeric: names of the numbers, in the order of ``inputs["numeric"]``.
        categorical: numbers of codes, code 0 included, by column, in the order of ``inputs["categorical"]``.
        lists: numbers of codes, code 0 included, and lengths, by column, in the order of ``inputs["lists"]``.
        shared: columns of codes or lists that have their embeddings in common, each with the name of that table; those
            of one name have one number of codes.
        quantiles: rising bounds between equal shares of the training rows, by numeric column, in the units of
            ``inputs["numeric"]``; of some columns or none.
    """

    numeric: tuple[str, ...]
    categorical: dict[str, int]
    lists: dict[str, tuple[int, int]] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    quantiles: dict[str, tuple[float, ...]] = field(default_factory=dict)


InputSpec: TypeAlias = TensorSpec | TableSpec | dict[str, TensorSpec]


@dataclass(frozen=True)
class TargetSpec:
    """What the data knows of one target, so that a task chosen in YAML has no sizes to repeat.

    ``shape`` is without the batch axis, ``()`` for a scalar; ``classes`` is the number of classes (or of labels of
    a multi-label target); ``names`` are the names of classes, labels or outputs; ``units`` are in words.
    """

    shape: tuple[int, ...] = ()
    classes: int | None = None
    names: tuple[str, ...] = ()
    units: str = ""

    def named(self, number: int) -> list[str]:
        """Return the names of so many classes, labels or outputs; ``"0"``, ``"1"``, ... where it has none of them."""
        return [*self.names] if len(self.names) == number else [str(index) for index in range(number)]


def as_spec(given: Any) -> InputSpec | None:
    """Return an input spec; a shape without the batch axis, ``(4,)`` or ``4``, is that of one tensor.

    Raises:
        ConfigurationError: for anything else.
    """
    if given is None or isinstance(given, TensorSpec | TableSpec):
        return given
    if isinstance(given, int) and not isinstance(given, bool):
        return TensorSpec((given,))
    if isinstance(given, tuple | list) and all(n is None or (isinstance(n, int) and n > 0) for n in given):
        return TensorSpec(tuple(given))
    if isinstance(given, Mapping) and given:
        specs = {str(name): as_spec(entry) for name, entry in given.items()}
        if all(isinstance(spec, TensorSpec) for spec in specs.values()):
            return cast("dict[str, TensorSpec]", specs)
    raise ConfigurationError(
        f"`input_spec`: expected the shape of a row, such as `TensorSpec((4,))`, a dict of such, or a TableSpec, found "
        f"{type(given).__name__}. Take the datamodule's `input_spec`, or leave it out: it is read off the first batch."
    )


def input_spec_to_dict(spec: InputSpec | None) -> dict[str, Any] | None:
    """Plain data of an input spec, for a checkpoint; :func:`input_spec_from_dict` reads it back."""
    if spec is None:
        return None
    if isinstance(spec, TensorSpec):
        return {"tensor": {"shape": list(spec.shape), "dtype": spec.dtype}}
    if isinstance(spec, TableSpec):
        return {"table": _table_to_dict(spec)}
    return {"tensors": {name: {"shape": list(s.shape), "dtype": s.dtype} for name, s in spec.items()}}


def input_spec_from_dict(data: Mapping[str, Any] | None) -> InputSpec | None:
    """Read back what :func:`input_spec_to_dict` wrote."""
    if data is None:
        return None
    if "tensor" in data:
        return TensorSpec(tuple(data["tensor"]["shape"]), data["tensor"]["dtype"])
    if "table" in data:
        return _table_from_dict(data["table"])
    return {name: TensorSpec(tuple(s["shape"]), s["dtype"]) for name, s in data["tensors"].items()}


def _table_to_dict(spec: TableSpec) -> dict[str, Any]:
    table: dict[str, Any] = {"numeric": list(spec.numeric), "categorical": dict(spec.categorical)}
    more = {
        "lists": {name: list(sizes) for name, sizes in spec.lists.items()},
        "shared": dict(spec.shared),
        "quantiles": {name: list(bounds) for name, bounds in spec.quantiles.items()},
    }
    return table | {name: part for name, part in more.items() if part}


def _table_from_dict(table: Mapping[str, Any]) -> TableSpec:
    return TableSpec(
        tuple(table["numeric"]),
        dict(table["categorical"]),
        {name: (codes, length) for name, (codes, length) in table.get("lists", {}).items()},
        dict(table.get("shared", {})),
        {name: tuple(bounds) for name, bounds in table.get("quantiles", {}).items()},
    )


def spec_of(inputs: Any) -> InputSpec:
    """Read the spec off a batch of inputs: a tensor (B, *) or a dict of tensors.

    Raises:
        ConfigurationError: for anything else, which has no spec; the module then needs networks that take no size.
    """
    if isinstance(inputs, Tensor):
        return TensorSpec(tuple(inputs.shape[1:]), str(inputs.dtype).removeprefix("torch."))
    if isinstance(inputs, Mapping) and inputs and all(isinstance(v, Tensor) for v in inputs.values()):
        return {str(k): TensorSpec(tuple(v.shape[1:]), str(v.dtype).removeprefix("torch.")) for k, v in inputs.items()}
    raise ConfigurationError(
        f"Expected inputs to be a tensor or a dict of tensors to read their sizes from, found {type(inputs).__name__}. "
        "Pass `input_spec`, or use a network that has `out_features`."
    )


def sample_inputs(spec: InputSpec, rows: int = 2) -> Any:
    """Make inputs of a spec, to probe a network's output size with; a ``None`` in a shape becomes 32."""
    if isinstance(spec, TableSpec):
        return {
            name: torch.zeros(rows, *shape, dtype=getattr(torch, dtype))
            for name, (shape, dtype) in tensors_of_table(_table_to_dict(spec)).items()
        }
    if isinstance(spec, TensorSpec):
        shape = [32 if n is None else n for n in spec.shape]
        return torch.zeros(rows, *shape, dtype=getattr(torch, spec.dtype))
    return {name: sample_inputs(s, rows) for name, s in spec.items()}


# ---------------------------------------------------------------------------------------------------------------- state
def state_dtype() -> torch.dtype:
    """Return the dtype of what a part remembers or learns by itself: torch's default one, but not below float32."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)
