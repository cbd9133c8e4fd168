"""Every exported task with every spec that it takes, and every kind of target that its ``check`` takes."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning import tasks
from mtl_lightning.tasks import Task
from mtl_lightning.types import ConfigurationError, TargetError, TargetSpec

SPECS = {
    "scalar": TargetSpec(),
    "classes": TargetSpec(classes=4, names=("a", "b", "c", "d")),
    "vector": TargetSpec(shape=(3,), units="mm"),
    "labels": TargetSpec(shape=(3,), classes=3),
    "exposed": TargetSpec(shape=(2,), names=("count", "exposure")),
    "lifetimes": TargetSpec(shape=(2,), names=("time", "event")),
    "pixels": TargetSpec(shape=(4, 5), classes=4),
    "directions": TargetSpec(shape=(3, 4, 5)),
}


def lifetimes(shape: tuple[int, ...], _: int) -> Tensor:
    """Times, each with a 1 for an event or a 0."""
    made = 1 + 9 * torch.rand(shape)
    if shape[-1:] == (2,):
        made[..., 1] = torch.randint(0, 2, shape[:-1]).float()
    return made


KINDS: dict[str, Callable[[tuple[int, ...], int], Tensor]] = {
    "numbers": lambda shape, _: 5 + 3 * torch.randn(shape),
    "bits": lambda shape, _: torch.randint(0, 2, shape),
    "bools": lambda shape, _: torch.randint(0, 2, shape).bool(),
    "bits-as-floats": lambda shape, _: torch.randint(0, 2, shape).float(),
    "classes": lambda shape, classes: torch.randint(0, classes, shape),
    "small-integers": lambda shape, classes: torch.randint(0, classes, shape, dtype=torch.int16),
    "doubles": lambda shape, _: 5 + 3 * torch.randn(shape, dtype=torch.float64),
    "counts": lambda shape, _: torch.randint(0, 4, shape).float() + 1,
    "lifetimes": lifetimes,
    "shares": lambda shape, _: torch.rand(shape),
    "distances": lambda shape, _: 1 + torch.rand(shape),
}
DENSE = {"distances"}  # for maps only: for a number per row they are like "numbers"
RARE = {"bits-as-floats", "doubles", "counts", "lifetimes"}  # nothing new to who takes any numbers
ROWS = 8
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "Regression": [{"transform": "log1p"}, {"transform": "yeo_johnson", "standardize": True}],
    "Count": [{"distribution": "negative_binomial"}, {"standardize": True}],
    "HeteroscedasticRegression": [{"standardize": True}, {"beta": 0.5}],
    "ZeroInflatedLogNormal": [{"standardize": True}],
    "VectorRegression": [{"loss": "l1", "standardize": True}],
    "Ordinal": [{"proportional": False}],
    "Quantile": [{"levels": [0.2, 0.3, 0.8, 0.9], "standardize": True}],
    "Survival": [{"cuts": [2.0, 4.0, 7.0]}],
    "BinaryClassification": [{"pos_weight": "balanced"}, {"focal": 2.0}, {"soft": True}],
    "MulticlassClassification": [{"class_weights": "balanced"}, {"focal": 2.0}],
    "MultilabelClassification": [{"pos_weight": "balanced"}, {"focal": 2.0}, {"soft": True}],
}
"""Options of some classes that change what they compute."""
EXPORTED = [getattr(tasks, name) for name in tasks.__all__]
CLASSES = [cls for cls in EXPORTED if inspect.isclass(cls) and issubclass(cls, Task) and not inspect.isabstract(cls)]


class Case:
    """A class of tasks with a spec and a kind of target that go together."""

    def __init__(self, cls: Any, spec: TargetSpec, kind: str, options: Mapping[str, Any]) -> None:
        self.cls, self.spec, self.kind, self.options = cls, spec, kind, options

    def task(self, **options: Any) -> Task:
        """The task, fitted to a target, always the same one, if it needs to be."""
        task: Task = self.cls(self.spec, **self.options, **options)
        if not task.fitted:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                task.fit_target(self.target(100))
        return task

    def target(self, rows: int = ROWS) -> Tensor:
        shape = (rows, *(self.spec.shape or ()))
        return KINDS[self.kind](shape, self.spec.classes or 2)

    def output(self, rows: int = ROWS, dtype: torch.dtype = torch.float32) -> Tensor:
        pixels = self.spec.shape[-2:] if len(self.spec.shape) > 1 else ()
        return torch.randn(rows, self.task().output_size, *pixels, dtype=dtype).requires_grad_()

    @property
    def can_miss(self) -> bool:
        return self.kind != "bools"


def find_cases() -> list[Any]:
    """Return every (class, spec, kind) that goes together; each class must accept something.

    With options all but the last are slow: these change what is computed, not what is accepted. So are those whose spec
    and kind were both met in other ways, and values that are nothing new.
    """
    torch.manual_seed(0)
    found: list[Any] = []
    last: dict[tuple[str, str], int] = {}
    for cls in CLASSES:
        before = len(found)
        accepts: set[tuple[str, str, str]] = set()
        met: set[str] = set()  # specs and kinds, which go together in many ways
        some = [{}, *VARIANTS.get(cls.__name__, [])]
        for (spec_name, spec), kind, options in itertools.product(SPECS.items(), KINDS, some):
            case = Case(cls, spec, kind, options)
            if (kind in DENSE and len(spec.shape) < 2) or (kind == "shares" and "soft" not in options):
                continue
            try:
                case.task().check(case.target(200))
            except (ConfigurationError, TargetError):
                continue
            if not case.task().labelled(case.target(200)).all():
                continue  # some of its values are missing labels
            words = "".join(f"-{value}" for value in options.values())
            accepts.add((spec_name, words, kind))
            last[cls.__name__, words] = len(found)
            seen = kind in RARE and (spec_name, words, "numbers") in accepts
            seen |= {spec_name, kind} <= met
            met |= {spec_name, kind}
            slow = [pytest.mark.slow] if options or seen else []
            found.append(pytest.param(case, id=f"{cls.__name__}{words}-{spec_name}-{kind}", marks=slow))
        assert len(found) > before, f"{cls.__name__} accepts none of these specs and targets"
    for place in last.values():
        found[place] = pytest.param(*found[place].values, id=found[place].id)
    return found


def is_case(value: object) -> bool:
    return isinstance(value, Case) and value.can_miss


CASES = find_cases()
every_case = pytest.mark.parametrize("case", CASES)
every_case_that_can_miss = pytest.mark.parametrize("case", [case for case in CASES if is_case(case.values[0])])


def without_labels(target: Tensor, rows: Any) -> Tensor:
    """A copy of the target whose ``rows`` (a mask or indices) are missing."""
    target = target.clone()
    target[rows] = float("nan") if target.is_floating_point() else -100
    return target


def refuses(cls: Any, spec: TargetSpec) -> bool:
    try:
        cls(spec)
    except ConfigurationError:
        return True
    return False
