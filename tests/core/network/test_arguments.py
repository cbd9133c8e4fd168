"""Arguments of another kind than they are used as: taken where it is clear what is meant, else one sentence."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection
from torchmetrics.classification import MulticlassRecall

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, MLPHead, SharedBottom
from mtl_lightning.balancing import DWA, CAGrad
from mtl_lightning.core.network.arguments import check_arguments
from mtl_lightning.tasks import Regression
from mtl_lightning.types import ConfigurationError, TableSpec, TargetSpec, TensorSpec, as_spec
from tests.helpers import fit, loader_of, make_batches, make_module, make_tasks, make_trainer

BATCHES = make_batches(2)
part: Any = partial  # as the type checker would see what is misspelt
MADE = Adam([nn.Parameter(torch.zeros(1))])


class OwnOptimizers(MultiTaskModule):
    def configure_optimizers(self) -> Any:
        return Adam(self.parameters())


# ---------------------------------------------------------------------------------------------------------- refused
WRONG = {
    "a list of tasks": ({"tasks": [make_tasks()["kind"]]}, r"`tasks`: expected a dict .* found a list"),
    "no tasks' names": ({"tasks": {0: make_tasks()["kind"]}}, r"`tasks`: expected names that are text, found the num"),
    "a task's class": ({"tasks": {"y": Regression}}, r"`tasks\['y'\]`: .* class Regression\. Write .*Regression\(\)"),
    "a loss as a task": ({"tasks": {"y": nn.MSELoss()}}, r"found a value of type MSELoss that has been made"),
    "no tasks": ({"tasks": None}, r"`tasks`: expected a dict .* found a value of type NoneType"),
    "no balancer": ({"balancer": None}, r"`balancer`: .* found a value of type NoneType"),
    "a balancer's name": ({"balancer": "UPGrad"}, r"the text 'UPGrad'\. Write `balancer=UPGrad` after `from mtl_li"),
    "a balancer's settings": ({"balancer": {"class_path": "UPGrad"}}, r"`balancer`: .* found a dict"),
    "one head": ({"heads": MLPHead}, r"`heads`: expected a dict .* found the class MLPHead"),
    "a head's name": ({"heads": {"kind": "MLPHead"}}, r"`heads\['kind'\]`: .* the text 'MLPHead'"),
    "a head's size": ({"heads": {"kind": 64}}, r"`heads\['kind'\]`: .* found the number 64"),
    "a head of other sizes": ({"heads": {"kind": nn.Linear(9, 4)}}, r"'kind': expected a head of 6 features and 4 out"),
    "a head that takes none": ({"heads": {"kind": nn.ReLU}}, r"'kind': .* found ReLU, which cannot: .*MLPHead"),
    "a head that is none": ({"heads": {"kind": lambda size, k: len(size) + k}}, r"to make a head .*, found int"),
    "one head for all": ({"heads": {"default": nn.Linear(6, 1)}}, r"'vector': expected a head of 6 features and 3"),
    "reads as text": ({"reads": {"kind": "number"}}, r"`reads\['kind'\]`: expected a list of tasks.* 'number'"),
    "groups as a list": ({"groups": ["architecture.*"]}, r"`groups`: expected a dict .* found a list"),
    "a group of numbers": ({"groups": {"g": [1]}}, r"`groups\['g'\]`: expected a list of patterns"),
    "an optimizer": ({"optimizers": MADE}, r"`optimizers`: expected a dict .* found a value of type Adam that has"),
    "an optimizer's class": ({"optimizers": Adam}, r"found the class Adam\. Write `optimizers=\{'default': partial"),
    "optimizers made": ({"optimizers": {"default": MADE}}, r"`optimizers\['default'\]`: .* Adam that has been made"),
    "an optimizer's name": ({"optimizers": {"default": "Adam"}}, r"`optimizers\['default'\]`: .* the text 'Adam'"),
    "a rate": ({"optimizers": {"shared": 0.1}}, r"`optimizers\['shared'\]`: .* the number 0\.1"),
    "a scheduler": ({"schedulers": {"shared": StepLR(MADE, 1)}}, r"`schedulers\['shared'\]`: .* StepLR that has been"),
    "a scheduler's class": ({"schedulers": StepLR}, r"`schedulers`: expected a dict .* the class StepLR"),
    "one norm": ({"gradient_clip": 1.0}, r"`gradient_clip`: .* the number 1\.0\. .*Trainer\(gradient_clip_val=1\.0\)"),
    "a norm as text": ({"gradient_clip": {"shared": "1"}}, r"`gradient_clip\['shared'\]`: .* the text '1'"),
    "one task's name": ({"allow_unlabelled": "kind"}, r"`allow_unlabelled`: expected a list .* the text 'kind'"),
    "a compiler's mode": ({"compile": "max-autotune"}, r"`compile`: .* the text 'max-autotune'"),
    "a row as input spec": ({"input_spec": torch.zeros(4)}, r"`input_spec`: .* found Tensor"),
    "a spec of text": ({"input_spec": "4"}, r"`input_spec`: .* found str"),
    "misspelt, of an encoder": (
        {"architecture": part(SharedBottom, encoder=part(MLP, hiden=[4]))},
        r"MLP: expected arguments among .* found 'hiden'\. Did you mean 'hidden'\?",
    ),
    "misspelt, of an architecture": (
        {"architecture": part(SharedBottom, encodr=MLP)},
        r"SharedBottom: .*'encoder'.* found 'encodr'\. Did you mean 'encoder'\?",
    ),
    "misspelt, of a balancer": ({"balancer": part(DWA, temprature=1.0)}, r"DWA: .* Did you mean 'temperature'\?"),
    "misspelt, of one within": (
        {"balancer": part(CAGrad, losses=part(DWA, temprature=1.0))},
        r"DWA: .* Did you mean 'temperature'\?",
    ),
    "misspelt, of a head": ({"heads": {"kind": part(MLPHead, hiden=[4])}}, r"MLPHead: .* Did you mean 'hidden'\?"),
    "misspelt, of a head of torch": ({"heads": {"kind": part(nn.Linear, bais=False)}}, r"Linear: .* 'bias'\?"),
    "misspelt, of an optimizer": ({"optimizers": {"default": part(SGD, momentun=0.9)}}, r"SGD: .* 'momentum'\?"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_what_was_meant_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        make_module(**options)
    assert len(str(caught.value).splitlines()) == 1


def test_optimizers_of_a_method_of_ones_own_are_refused_before_the_first_batch() -> None:
    read: list[int] = []

    class Reading(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            read.append(index)
            return super().__getitem__(index)

    module = make_module(OwnOptimizers)
    with pytest.raises(ConfigurationError, match=r"`configure_optimizers`: .* found Adam from a method of your own"):
        fit(module, Reading(BATCHES))
    assert not read


def test_running_before_the_sizes_are_known() -> None:
    module = make_module(input_spec=None)
    for run in (module, module.predict):
        with pytest.raises(ConfigurationError, match="waits for the sizes of its inputs: expected an `input_spec`"):
            run(torch.zeros(2, 4))
    fit(module, BATCHES)
    assert module(torch.zeros(2, 4, dtype=torch.float64))["number"].shape == (2, 1)


@pytest.mark.parametrize("metrics", [MeanSquaredError, [MeanSquaredError], {"mse": "MeanSquaredError"}, {"mse": 1}])
def test_metrics_of_another_kind(metrics: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"`metrics`: expected a dict \{name: metric class\}, found"):
        Regression(TargetSpec(), metrics=metrics)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"recall": MulticlassRecall}, r"'recall': .* found MulticlassRecall: .*`functools\.partial`"),
        ({"mse": lambda: 1.0}, r"'mse': expected a metric of torchmetrics, found one of type float"),
        ({"mse": part(MeanSquaredError, sqared=False)}, r"'mse': .* found MeanSquaredError: .*`sqared`"),
    ],
    ids=["arguments that are missing", "no metric", "misspelt"],
)
def test_metrics_that_cannot_be_made_are_refused_before_the_first_batch(metrics: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fit(make_module(tasks={"number": Regression(TargetSpec(), metrics=metrics)}), [{}])


# --------------------------------------------------------------------------------------------------------------- taken
def test_a_linear_layer_as_a_head() -> None:
    own = nn.Linear(6, 1)
    module = make_module(heads={"kind": part(nn.Linear, bias=False), "vector": nn.Linear, "number": own})
    heads: Any = module.heads
    assert heads["kind"].weight.shape == (4, 6)
    assert heads["kind"].bias is None
    assert heads["vector"].weight.shape == (3, 6)
    assert heads["number"] is own
    fit(module, BATCHES)
    assert list(module.by_code) == ["heads"]  # a head that has been made is in no checkpoint


def test_a_pattern_alone_is_a_group() -> None:
    module = make_module(groups={"trunk": "architecture.*"})
    assert list(module.groups["trunk"]) == list(make_module(groups={"trunk": ["architecture.*"]}).groups["trunk"])
    assert "groups" in module.config


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((4,), TensorSpec((4,))),
        ([3, None, None], TensorSpec((3, None, None))),
        (4, TensorSpec((4,))),
        (torch.zeros(3, 2).shape, TensorSpec((3, 2))),
        ({"a": (4,), "b": TensorSpec((), "int64")}, {"a": TensorSpec((4,)), "b": TensorSpec((), "int64")}),
        (TableSpec(("a",), {}), TableSpec(("a",), {})),
        (None, None),
    ],
)
def test_a_shape_is_a_spec(given: Any, expected: Any) -> None:
    assert as_spec(given) == expected


@pytest.mark.parametrize("wrong", [True, (0,), (4.5,), ("a",), {}, {"a": TableSpec(("a",), {})}, 4.0])
def test_what_is_no_spec(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="`input_spec`: expected the shape of a row"):
        as_spec(wrong)


def test_a_shape_trains() -> None:
    assert make_module(input_spec=(4,)).input_spec == TensorSpec((4,))


@pytest.mark.parametrize(
    "metrics",
    [
        {"mse": MeanSquaredError(), "mae": MeanAbsoluteError},
        MetricCollection({"mse": MeanSquaredError(), "mae": MeanAbsoluteError()}),
    ],
    ids=["in a dict", "a collection"],
)
def test_metrics_that_have_been_made_are_copied(metrics: Any) -> None:
    metrics["mse"].update(torch.ones(3), torch.zeros(3))  # which counts for nothing
    tasks: Any = {name: Regression(TargetSpec(), metrics=metrics) for name in ("a", "b")}
    assert tasks["a"].metrics("val")["mse"] is not tasks["a"].metrics("val")["mse"]
    module = make_module(tasks=tasks)
    x = torch.randn(8, 4, dtype=torch.float64)
    batch: Any = {"inputs": x, "targets": {"a": x[:, 0], "b": x[:, 1]}}
    found = make_trainer().validate(module, loader_of([batch]), verbose=False)[0]
    outputs = module.predict(x)
    for name in tasks:
        assert found[f"val/mse/{name}"] == pytest.approx(
            float((outputs[name] - batch["targets"][name]).square().mean())
        )


def test_none_is_the_default() -> None:
    check_arguments(heads=None, reads=None, groups=None, optimizers=None, schedulers=None, gradient_clip=None)
    check_arguments(gradient_clip={"shared": None})
