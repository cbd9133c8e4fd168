"""Specs, likelihoods, and the plain data of a part."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from torch import nn
from torch.optim import Adam

from mtl_lightning.tasks import Regression, Task
from mtl_lightning.types import (
    ConfigurationError,
    Described,
    InputSpec,
    Likelihood,
    MtlLightningError,
    NotDescribableError,
    TableSpec,
    TargetError,
    TargetSpec,
    TensorSpec,
    describe,
    input_spec_from_dict,
    input_spec_to_dict,
    sample_inputs,
    spec_of,
)

SPECS: list[InputSpec | None] = [
    None,
    TensorSpec((3, None, 7), "float64"),
    TensorSpec(()),
    TableSpec(("age", "wage"), {"job": 5, "state": 51}),
    {"image": TensorSpec((1, 8, 8)), "ids": TensorSpec((4,), "int64")},
]


class Part(Described):
    """A part with a name, sizes, and another part."""

    def __init__(self, name: str, sizes: tuple[int, ...] = (), *, inner: Any = None) -> None:
        self.name, self.sizes, self.inner = name, sizes, inner


class Special(Part):
    """Inherits its constructor."""


class Plain:
    """Keeps no record of its arguments."""


def scaled(value: float) -> float:
    return 2 * value


PATH = f"{__name__}.Part"


# ---------------------------------------------------------------------------------------------------------------- specs
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_input_specs_come_back_from_plain_data(spec: InputSpec | None) -> None:
    data = input_spec_to_dict(spec)
    assert describe(data) == data  # plain data indeed
    assert input_spec_from_dict(data) == spec


def test_spec_of_inputs() -> None:
    image, ids = torch.zeros(5, 1, 8, 8), torch.zeros(5, 4, dtype=torch.int64)
    assert spec_of(image) == TensorSpec((1, 8, 8))
    assert spec_of({"image": image, "ids": ids}) == {"image": TensorSpec((1, 8, 8)), "ids": TensorSpec((4,), "int64")}


@pytest.mark.parametrize("inputs", [[1, 2], {}, {"text": ["a"]}, None])
def test_other_inputs_have_no_spec(inputs: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"a tensor or a dict of tensors .*found .*Pass `input_spec`"):
        spec_of(inputs)


@pytest.mark.parametrize("spec", [SPECS[2], SPECS[4]], ids=str)
def test_sample_inputs_have_their_spec(spec: InputSpec) -> None:
    assert spec_of(sample_inputs(spec, rows=3)) == spec


def test_sample_inputs_of_a_table_and_of_open_sizes() -> None:
    table = sample_inputs(TableSpec(("age", "wage"), {"job": 5}), rows=3)
    assert {name: (tuple(t.shape), t.dtype) for name, t in table.items()} == {
        "numeric": ((3, 2), torch.float32),
        "categorical": ((3, 1), torch.int64),
    }
    assert sample_inputs(TensorSpec((3, None, 7))).shape == (2, 3, 32, 7)


def test_target_specs_come_back_from_plain_data() -> None:
    spec = TargetSpec(shape=(3,), classes=3, names=("a", "b", "c"), units="mm")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--spec", type=TargetSpec)
    assert parser.instantiate(parser.parse_object({"spec": describe(spec)})).spec == spec


# ----------------------------------------------------------------------------------------------------------- likelihood
def test_sigma_of_a_variance_and_of_a_scale() -> None:
    s = torch.tensor([math.log(9.0)])
    assert Likelihood(0.5, 0.5, "log_var").sigma(s).item() == pytest.approx(3.0)
    assert Likelihood(1.0, 1.0, "log_scale").sigma(s).item() == pytest.approx(9.0 * math.sqrt(2))


# --------------------------------------------------------------------------------------------------------------- errors
def test_errors_are_ours_and_of_the_usual_kinds() -> None:
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(TargetError, ValueError)
    assert issubclass(NotDescribableError, TypeError)
    assert all(issubclass(e, MtlLightningError) for e in (ConfigurationError, TargetError, NotDescribableError))


# ------------------------------------------------------------------------------------------------------------- describe
@pytest.mark.parametrize("value", [None, True, 3, 0.5, "text", [1, [2]], {"a": {"b": None}}], ids=str)
def test_plain_data_stays(value: Any) -> None:
    assert describe(value) == value


def test_containers_and_paths_become_plain() -> None:
    assert describe((1, (2, 3))) == [1, [2, 3]]
    assert describe({1: Path("a") / "b"}) == {"1": "a/b"}
    assert describe({"x"}) == ["x"]
    assert describe(Likelihood(0.5, 1.0, "log_var")) == [0.5, 1.0, "log_var"]


def test_classes_and_functions_become_the_shortest_path_that_leads_back() -> None:
    assert describe(Part) == {"class_path": PATH}
    assert describe(Regression) == {"class_path": "mtl_lightning.tasks.Regression"}
    assert describe(Adam) == {"class_path": "torch.optim.Adam"}
    assert describe(scaled) == f"{__name__}.scaled"
    assert describe(F.l1_loss) == "torch.nn.functional.l1_loss"
    assert describe(math.sqrt) == "math.sqrt"


def test_partials_of_classes() -> None:
    part = partial(Part, name="a", inner=partial(Adam, lr=0.1))
    inner = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}}
    assert describe(part) == {"class_path": PATH, "init_args": {"name": "a", "inner": inner}}
    assert describe(partial(Part)) == {"class_path": PATH}
    assert describe(partial(partial(Part, name="a"), sizes=(1,)))["init_args"] == {"name": "a", "sizes": [1]}


def test_instances_that_remember_their_arguments() -> None:
    described = {"class_path": PATH, "init_args": {"name": "a", "sizes": [1, 2], "inner": {"class_path": PATH}}}
    assert describe(Part("a", (1, 2), inner=Part)) == described
    assert describe(Part(name="a", sizes=(1, 2), inner=Part)) == described
    assert describe(Special("b")) == {"class_path": f"{__name__}.Special", "init_args": {"name": "b"}}
    nested = describe(Part("a", inner=Part("b")))
    assert nested["init_args"]["inner"] == {"class_path": PATH, "init_args": {"name": "b"}}


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_copies_remember_too(clone: Callable[[Part], Part]) -> None:
    part = Part("a", inner=Part("b"))
    assert describe(clone(part)) == describe(part)


def test_what_the_parser_makes_of_a_factory() -> None:
    """The parser's factories are partials of its own functions, with the class among their arguments."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--task", type=Callable[[TargetSpec], Task])
    options = {"loss": "huber", "delta": 2.0}
    said = {"class_path": "mtl_lightning.tasks.Regression", "init_args": options}
    factory = parser.instantiate(parser.parse_object({"task": said})).task
    assert isinstance(factory, partial)
    described = describe(factory)
    assert described["class_path"] == said["class_path"]
    assert described["init_args"].items() >= options.items()
    made = factory(TargetSpec())
    assert describe(made)["init_args"].items() >= options.items()


def local_function() -> Callable[[], None]:
    def inside() -> None: ...

    return inside


def local_class() -> type:
    class Inside: ...

    return Inside


@pytest.mark.parametrize(
    ("part", "found"),
    [
        (Plain(), "found an instance: .*Plain object"),
        (nn.Linear(1, 1), "found an instance: Linear"),
        (torch.ones(1), "found an instance: tensor"),
        (lambda: None, "found tests.test_types.<lambda>"),
        (local_function(), "local_function.<locals>.inside"),
        (local_class(), "local_class.<locals>.Inside"),
        (Regression.predict, "top of a module, found mtl_lightning.tasks.regression.Regression.predict"),
        (partial(Part, "a"), "keyword arguments only"),
        (partial(scaled, value=1.0), "a partial of a class"),
        (partial(Part, name="a", inner=lambda: None), "<lambda>"),
        ([1, {"a": Plain()}], "found an instance"),
        (Part("a", inner=Plain()), "found an instance"),
    ],
)
def test_what_only_code_can_rebuild_is_refused(part: Any, found: str) -> None:
    with pytest.raises(NotDescribableError, match=found):
        describe(part)


def test_a_name_that_leads_elsewhere_is_refused() -> None:
    impostor = type("Part", (Part,), {"__module__": __name__, "__qualname__": "Part"})
    with pytest.raises(NotDescribableError, match="found something else under that name"):
        describe(impostor)
