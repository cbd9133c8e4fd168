"""From plain data to objects, by the types of constructors; and what says that it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.describe import Described, describe
from mtl_lightning.errors import NotDescribableError
from mtl_lightning.rebuild import rebuild, unbuildable
from mtl_lightning.trust import Trust

HERE = Trust([__name__])
CALLED: list[str] = []


class Pair(NamedTuple):
    a: float
    b: str = "b"


@dataclass
class Options:
    factory: Callable[..., Optimizer] | None = None
    size: int = 1


class Part(Described):
    def __init__(self, size: int = 1) -> None:
        CALLED.append("Part")
        self.size = size


class Other(Described):
    def __init__(self) -> None:
        CALLED.append("Other")


def function(value: Any) -> Any:
    CALLED.append("function")
    return value


def named(x: int) -> int:
    return x


class Whole(Described):
    """Something of everything."""

    def __init__(  # type: ignore[no-untyped-def]  # of `bare`
        self,
        number: float = 1.0,
        text: str = "",
        path: str | Path = "",
        place: Path = Path(),
        sizes: tuple[int, ...] = (),
        two: tuple[float, str] | None = None,
        names: set[str] = frozenset(),  # type: ignore[assignment]  # as good as a set here
        numbers: dict[int, str] | None = None,
        pair: Pair | None = None,
        options: Options | None = None,
        part: Part | None = None,
        parts: Mapping[str, Part] | None = None,
        factory: Callable[[], Part] | None = None,
        kind: type[Part] | None = None,
        choice: Literal["a", "b"] = "a",
        call: Callable[[Any], Any] = named,
        either: str | Callable[[Any], Any] = "",
        anything: Any = None,
        bare=None,  # noqa: ANN001  # as many users write
    ) -> None:
        self.made = {name: value for name, value in locals().items() if name not in ("self", "__class__")}


class Below(Whole):
    """A subclass that says less of its arguments."""

    def __init__(self, part, parts: dict[str, Any], **rest: Any) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        super().__init__(part=part, parts=parts, **rest)


def again(cls: type[Any] = Whole, trust: Trust = HERE, **arguments: Any) -> dict[str, Any]:
    """Describe arguments, and make an object of them."""
    described: dict[str, Any] = {name: describe(value) for name, value in arguments.items()}
    assert unbuildable(cls, described) == {}
    made: dict[str, Any] = rebuild(cls, described, trust).made
    return {name: made[name] for name in arguments}


SAME: dict[str, Any] = {
    "number": 2,
    "text": "os.system",
    "place": Path("a/b"),
    "sizes": (1, 2),
    "two": (1.0, "x"),
    "names": {"a", "b"},
    "numbers": {1: "one"},
    "pair": Pair(1.0, "c"),
    "options": Options(partial(SGD, lr=0.1).func, 3),
    "kind": Part,
    "choice": "b",
    "call": function,
    "either": "os.system",
    "anything": {"a": [1, {"b": "torch.load"}]},
    "bare": [1, "x"],
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_described_comes_back(name: str) -> None:
    assert again(**{name: SAME[name]}) == {name: SAME[name]}


def test_a_path_that_may_be_text_stays_text() -> None:
    assert again(path=Path("train.csv")) == {"path": "train.csv"}  # nor is it looked for


def test_the_type_tells_instances_from_factories() -> None:
    made = again(part=Part(3), parts={"a": Part(4)}, factory=partial(Part, size=5))
    assert (made["part"].size, made["parts"]["a"].size, made["factory"]().size) == (3, 4, 5)
    assert again(factory=Part) == {"factory": Part}
    assert again(options=Options(Adam))["options"].factory is Adam
    assert again(options=Options(partial(SGD, lr=0.5)))["options"].factory.keywords == {"lr": 0.5}


def test_a_function_needs_trust_unless_it_is_the_default() -> None:
    assert again(either=function)["either"] is function
    with pytest.raises(NotDescribableError, match=r"`call`: expected a class of .*trusted=\['tests.test_rebuild'\]"):
        rebuild(Whole, {"call": describe(function)}, Trust())
    assert rebuild(Whole, {"call": describe(named)}, Trust()).made["call"] is named


def test_a_subclass_that_says_less_is_read_by_its_bases() -> None:
    made = again(Below, part=Part(2), parts={"a": Part(3)}, number=4.0)
    assert (made["part"].size, made["parts"]["a"].size, made["number"]) == (2, 3, 4.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'size'"):
        rebuild(Whole, {"size": 1}, HERE)


def test_given_arguments_are_what_they_are() -> None:
    instance = Other()
    made = rebuild(Whole, {"part": {"class_path": "gone.X"}, "number": 3.0}, Trust(), {"part": instance})
    assert (made.made["part"], made.made["number"]) == (instance, 3.0)


EVIL = {"class_path": "os.system", "init_args": {"command": "touch PROOF"}}
OTHER = {"class_path": f"{__name__}.Other"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "under Any": ({"anything": EVIL}, "`anything`: expected plain data, since its type is not declared"),
    "deep under Any": ({"anything": {"a": [EVIL]}}, r"`anything\.a\[0\]`: expected plain data"),
    "without a type": ({"bare": EVIL}, "`bare`: expected plain data"),
    "no subclass": ({"part": OTHER}, f"`part`: expected a Part, found {__name__}.Other, which is none"),
    "no subclass, from a factory": ({"factory": OTHER}, "`factory`: expected a Part, found"),
    "no subclass, as a class": ({"kind": OTHER}, "`kind`: expected a Part, found"),
    "a function for a class": ({"part": {"class_path": f"{__name__}.function"}}, "`part`: expected a class, found"),
    "a function for a factory": ({"factory": {"class_path": f"{__name__}.function"}}, "`factory`: expected a class"),
    "an untrusted class": ({"part": EVIL}, "`part`: expected a class of .*found os.system"),
    "an untrusted function": ({"call": "os.system"}, "`call`: expected a class of .*found os.system"),
    "an untrusted function as a class": ({"call": EVIL}, "`call`: expected a class of .*found os.system"),
    "deep within": ({"options": {"factory": EVIL}}, r"`options\.factory`: expected a class of"),
    "in a dict": ({"parts": {"a": {**OTHER}}}, r"`parts\.a`: expected a Part"),
    "more keys": ({"part": {**OTHER, "dict_kwargs": {}}}, "`part`: expected a class_path with init_args, found"),
    "arguments that are none": (
        {"part": {"class_path": "a.B", "init_args": 3}},
        "expected a class_path with init_args",
    ),
    "text for a class": ({"part": "Part"}, "`part`: expected a Part, found the text 'Part'"),
    "yaml in a text": ({"part": "{class_path: os.system}"}, "found the text"),
    "a path that is none": ({"part": {"class_path": ["a"]}}, "dotted path"),
    "too few": ({"two": [1.0]}, "`two`: expected 2 values, found 1"),
    "a list for a number": ({"number": [1]}, "`number`: expected a float, found a list"),
    "bytes": ({"text": b"x"}, "`text`: expected plain data, found bytes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_not_be_made_is_not(case: str) -> None:
    described, message = REFUSED[case]
    CALLED.clear()
    with pytest.raises(NotDescribableError, match=message):
        rebuild(Whole, described, HERE)
    assert CALLED == []
    assert not Path("PROOF").exists()


def test_a_rehearsal_makes_nothing_and_names_what_cannot_be() -> None:
    CALLED.clear()
    described = {
        "part": describe(Part),
        "anything": describe(partial(Part, size=2)),
        "number": 3.0,
        "call": "__main__.f",
    }
    CALLED.clear()
    reasons = unbuildable(Whole, described)
    assert set(reasons) == {"anything", "call"}
    assert "script or notebook" in reasons["call"]
    assert CALLED == []


def test_what_the_library_takes_comes_back() -> None:
    shared = describe(partial(SharedBottom, encoder=partial(MLP, hidden=[8], activation=nn.GELU)))
    holder: Any = rebuild(
        Holder, {"architecture": shared, "optimizer": describe(partial(SGD, lr=0.1))}, Trust([__name__])
    )
    assert (holder.architecture.func, holder.architecture.keywords["encoder"].func) == (SharedBottom, MLP)
    assert describe(holder.architecture) == shared
    assert holder.optimizer.keywords == {"lr": 0.1}


class Holder:
    def __init__(self, architecture: Callable[..., nn.Module] | nn.Module, optimizer: Callable[..., Optimizer]) -> None:
        self.architecture, self.optimizer = architecture, optimizer
