"""``compile``: no set of tasks is compiled anew, and the numbers are those without it, whatever the architecture."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations, product
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from mtl_lightning.architectures import MLP, Architecture, BatchNorm
from mtl_lightning.core.compilation import compile_parts
from mtl_lightning.core.network import Network
from mtl_lightning.tasks import BinaryClassification, Regression
from mtl_lightning.types import InputSpec, TargetSpec, TensorSpec
from tests.contracts.architecture_cases import ONE_OF_EACH, TASKS, exported, rows, with_encoder
from tests.cover import covering

ROWS = 6
SETS = [list(chosen) for size in (3, 1, 2) for chosen in combinations(TASKS, size)]
"""All tasks, each alone, then two of them."""
NORMALISED = partial(MLP, hidden=(7, 5), norm=BatchNorm)


def few(cls: Any) -> Any:
    """An architecture with few experts, if it has any: each one is traced."""
    return partial(cls, num_experts=2) if "num_experts" in inspect.signature(cls).parameters else cls


KINDS: dict[str, tuple[Any, InputSpec]] = {
    **{cls.__name__: (with_encoder(few(cls), NORMALISED), TensorSpec((8,))) for cls in exported(Architecture)},
    **{str(pair.id): pair.values for pair in ONE_OF_EACH},  # pictures
}
"""Vectors and batch normalisation, whose statistics tell which parts were run; and each with its defaults."""
CASES = covering(
    [*product(KINDS, [True, False], ["eager", "aot_eager"])], lambda case: set() if "-" in case[0] else {*case}
)


@pytest.fixture(autouse=True)
def _compile_afresh() -> Iterator[None]:
    torch.compiler.reset()
    torch.manual_seed(0)
    yield
    torch.compiler.reset()


def network_of(cls: Any, spec: InputSpec, **options: Any) -> Network:
    """A network whose tasks are numbers, two of which are read; yes or no where outputs are final."""
    if cls(spec, TASKS).final:
        return Network({name: BinaryClassification() for name in TASKS}, cls, spec, **options)
    return Network({name: Regression() for name in TASKS}, cls, spec, reads={"a": ["b"]}, **options)


def step(network: Network, inputs: Any, tasks: Sequence[str], seed: int) -> dict[str, Any]:
    """What a forward and, in training, a backward leave: outputs, auxiliary losses, gradients, buffers."""
    torch.manual_seed(seed)  # an architecture may draw while it trains
    network.zero_grad()
    outputs, aux = network.run(inputs, tasks)
    if network.training:
        torch.autograd.backward([*(outputs[task].square().mean() for task in tasks), *aux.values()])
    return {
        **{name: outputs[name].detach() for name in tasks},
        **{f"aux {name}": value.detach() for name, value in aux.items()},
        **{name: parameter.grad for name, parameter in network.named_parameters()},
        **{name: buffer.clone() for name, buffer in network.named_buffers()},
    }


def assert_alike(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal numbers under equal names; where nothing reaches a parameter, a graph that has it gives zeros or None."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        if value is None:
            assert found[name] is None or not found[name].any(), name
        else:
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=f"{name}: {{}}".format)


@pytest.mark.parametrize(("name", "training", "backend"), CASES)
def test_no_set_of_tasks_is_compiled_anew(name: str, training: bool, backend: str) -> None:
    cls, spec = KINDS[name]
    plain = network_of(cls, spec).train(training)
    compiled, counter = copy.deepcopy(plain), CompileCounterWithBackend(backend)
    compile_parts(compiled, {"backend": counter, "fullgraph": True})
    graphs = []
    with torch.set_grad_enabled(training):
        for seed, tasks in enumerate([*SETS, SETS[0]]):
            inputs = rows(spec, ROWS)
            expected, found = (step(network, inputs, tasks, seed) for network in (plain, compiled))
            assert_alike(found, expected)
            graphs.append(counter.frame_count)
    pieces = len({repr(piece) for piece in plain.architecture.pieces()})
    assert 0 < graphs[0] <= 1 + 3  # the architecture and the heads
    assert {*graphs[4:]} == {graphs[3]}  # by then each task was there without the others
    assert graphs[-1] <= 1 + 3 + pieces


def test_another_number_of_rows_is_one_more_graph_and_with_dynamic_none() -> None:
    for dynamic, more in ((None, 3), (True, 0)):  # of the encoder and two sizes of heads
        torch.compiler.reset()
        network, counter = network_of(*KINDS["SharedBottom"]), CompileCounterWithBackend("eager")
        compile_parts(network, {"backend": counter, "dynamic": dynamic})
        graphs = []
        for number in (6, 6, 4, 5, 7):
            network.run(torch.randn(number, 8), TASKS)
            graphs.append(counter.frame_count)
        assert graphs == [3, 3, 3 + more, 3 + more, 3 + more]


def test_heads_of_many_sizes_and_of_pytorchs_classes_are_all_compiled() -> None:
    tasks = {f"t{size}": Regression(TargetSpec(shape=(size,))) for size in range(2, 14)}
    counter = CompileCounterWithBackend("eager")
    network = Network(tasks, *KINDS["SharedBottom"], heads={"default": lambda size, k: nn.Linear(size[0], k)})
    compile_parts(network, {"backend": counter, "fullgraph": True})
    for _ in range(2):
        network(torch.randn(ROWS, 8))
    assert counter.frame_count == 1 + len(tasks)


def test_heads_that_look_the_same_share_a_graph() -> None:
    tasks = {f"t{index}": Regression() for index in range(5)}
    network, counter = Network(tasks, *KINDS["SharedBottom"]), CompileCounterWithBackend("eager")
    compile_parts(network, {"backend": counter, "fullgraph": True})
    found = network(inputs := torch.randn(ROWS, 8))
    assert counter.frame_count == 1 + 1
    with torch.compiler.set_stance("force_eager"):
        expected = network(inputs)
    assert all(torch.equal(found[name], expected[name]) for name in tasks)
