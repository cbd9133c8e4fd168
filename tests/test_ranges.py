"""Numbers out of range are refused in every option of every public class, before anything is made."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import pytest

import mtl_lightning
from mtl_lightning import architectures, balancing, callbacks, data, lr_find, tasks
from mtl_lightning.architectures import MLP
from mtl_lightning.balancing import DWA, Balancer, FixedWeighting, GradDrop, GradNorm
from mtl_lightning.balancing.tools.adam import TaskAdam
from mtl_lightning.cli.serve import serve
from mtl_lightning.data.datasets.dense.augmentation import ScaleCropFlip
from mtl_lightning.ranges import OURS, range_of
from mtl_lightning.types import ConfigurationError, TensorSpec

PACKAGES = (mtl_lightning, architectures, balancing, callbacks, data, lr_find, tasks)
LOADERS = ("BatchRows", "EpochSampler", "PerTaskLoader", "ResumableLoader", "StreamLoader", "TableEncoder", "TorchJD")
BY_CODE = {*LOADERS, "Suggestion", "Sweep", "TableSpec", "TargetSpec", "TensorSpec"}
"""What no configuration makes: its numbers come from what does."""
UNSEEN = [(GradNorm, "initial_losses"), (ScaleCropFlip, "flip"), (ScaleCropFlip, "scales"), (TaskAdam, "betas")]
"""Options whose type has a name of its own, or whose class is not public."""


def numeric_options() -> list[tuple[type, str]]:
    """Every argument of a public class whose type has a number in it."""
    public = {getattr(package, name) for package in PACKAGES for name in package.__all__}
    classes = sorted((cls for cls in public if inspect.isclass(cls)), key=lambda cls: cls.__name__)
    return [
        (cls, name)
        for cls in classes
        if cls.__name__ not in BY_CODE and cls.__module__.startswith("mtl_lightning.") and "__init__" in vars(cls)
        for name, parameter in inspect.signature(vars(cls)["__init__"]).parameters.items()
        if re.search(r"\b(int|float)\b", re.sub(r"Callable\[\[.*?\], .*?\]", "", str(parameter.annotation)))
    ] + UNSEEN


OPTIONS = numeric_options()


@pytest.mark.parametrize(("cls", "name"), OPTIONS, ids=[f"{cls.__name__}.{name}" for cls, name in OPTIONS])
def test_no_option_takes_what_is_no_number_or_out_of_its_range(cls: Any, name: str) -> None:
    allowed = range_of(cls, name)
    wrong = [float("nan"), -float("inf"), *[float("inf")] * (not allowed.may_be_infinite)]
    wrong += [allowed.low - 1, allowed.high + 1, *[allowed.low] * allowed.open_low, *[allowed.high] * allowed.open_high]
    for value in [number for number in wrong if not allowed.holds(number)]:
        for given in (value, [value], {"a": value}):
            with pytest.raises(
                ConfigurationError, match=rf"{cls.__name__}: `{name}(\.a)?`: expected a .*number.*found"
            ):
                cls(**{name: given})


def test_what_is_in_its_range_is_taken_and_kept() -> None:
    assert GradDrop(2, leak={"a": 1.0, "b": 0.0}) is not None
    assert FixedWeighting(2, weights=[0.0, 3.0]).fixed_weights.tolist() == [0.0, 3.0]
    assert DWA(2, temperature=1e-3).temperature == 1e-3
    assert MLP(TensorSpec((3,)), hidden=(1,), dropout=0.0) is not None
    assert copy.deepcopy(DWA(2, temperature=3)).temperature == 3
    assert pickle.loads(pickle.dumps(DWA(2, temperature=3))).temperature == 3


def test_a_class_of_a_users_own_keeps_its_own_options() -> None:
    class Mine(Balancer):
        def __init__(self, num_tasks: int, offset: float = 0.0, temperature: float = 1.0) -> None:
            super().__init__(num_tasks)
            self.offset = offset

    assert Mine(2, offset=-3.0, temperature=-1.0).offset == -3.0
    with pytest.raises(ConfigurationError, match=r"Mine: `num_tasks`: expected .* of at least 1, found 0"):
        Mine(0)
    with pytest.raises(ConfigurationError, match=r"`temperature`: expected .* above 0, found 0"):
        type("Other", (DWA,), {})(2, temperature=0)


def test_the_signature_is_that_of_the_constructor() -> None:
    assert list(inspect.signature(DWA).parameters) == ["num_tasks", "temperature"]
    assert list(inspect.signature(type("Other", (DWA,), {})).parameters) == ["num_tasks", "temperature"]


def test_the_table_names_options_that_there_are() -> None:
    names = {name for _, name in OPTIONS} | {f"{cls.__name__}.{name}" for cls, name in OPTIONS}
    names |= {f"serve.{name}" for name in inspect.signature(serve).parameters}
    assert OURS.keys() - names == {"seed_everything"}  # of the command line
