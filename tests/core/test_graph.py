"""The task graph: order, unknown names and cycles, and where the gradient goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning import Edge, MultiTaskModule
from mtl_lightning.core.network.graph import Reads, TaskGraph, check_task_names, run_heads
from mtl_lightning.tasks import Regression
from mtl_lightning.types import ConfigurationError, TargetSpec
from tests.helpers import make_batches, make_module

TASKS = ["a", "b", "c", "d"]


# ---------------------------------------------------------------------------------------------------------------- order
@pytest.mark.parametrize(
    ("reads", "order"),
    [
        pytest.param(None, "abcd", id="nobody reads"),
        pytest.param({"a": ["d"]}, "dabc", id="one edge"),
        pytest.param({"a": ["b"], "b": ["c"], "c": ["d"]}, "dcba", id="a chain"),
        pytest.param({"a": ["b", "c"], "b": ["d"], "c": ["d"]}, "dbca", id="a diamond"),
        pytest.param({"b": {"a": {"stop_gradient": False}, "d": Edge()}}, "adbc", id="options per edge"),
    ],
)
def test_every_task_comes_after_those_it_reads(reads: Reads | None, order: str) -> None:
    assert "".join(TaskGraph(TASKS, reads).order) == order


def test_only_what_is_asked_for_and_what_it_reads_is_run() -> None:
    graph = TaskGraph(TASKS, {"a": ["b"], "b": ["d"]})
    assert graph.needed(["a"]) == ("d", "b", "a")
    assert graph.needed(["c", "b"]) == ("d", "b", "c")
    assert graph.needed([]) == ()


def test_losses_reach_other_tasks_through_open_edges_only() -> None:
    is_open = Edge(stop_gradient=False)
    graph = TaskGraph(TASKS, {"a": {"b": is_open}, "b": {"c": is_open, "d": Edge()}})
    assert graph.reached_by(["a"]) == {"a", "b", "c"}
    assert graph.reached_by(["d"]) == {"d"}


@pytest.mark.parametrize(
    ("reads", "shown"),
    [
        pytest.param({"a": ["a"]}, "a reads a", id="itself"),
        pytest.param({"a": ["b"], "b": ["a"]}, "a reads b reads a", id="two"),
        pytest.param({"a": ["b"], "b": ["c"], "c": ["d"], "d": ["b"]}, "b reads c reads d reads b", id="behind a tail"),
    ],
)
def test_a_cycle_is_shown(reads: Reads, shown: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"`reads` has a cycle: {shown}\. Remove one of these edges"):
        TaskGraph(TASKS, reads)


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        pytest.param({"lefft": ["right"]}, r"`reads`: .*\['left', 'right'\], found 'lefft'\. .*'left'\?", id="reader"),
        pytest.param({"left": ["rigth"]}, r"`reads\.left`: .*, found 'rigth'\. Did you mean 'right'\?", id="read"),
        pytest.param({"left": ["xyz"]}, r"found 'xyz'\.$", id="nothing near"),
    ],
)
def test_an_unknown_name_is_an_error(reads: Reads, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TaskGraph(["left", "right"], reads)


@pytest.mark.parametrize(
    "name", ["shared", "balancer", "default", "keys", "items", "forward", "train", "a.b", "a/b", ""]
)
def test_names_that_cannot_be_carried(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"Task name '{name}': .* Rename the task"):
        check_task_names(["fine", name])


def test_no_task_at_all() -> None:
    with pytest.raises(ConfigurationError, match="Expected at least one task"):
        make_module(tasks={})


# ------------------------------------------------------------------------------------------------------------- gradient
def loss_of(module: MultiTaskModule, task: str) -> Tensor:
    (batch,) = make_batches(1)
    outputs = module.double()(batch["inputs"])
    return module.tasks[task].loss(outputs[task], batch["targets"][task])


def gradient_norms(module: MultiTaskModule, loss: Tensor, task: str) -> list[float]:
    """Norms of the gradient of ``loss`` on each parameter of a task's head."""
    head = list(module.heads[task].parameters())
    grads = torch.autograd.grad(loss, head, retain_graph=True, allow_unused=True)
    return [0.0 if grad is None else float(grad.norm()) for grad in grads]


@pytest.mark.parametrize("reader", ["number", "vector", "kind"])
@pytest.mark.parametrize("read", ["number", "vector", "kind"])
def test_no_gradient_of_the_readers_loss_reaches_the_head_it_reads(read: str, reader: str) -> None:
    if read == reader:
        return
    stopped = make_module(reads={reader: [read]})
    assert gradient_norms(stopped, loss_of(stopped, reader), read) == [0.0, 0.0]
    assert min(gradient_norms(stopped, loss_of(stopped, reader), reader)) > 0
    assert min(gradient_norms(stopped, loss_of(stopped, read), read)) > 0
    flowing = make_module(reads={reader: {read: Edge(stop_gradient=False)}})
    assert min(gradient_norms(flowing, loss_of(flowing, reader), read)) > 0


def test_a_stop_on_the_way_protects_what_lies_behind_it() -> None:
    is_open = Edge(stop_gradient=False)
    module = make_module(reads={"kind": {"vector": is_open}, "vector": {"number": Edge()}})
    loss = loss_of(module, "kind")
    assert min(gradient_norms(module, loss, "vector")) > 0
    assert gradient_norms(module, loss, "number") == [0.0, 0.0]


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_estimates_come_from_this_forward_in_train_and_eval(train: bool) -> None:
    module = make_module(reads={"number": ["kind"]}).double().train(train)
    (batch,) = make_batches(1)
    outputs = module(batch["inputs"])
    features = module.architecture(batch["inputs"], ["number"]).per_task["number"]
    expected = module.heads["number"](torch.cat([features, outputs["kind"].softmax(1)], 1))
    torch.testing.assert_close(outputs["number"], expected, rtol=0, atol=0)
    wrong = module.heads["number"](torch.cat([features, outputs["kind"].softmax(1).flip(0)], 1))
    assert not torch.allclose(outputs["number"], wrong)


# ------------------------------------------------------------------------------------------------------- dense features
class Spy(nn.Module):
    """A head that keeps what it was given and returns as many channels as it is asked for."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.seen = torch.empty(0)

    def forward(self, features: Tensor) -> Tensor:
        self.seen = features
        return features[:, : self.channels] * 2


@pytest.mark.parametrize(
    ("of_read", "of_reader", "expected"),
    [
        pytest.param((2, 3), (2, 5), (2, 6), id="vector to vector"),
        pytest.param((2, 3), (2, 5, 4, 4), (2, 6, 4, 4), id="vector over space"),
        pytest.param((2, 3, 4, 4), (2, 5, 4, 4), (2, 6, 4, 4), id="dense to dense"),
        pytest.param((2, 3, 8, 8), (2, 5, 4, 4), (2, 6, 4, 4), id="resized"),
        pytest.param((2, 3, 4, 4), (2, 5), (2, 6), id="pooled"),
    ],
)
def test_estimates_are_fitted_to_the_readers_features(
    of_read: Sequence[int], of_reader: Sequence[int], expected: Sequence[int]
) -> None:
    class Dense(Regression):
        def outputs(self, output: Tensor) -> Tensor:
            return output

    tasks = {"read": Dense(TargetSpec()), "reader": Dense(TargetSpec())}
    features = {"read": torch.randn(*of_read), "reader": torch.randn(*of_reader)}
    heads: Mapping[str, Any] = {"read": Spy(1), "reader": Spy(1)}
    graph = TaskGraph(list(tasks), {"reader": ["read"]})
    run_heads(graph, graph.needed(["reader"]), features, heads, tasks)
    estimate = features["read"][:, :1] * 2
    seen = heads["reader"].seen
    assert seen.shape == torch.Size(expected)
    torch.testing.assert_close(seen[:, :5], features["reader"])
    means = [tensor.flatten(1).mean(1) for tensor in (seen[:, 5:], estimate)]
    torch.testing.assert_close(means[0], means[1])  # bilinear halving keeps the mean


def test_a_reading_head_is_wider_by_the_estimates_it_reads() -> None:
    module = make_module(reads={"number": ["vector", "kind"], "kind": ["vector"]}, heads=None)
    widths = {name: head.map.in_features for name, head in module.heads.items()}  # type: ignore[union-attr]  # linear maps
    assert widths == {"number": 6 + 3 + 4, "vector": 6, "kind": 6 + 3}


def test_heads_by_task_and_default() -> None:
    def wide(in_features: tuple[int, ...], out_features: int) -> nn.Module:
        return nn.Sequential(nn.Linear(in_features[0], 9), nn.Linear(9, out_features))

    def narrow(in_features: tuple[int, ...], out_features: int) -> nn.Module:
        return nn.Linear(in_features[0], out_features, bias=False)

    module = make_module(heads={"default": wide, "number": narrow})
    layers = {name: len(list(head.parameters())) for name, head in module.heads.items()}
    assert layers == {"number": 1, "vector": 4, "kind": 4}
