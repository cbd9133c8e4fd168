"""The module's arguments, networks of the user's own, and sizes that wait for the first batch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.balancing import MGDA, Balancer, UncertaintyWeighting
from mtl_lightning.core.optim.composite import CompositeOptimizer
from mtl_lightning.types import ConfigurationError, TensorSpec
from tests.core.by_hand import HandLoop
from tests.helpers import (
    ForeignData,
    TinyData,
    assert_same,
    fit,
    loader_of,
    make_batches,
    make_module,
    make_tasks,
    make_trainer,
    weights_of,
)

BATCHES = make_batches(4)
SIZES = {"number": 1, "vector": 3, "kind": 4}


# ------------------------------------------------------------------------------------------------------------ arguments
@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"heads": {"knid": nn.Linear}}, r"`heads`: .*'default'\], found 'knid'\. .*'kind'\?", id="heads"),
        pytest.param({"reads": {"knid": ["number"]}}, r"`reads`: .* found 'knid'\. .*'kind'\?", id="reader"),
        pytest.param({"reads": {"kind": ["nubmer"]}}, r"`reads\.kind`: .* found 'nubmer'\. .*'number'\?", id="read"),
        pytest.param({"reads": {"kind": ["number"], "number": ["kind"]}}, "number reads kind reads number", id="cycle"),
        pytest.param({"gradient_clip": {"knid": 1.0}}, r"`gradient_clip`: .* found 'knid'\. .*'kind'\?", id="clip"),
        pytest.param({"allow_unlabelled": ["knid"]}, r"`allow_unlabelled`: .* found 'knid'\. .*'kind'\?", id="allowed"),
        pytest.param({"on_nonfinite": "panic"}, r"\('raise', 'skip', 'ignore'\), found 'panic'", id="on_nonfinite"),
        pytest.param(
            {"tasks": {"a.b": make_tasks()["kind"]}}, r"Task name 'a\.b': .* Rename the task", id="task's name"
        ),
        pytest.param({"architecture": MLP}, r"MLP is an encoder: expected an architecture", id="an encoder alone"),
        pytest.param({"architecture": "LeNet"}, r"or a class or function that makes one, found 'LeNet'", id="a name"),
    ],
)
def test_arguments_that_cannot_be_right(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_module(**options)


def test_by_default_losses_are_summed_and_log_variances_learn_faster() -> None:
    module = make_module()
    assert type(module.balancer) is Balancer
    assert module.sigmas() == {}
    optimizer = make_module(balancer=UncertaintyWeighting).configure_optimizers()
    assert isinstance(optimizer, CompositeOptimizer)
    found = {name: (type(sub), sub.param_groups[0]["lr"]) for name, sub in optimizer.optimizers.items()}
    assert found == {**dict.fromkeys(["shared", *SIZES], (Adam, 1e-3)), "balancer": (Adam, 1e-2)}


def test_manual_optimization_is_plain_to_see() -> None:
    assert make_module().automatic_optimization is False


def test_group_optimizers_are_exposed_in_training() -> None:
    found: dict[str, type] = {}

    class Looking(MultiTaskModule):
        def on_train_epoch_end(self) -> None:
            found.update({name: type(optimizer) for name, optimizer in self.group_optimizers.items()})

    module = make_module(Looking, optimizers={"default": partial(SGD, lr=0.1), "kind": Adam})
    fit(module, BATCHES)
    assert found == {"shared": SGD, "number": SGD, "vector": SGD, "kind": Adam}


def test_sigmas_in_the_losses_and_in_the_targets_units() -> None:
    data = TinyData(standardize=True)
    module = make_module(tasks=data.tasks, balancer=partial(UncertaintyWeighting, init=1.0))
    e = float(torch.tensor(1.0).exp())
    assert module.sigmas() == pytest.approx({"number": e**0.5, "vector": 2**0.5 * e, "kind": e**0.5})
    std = float(data.train_target("number").std(unbiased=False))
    assert std != pytest.approx(1, abs=0.1)
    expected = {"number": e**0.5 * std, "vector": 2**0.5 * e, "kind": e**0.5}
    assert module.sigmas(original_units=True) == pytest.approx(expected)


# ------------------------------------------------------------------------------------------------- networks of the user
class Features(nn.Module):
    """Features of all tasks."""

    def __init__(self, size: int = 7) -> None:
        super().__init__()
        self.layer = nn.Linear(4, size)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(self.layer(inputs))


class Outputs(nn.Module):
    """The final outputs of every task."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.body = nn.Linear(4, 5)
        self.ends = nn.ModuleDict({name: nn.Linear(5, SIZES[name]) for name in names or SIZES})

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        body = self.body(inputs).relu()
        return {name: end(body) for name, end in self.ends.items()}


class Owners(Outputs):
    """The same, but it says whose its last layers are."""

    def task_parameters(self) -> dict[str, Iterator[nn.Parameter]]:
        return {name: end.parameters() for name, end in self.ends.items()}


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(lambda: Features(), id="an instance"),
        pytest.param(lambda: Features, id="a class"),
        pytest.param(lambda: partial(Features, size=7), id="a partial"),
        pytest.param(lambda: partial(SharedBottom, encoder=Features), id="an encoder's class"),
        pytest.param(lambda: partial(SharedBottom, encoder=Features()), id="an encoder"),
    ],
)
def test_a_network_that_returns_features(architecture: Any) -> None:
    torch.manual_seed(2)
    sgd = partial(SGD, lr=0.1)
    module = make_module(architecture=architecture(), optimizers={"default": sgd})
    fit(module, BATCHES, max_epochs=2)
    assert {name: len(members) for name, members in module.groups.items()} == dict.fromkeys(["shared", *SIZES], 2)
    torch.manual_seed(2)
    by_hand = HandLoop(make_module(architecture=architecture()), {("",): sgd}).train(2, [[b] for b in BATCHES])
    assert_same(weights_of(module), weights_of(by_hand.net), atol=1e-10)


@pytest.mark.parametrize("network", [Outputs, Owners])
def test_a_network_that_returns_final_outputs(network: type[Outputs]) -> None:
    class ByHand(HandLoop):
        def outputs(self, inputs: Tensor, tasks: Any) -> dict[str, Tensor]:
            found: dict[str, Tensor] = self.network(inputs)
            return found

    torch.manual_seed(2)
    instance = network()
    torch.manual_seed(2)
    same = network()
    sgd = partial(SGD, lr=0.1)
    module = make_module(architecture=instance, optimizers={"default": sgd})
    fit(module, BATCHES, max_epochs=2)
    assert len(list(module.heads)) == 0
    assert list(module.groups) == (["shared"] if network is Outputs else ["shared", *SIZES])
    by_hand = ByHand(make_module(architecture=same), {("",): sgd}).train(2, [[b] for b in BATCHES])
    assert_same(weights_of(module), weights_of(by_hand.net), atol=1e-10)
    shapes = {name: tuple(output.shape) for name, output in module(BATCHES[0]["inputs"]).items()}
    assert shapes == {"number": (8, 1), "vector": (8, 3), "kind": (8, 4)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"reads": {"kind": ["number"]}}, r"expected no `heads` and no `reads`", id="reads"),
        pytest.param({"heads": {"kind": nn.Linear}}, r"expected no `heads` and no `reads`", id="heads"),
        pytest.param(
            {"architecture": Outputs("number", "kind")},
            r"one per task, found \['number', 'kind'\], none for \['vector'\]",
            id="a task less",
        ),
    ],
)
def test_final_outputs_leave_nothing_to_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_module(**{"architecture": Outputs(), **options})


def test_a_network_with_outputs_of_the_wrong_size() -> None:
    class Wide(Outputs):
        def forward(self, inputs: Tensor) -> dict[str, Tensor]:
            return {**super().forward(inputs), "kind": inputs[:, :2]}

    with pytest.raises(ConfigurationError, match=r"expected outputs of shape \(B, 4\), found \(8, 2\)"):
        fit(make_module(architecture=Wide()), BATCHES)


# --------------------------------------------------------------------------------------------- sizes of the first batch
def test_a_module_waits_for_the_first_batch_only_if_it_must() -> None:
    class Sized(Features):
        out_features = 7

    assert not hasattr(make_module(input_spec=None), "heads")
    assert hasattr(make_module(input_spec=None, architecture=Sized()), "heads")


def test_reading_the_first_batch_changes_nothing() -> None:
    """Sizes from the batch or by hand: the same run, though the loader shuffles."""

    def run(input_spec: TensorSpec | None) -> dict[str, Tensor]:
        rows: Any = [{"inputs": x, "targets": {"kind": y}} for x, y in zip(inputs, kinds, strict=True)]
        module = make_module(tasks=make_tasks("kind"), input_spec=input_spec, seed=1)
        fit(module, DataLoader(rows, batch_size=4, shuffle=True), max_epochs=2, precision="32-true")
        return weights_of(module)

    inputs, kinds = BATCHES[0]["inputs"].float(), BATCHES[0]["targets"]["kind"]
    assert_same(run(None), run(TensorSpec((4,))))


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_a_datamodule_is_asked_for_the_loader_of_the_stage(stage: str) -> None:
    class Only(ForeignData):
        """Its other loaders are not there."""

    loaders = {"fit": "train", "validate": "val", "test": "test"}
    for other in {"train", "val", "test"} - {loaders[stage]}:
        setattr(Only, f"{other}_dataloader", refuse)
    module = make_module(input_spec=None)
    getattr(make_trainer(limit_val_batches=0 if stage == "fit" else 1.0), stage)(module, datamodule=Only())
    assert module.input_spec == TensorSpec((4,), "float64")


def refuse(self: ForeignData) -> Any:
    raise AssertionError("the wrong loader was asked for")


def test_several_input_tensors() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 5)

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return torch.tanh(self.layer(torch.cat([inputs["a"], inputs["b"]], 1)))

    batches = [{**batch, "inputs": {"a": batch["inputs"], "b": batch["inputs"][:, :2]}} for batch in BATCHES]
    module = make_module(architecture=Two(), input_spec=None)
    trainer = fit(module, batches)
    assert module.input_spec == {"a": TensorSpec((4,), "float64"), "b": TensorSpec((2,), "float64")}
    assert trainer.global_step == 4


def test_a_loader_that_cannot_be_reached() -> None:
    with pytest.raises(ConfigurationError, match="expected an `input_spec`, a datamodule, or a loader passed to `fit`"):
        make_trainer().validate(make_module(input_spec=None), loader_of(BATCHES), verbose=False)


def test_inputs_that_have_no_size() -> None:
    batches = [{**batch, "inputs": "a text"} for batch in BATCHES]
    with pytest.raises(ConfigurationError, match=r"to be a tensor or a dict of tensors .* found str"):
        fit(make_module(input_spec=None), batches)


def test_no_rows_are_kept_after_a_fit() -> None:
    module = make_module(balancer=MGDA)
    held: list[int] = []

    class Looking(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            rows = module.updates.memory.rows
            assert rows is not None
            held.append(rows.numel())

    fit(module, make_batches(2), callbacks=[Looking()])
    shared = sum(parameter.numel() for parameter in module.roles.shared.values())
    assert held == [3 * shared] * 2
    assert module.updates.memory.rows is None


def test_a_balancer_of_rows_that_cannot_combine_them_is_refused() -> None:
    class Rows(Balancer):
        rows = True

    with pytest.raises(ConfigurationError, match=r"Rows needs one gradient per task: expected a subclass"):
        make_module(balancer=Rows)
