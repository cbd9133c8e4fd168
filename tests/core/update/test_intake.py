"""Batches as users first have them train as those that are what a batch must be."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import SharedBottom
from mtl_lightning.core.update import Intake
from mtl_lightning.tasks import Regression
from mtl_lightning.types import BatchError, TargetSpec, TensorSpec
from tests.helpers import assert_same, fit, loader_of, make_batches, make_module, make_trainer, weights_of

SINGLE = [
    {"inputs": batch["inputs"].float(), "targets": {"number": batch["targets"]["number"].float()}}
    for batch in make_batches(3)
]
Change = Callable[[Tensor, Tensor], Any]


SPEC = TensorSpec((4,))
each_spec = pytest.mark.parametrize("spec", [SPEC, None], ids=["sizes given", "sizes of the first batch"])


def as_they_are(batches: Any) -> DataLoader[Any]:
    """A loader that converts nothing."""
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)


def trained(batches: Any, spec: TensorSpec | None = SPEC) -> dict[str, Tensor]:
    """The weights after an epoch of one task, in float32."""
    module = make_module(tasks={"number": Regression(TargetSpec())}, input_spec=spec)
    fit(module, as_they_are(batches) if isinstance(batches, list) else batches, precision="32-true")
    return weights_of(module)


# ------------------------------------------------------------------------------------------------------------- one task
CHANGES: dict[str, Change] = {
    "inputs of NumPy": lambda x, y: {"inputs": x.numpy(), "targets": {"number": y}},
    "inputs in float64": lambda x, y: {"inputs": x.double(), "targets": {"number": y}},
    "inputs of NumPy in float64": lambda x, y: {"inputs": x.double().numpy(), "targets": {"number": y}},
    "a target of NumPy": lambda x, y: {"inputs": x, "targets": {"number": y.numpy()}},
    "a target in a list": lambda x, y: {"inputs": x, "targets": {"number": y.tolist()}},
    "a target as torch collates lists": lambda x, y: {"inputs": x, "targets": {"number": [y]}},
    "another target that is None": lambda x, y: {"inputs": x, "targets": {"number": y, "other": None}},
    "one target without its name": lambda x, y: {"inputs": x, "targets": y},
    "(x, y)": lambda x, y: (x, y),
    "[x, y]": lambda x, y: [x, y],
    "(x, {task: y})": lambda x, y: (x, {"number": y}),
    "weights of NumPy": lambda x, y: {"inputs": x, "targets": {"number": y}, "weights": np.ones(len(x), np.float32)},
    "a list of batches": lambda x, y: [{"inputs": x, "targets": {"number": y}}, None],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@each_spec
def test_they_train_alike(change: Change, spec: TensorSpec | None) -> None:
    changed = [change(batch["inputs"], batch["targets"]["number"]) for batch in SINGLE]
    assert_same(trained(changed, spec), trained(SINGLE), atol=1e-6)


def test_half_precision_is_brought_to_the_networks() -> None:
    halves = [{**batch, "inputs": batch["inputs"].half()} for batch in SINGLE]
    rounded = [{**batch, "inputs": batch["inputs"].half().float()} for batch in SINGLE]
    assert_same(trained(halves), trained(rounded))


def test_a_dtype_that_some_part_has_is_left_alone() -> None:
    class Two(nn.Module):
        out_features = 3

        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow = nn.Linear(4, 3).double(), nn.Linear(4, 3)

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            made: Tensor = self.narrow(inputs["narrow"]) + self.wide(inputs["wide"]).float()
            return made

    x, y = SINGLE[0]["inputs"], SINGLE[0]["targets"]
    module = make_module(tasks={"number": Regression(TargetSpec())}, architecture=Two(), input_spec=None)
    fit(module, [{"inputs": {"wide": x.double(), "narrow": x}, "targets": y}], precision="32-true")


def test_integers_stay_integers() -> None:
    intake = Intake(make_module(), None)  # type: ignore[arg-type]  # it asks for the stage alone
    pixels = torch.zeros(2, 4, dtype=torch.uint8)
    assert intake.inputs(pixels) is pixels
    assert torch.equal(intake.inputs(np.ones((2, 4), np.int64)), torch.ones(2, 4, dtype=torch.int64))


def test_validation_test_and_prediction_convert_too() -> None:
    module = make_module(tasks={"number": Regression(TargetSpec())})
    plain = make_trainer(precision="32-true").validate(module, loader_of(SINGLE), verbose=False)
    changed = [(batch["inputs"].double().numpy(), batch["targets"]["number"].numpy()) for batch in SINGLE]
    for stage, prefix in (("validate", "val"), ("test", "test")):
        found = getattr(make_trainer(precision="32-true"), stage)(module, as_they_are(changed), verbose=False)
        assert found[0][f"{prefix}/loss"] == pytest.approx(plain[0]["val/loss"])
    inputs = [batch["inputs"] for batch in SINGLE]
    expected: Any = make_trainer(precision="32-true").predict(module, loader_of(inputs))
    given: Any = make_trainer(precision="32-true").predict(module, as_they_are([x.double().numpy() for x in inputs]))
    torch.testing.assert_close(given[0]["number"], expected[0]["number"])


# ------------------------------------------------------------------------------------------------------------ as a rule
def test_datasets_and_loaders_of_others() -> None:
    x, y = torch.cat([b["inputs"] for b in SINGLE]), torch.cat([b["targets"]["number"] for b in SINGLE])
    assert_same(trained(DataLoader(TensorDataset(x, y), 8)), trained(SINGLE), atol=1e-6)


@each_spec
@pytest.mark.parametrize("mode", ["max_size_cycle", "min_size"])
def test_a_combined_loader(mode: Any, spec: TensorSpec | None) -> None:
    loaders = {task: loader_of(make_batches(2, tasks=(task,))) for task in ("number", "vector")}
    module = make_module(tasks={n: t for n, t in make_module().tasks.items() if n != "kind"}, input_spec=spec)
    before = weights_of(module) if module.is_built else {}
    fit(module, CombinedLoader(loaders, mode))
    after = weights_of(module)
    assert all(not torch.equal(after[name], before[name]) for name in before)
    assert module.trainer.global_step == 2


def test_only_the_first_batch_of_a_good_loader_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []
    plain = Intake.batch

    def looking(self: Intake, batch: Any) -> Any:
        looked.append(batch)
        return plain(self, batch)

    monkeypatch.setattr(Intake, "batch", looking)
    fit(make_module(), make_batches(4), make_batches(3), max_epochs=2, num_sanity_val_steps=0)
    assert len(looked) == 2  # of training and of validation
    looked.clear()
    per_dataset = [{"a": make_batches(1)[0], "b": None}, {"a": None, "b": make_batches(1)[0]}] * 2
    fit(make_module(), per_dataset)
    assert len(looked) == 2


def test_batches_of_the_library_go_through_as_they_are() -> None:
    seen: list[Any] = []

    class Looking(MultiTaskModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(batch["inputs"])
            return super().training_step(batch, batch_idx)

    batches = make_batches(2)
    fit(make_module(Looking), batches)
    assert [inputs.data_ptr() for inputs in seen] == [batch["inputs"].data_ptr() for batch in batches]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        pytest.param({"inputs": 0, "targets": {"number": ["a", "b"]}}, r"the target of 'number' to be a", id="text"),
        pytest.param({"inputs": 0, "targets": {"number": object()}}, r"found object", id="an object"),
        pytest.param((0, 1, 2), r"Expected a batch .* found tuple\. Return dicts", id="three things"),
        pytest.param({"input_ids": 0, "labels": 1}, r"found the keys \['input_ids', 'labels'\]", id="other keys"),
        pytest.param({"inputs": 0, "targets": {"number": 1}, "id": 2}, r"\['id', 'inputs', 'targets'\]", id="an id"),
        pytest.param({"inputs": 0, "targets": {"number": None}}, r"targets for no task", id="nothing but None"),
    ],
)
@each_spec
def test_what_cannot_be_converted(batch: Any, message: str, spec: TensorSpec | None) -> None:
    with pytest.raises(BatchError, match=message):
        trained([batch], spec)


def test_a_loader_that_changes_its_mind() -> None:
    later = {"inputs": SINGLE[0]["inputs"], "targets": {"number": SINGLE[0]["targets"]["number"].numpy()}}
    with pytest.raises(BatchError, match="Task 'number': expected a tensor, as in the loader's first batch, found nd"):
        trained([SINGLE[0], later])


# --------------------------------------------------------------------------------------------- inputs that have no size
class Graph:
    """Not a tensor, but it can be moved."""

    def __init__(self, nodes: Tensor) -> None:
        self.nodes = nodes

    def to(self, *args: Any, **kwargs: Any) -> Graph:
        return Graph(self.nodes.to(*args, **kwargs))


class Reader(nn.Module):
    """Reads what :data:`INPUTS` makes of a tensor."""

    out_features = 6

    def __init__(self, read: Callable[[Any], Tensor] | None = None) -> None:
        super().__init__()
        self.map, self.read = nn.Linear(4, 6), read

    def forward(self, inputs: Any) -> Tensor:
        assert self.read is not None
        made: Tensor = self.map(self.read(inputs).to(self.map.weight.dtype)).tanh()
        return made


def _of_text(rows: list[str]) -> Tensor:
    lengths = [[float(len(word)) for word in row.split()] for row in rows]
    return torch.tensor(lengths)


INPUTS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "a graph": (Graph, lambda graph: graph.nodes),
    "a tuple": (lambda x: (x, x), lambda pair: pair[0] + pair[1]),
    "nested dicts": (lambda x: {"a": {"b": x, "c": [x]}}, lambda d: d["a"]["b"] - 0.5 * d["a"]["c"][0]),
    "text": (lambda x: ["a bb ccc dddd"] * len(x), _of_text),
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("inside", [False, True], ids=["the network itself", "an encoder inside"])
def test_out_features_are_believed(kind: str, inside: bool) -> None:
    """By every stage, without an input spec."""
    made, read = INPUTS[kind]
    batches = [{**batch, "inputs": made(batch["inputs"])} for batch in make_batches(2)]
    architecture: Any = partial(SharedBottom, encoder=Reader(read)) if inside else Reader(read)
    module = make_module(architecture=architecture, input_spec=None)
    fit(module, batches, batches)
    make_trainer().test(module, loader_of(batches), verbose=False)
    found: Any = make_trainer().predict(module, loader_of(batches))
    assert found[0]["number"].shape == (8,)


class OfText(Reader):
    """A reader that a checkpoint can name."""

    def __init__(self) -> None:
        super().__init__(_of_text)


def test_such_a_module_is_rebuilt_from_its_checkpoint(tmp_path: Any) -> None:
    batches = [{**batch, "inputs": ["a bb ccc dddd"] * 8} for batch in make_batches(2)]
    module = make_module(architecture=partial(SharedBottom, encoder=OfText), input_spec=None)
    trainer = fit(module, batches)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = MultiTaskModule.load_from_checkpoint(tmp_path / "x.ckpt", trusted=[__name__])
    assert_same({n: p.double() for n, p in weights_of(again).items()}, weights_of(module), atol=1e-6)
