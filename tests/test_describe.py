"""The plain data of a part."""

from __future__ import annotations

import copy
import importlib
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

from mtl_lightning import MultiTaskModule
from mtl_lightning.balancing import MGDA
from mtl_lightning.describe import Described, describe
from mtl_lightning.tasks import Regression, Task
from mtl_lightning.types import Likelihood, NotDescribableError, TargetSpec


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
    assert describe(MGDA) == {"class_path": "mtl_lightning.balancing.MGDA"}
    assert describe(MultiTaskModule) == {"class_path": "mtl_lightning.MultiTaskModule"}
    assert describe(Adam) == {"class_path": "torch.optim.Adam"}
    assert describe(scaled) == f"{__name__}.scaled"
    assert describe(F.l1_loss) == "torch.nn.functional.l1_loss"
    assert describe(math.sqrt) == "math.sqrt"


def test_the_outermost_package_that_exports_it_outlives_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "outer_of_test" / "inner" / "deeper"
    deep.mkdir(parents=True)
    (deep / "file.py").write_text("class Public: ...\nclass Hidden: ...\nclass Taken: ...\n")
    exports = {"": "from .inner import Public\nTaken = 1", "inner": "from .deeper import Public", "inner/deeper": ""}
    exports["inner/deeper"] = "from .file import Hidden, Public, Taken"
    for place, line in exports.items():
        (tmp_path / "outer_of_test" / place / "__init__.py").write_text(f"{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    file: Any = importlib.import_module("outer_of_test.inner.deeper.file")
    assert describe(file.Public) == {"class_path": "outer_of_test.Public"}
    assert describe(file.Hidden) == {"class_path": "outer_of_test.inner.deeper.Hidden"}
    assert describe(file.Taken) == {"class_path": "outer_of_test.inner.deeper.Taken"}  # another one's name further out


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
        (lambda: None, "found tests.test_describe.<lambda>"),
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
