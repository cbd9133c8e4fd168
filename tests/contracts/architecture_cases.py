"""What the contract tests of architectures, encoders and heads try: which parts, on which inputs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning import architectures
from mtl_lightning.architectures import (
    Architecture,
    BatchNorm,
    DCNv2,
    Encoder,
    Head,
    LeNet,
    SharedBottom,
    TabularEncoder,
)
from mtl_lightning.types import ConfigurationError, Features, InputSpec, TableSpec, TensorSpec
from tests.cover import thinned

TASKS = ["a", "b", "c"]
PICTURES, TABLE = TensorSpec((1, 16, 16)), TableSpec(("age", "hours"), {"work": 9, "education.years": 4})
LISTS = TableSpec(
    ("age", "hours"),
    {"item": 9, "work": 4},
    lists={"words": (11, 5), "bought": (9, 3)},
    shared={"item": "items", "bought": "items"},
    quantiles={"age": (-1.0, 0.0, 0.5), "hours": (0.3,)},
)
ALL_SPECS: list[Any] = [PICTURES, TensorSpec((3, 13, 17)), TensorSpec((8,))]  # pictures, odd ones, vectors
ENCODER_SPECS = [*ALL_SPECS, TensorSpec((3, 33, 40)), TABLE, LISTS]
ENCODERS_IN_USE: list[tuple[Any, Any]] = [
    (PICTURES, partial(LeNet, channels=(4, 6), width=8)),
    (TABLE, partial(TabularEncoder, hidden=(8, 6))),
    (TABLE, partial(TabularEncoder, hidden=(8, 6), norm=BatchNorm)),
    (LISTS, partial(TabularEncoder, hidden=(8, 6), bag={"bought": "sum"}, numbers="piecewise")),
    (LISTS, partial(DCNv2, layers=2, rank=3, experts=2, structure="parallel", hidden=(6, 4))),
]
DRAWS = 5


def exported(base: type) -> list[Any]:
    """Concrete subclasses; those that hand on another package's networks have tests of their own, and promise less."""
    values = [getattr(architectures, name) for name in architectures.__all__]
    found = [v for v in values if inspect.isclass(v) and issubclass(v, base) and v is not base]
    return [v for v in found if not hasattr(v, "needs")]


def accepted(factory: Any, sizes: Sequence[Any], *arguments: Any, name: str = "") -> list[Any]:
    """Return the (factory, size) that go together; a part may refuse a size, with a ConfigurationError."""
    pairs = []
    for size in sizes:
        try:
            factory(size, *arguments)
        except ConfigurationError:
            continue
        shape = size.shape if isinstance(size, TensorSpec) else size
        label = (
            ("table-with-lists" if shape.lists else "table")
            if isinstance(shape, TableSpec)
            else "x".join(map(str, shape))
        )
        pairs.append(pytest.param(factory, size, id=f"{name or factory.__name__}-{label}"))
    return pairs


def not_none(pairs: list[Any], cls: Any) -> list[Any]:
    assert pairs, f"{cls.__name__} takes none of the sizes that are tried"
    return pairs


def with_encoder(cls: Any, encoder: Any) -> Any:
    """The architecture with another encoder, or on top of another one that has it."""
    if "encoder" in inspect.signature(cls).parameters:
        return partial(cls, encoder=encoder)
    return partial(cls, architecture=partial(SharedBottom, encoder=encoder))


def tried(cls: Any) -> list[Any]:
    pairs = not_none(accepted(cls, ALL_SPECS, TASKS), cls)
    for spec, encoder in ENCODERS_IN_USE:
        pairs += accepted(with_encoder(cls, encoder), [spec], TASKS, name=f"{cls.__name__}-{encoder.func.__name__}")
    return pairs


ARCHITECTURES = [pair for n, cls in enumerate(exported(Architecture)) for pair in thinned(tried(cls), 2, n)]
"""By default every architecture meets half of the inputs and encoders, its neighbours the other half."""
ENCODERS = [pair for cls in exported(Encoder) for pair in not_none(accepted(cls, ENCODER_SPECS), cls)]
HEADS = [pair for cls in exported(Head) for pair in not_none(accepted(cls, [(6,), (6, 4, 3)], 7), cls)]
ONE_OF_EACH = [tried(cls)[0] for cls in exported(Architecture)]


def rows(spec: InputSpec, number: int, dtype: torch.dtype = torch.float32) -> Any:
    if isinstance(spec, TableSpec):
        codes = [torch.randint(n, (number,)) for n in spec.categorical.values()]
        made = {
            "numeric": torch.randn(number, len(spec.numeric), dtype=dtype),
            "categorical": torch.stack(codes, dim=1),
        }
        lists = [torch.randint(n, (number, length)) for n, length in spec.lists.values()]
        return made | ({"lists": torch.cat(lists, dim=1)} if lists else {})
    assert isinstance(spec, TensorSpec)
    return torch.randn(number, *[n for n in spec.shape if n is not None], dtype=dtype)


def to(inputs: Any, *target: Any) -> Any:
    return {name: t.to(*target) for name, t in inputs.items()} if isinstance(inputs, dict) else inputs.to(*target)


def halved(inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return {name: halved(value) for name, value in inputs.items()}
    return inputs.bfloat16() if inputs.is_floating_point() else inputs


def same(found: Features, expected: Features) -> bool:
    return {*found.per_task} == {*expected.per_task} and all(
        torch.equal(found.per_task[task], expected.per_task[task]) for task in expected.per_task
    )


def moved(features: Tensor, parameters: Sequence[nn.Parameter]) -> list[bool]:
    """Whether each parameter gets a gradient other than exactly zero from a random projection of these features."""
    total = (features * torch.randn_like(features)).sum()
    gradients = torch.autograd.grad(total, list(parameters), retain_graph=True, allow_unused=True)
    return [gradient is not None and bool(gradient.count_nonzero()) for gradient in gradients]


def unmoved(features: Tensor, module: nn.Module) -> list[str]:
    """The names of the parameters that features do not depend on."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    return [name for name, used in zip(names, moved(features, parameters), strict=True) if not used]
