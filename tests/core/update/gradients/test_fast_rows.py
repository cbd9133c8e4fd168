"""Rows taken through the features of all tasks, and written in place, are those of one backward per task."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import SGD

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import CGC, MLP, PLE, CrossStitch, MLPHead, MMoE, SharedBottom
from mtl_lightning.balancing import (
    MGDA,
    GradientNormBalancing,
    MetaBalance,
    MoDo,
    PCGrad,
    UncertaintyWeighting,
    UPGrad,
)
from mtl_lightning.core.network.cut_features import CutFeatures
from mtl_lightning.core.update.gradients import parameters
from mtl_lightning.core.update.gradients.jacobian import Jacobian, RowMemory, TaskGradients, Term
from mtl_lightning.core.update.gradients.linear_layers import linear_layers
from mtl_lightning.core.update.gradients.parameters import ParameterLevel, may_go_apart
from mtl_lightning.tasks import Regression
from mtl_lightning.types import Batch, Features, TargetSpec
from tests.helpers import assert_same, fit, make_batches, make_module, make_tasks, weights_of, with_gaps, without

BATCHES = with_gaps(make_batches(4, 12), share=0.2)


class WithAux(SharedBottom):
    """Adds penalties of its features and of its weights."""

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        found = super().forward(inputs, tasks)
        penalty = torch.stack([parameter.square().sum() for parameter in self.parameters()]).sum()
        features = next(iter(found.per_task.values()))
        return Features(found.per_task, {"weights": 0.1 * penalty, "features": 0.3 * features.square().mean()})


class Tied(nn.Module):
    """A head that uses a shared weight without telling."""

    def __init__(self, hidden: list[nn.Linear], size: int, outputs: int) -> None:
        super().__init__()
        self.hidden, self.map = hidden, nn.Linear(8, outputs)

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.map(torch.tanh(features @ self.hidden[0].weight))
        return output


class Uses(nn.Module):
    """Linear layers used twice, without a bias, with one that is used elsewhere, frozen, hooked, of three axes."""

    out_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.bare = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.lent, self.frozen, self.hooked = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.unused, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
        self.frozen.weight.requires_grad_(False)
        self.norm = nn.LayerNorm(6)

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.hooked.weight._backward_hooks:
            self.hooked.weight.register_hook(lambda gradient: 2 * gradient)  # type: ignore[no-untyped-call]  # torch's
        values = self.twice(torch.tanh(self.twice(torch.tanh(self.first(inputs)))))
        values = self.bare(torch.relu(values))
        values = self.lent(values) + self.lent.bias
        values = self.hooked(self.frozen(values)) @ self.first.weight
        values = torch.tanh(self.first(self.norm(F.pad(values, (0, 2)))[:, :4]))
        output: Tensor = self.last(values.view(-1, 2, 6)).reshape(-1, 6)
        return output


def tied(**options: Any) -> MultiTaskModule:
    module = make_module(**options)
    architecture: Any = module.architecture
    heads: Any = module.heads
    heads["number"] = Tied([architecture.encoder.stages[1][0]], 6, 1)
    module.find_roles()
    return module


def frozen(**options: Any) -> MultiTaskModule:
    module = make_module(**options)
    architecture: Any = module.architecture
    architecture.encoder.stages[0].requires_grad_(False)
    module.heads.get_submodule("kind").requires_grad_(False)
    return module


def rescaling(**options: Any) -> MultiTaskModule:
    number = Regression(TargetSpec(), popart=0.2)
    return make_module(tasks={**make_tasks("kind", "vector"), "number": number}, **options)


def in_place(**options: Any) -> MultiTaskModule:
    """One head changes the features, after which the others read what it left."""
    torch.manual_seed(1)
    architecture = partial(SharedBottom, encoder=nn.Linear(4, 6))
    heads = {"number": lambda size, outputs: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(size[0], outputs))}
    return make_module(architecture=architecture, heads=heads, **options)


def equal(**options: Any) -> MultiTaskModule:
    """Heads that run together, and one that is not like them."""
    tasks = {name: Regression(TargetSpec()) for name in EQUAL}
    heads = {"default": partial(MLPHead, hidden=[5]), "d": partial(MLPHead, hidden=[4])}
    return make_module(tasks=tasks, heads=heads, **options)


EQUAL = ("a", "b", "c", "d", "e")


def of_equal(batches: list[Batch]) -> list[Batch]:
    """Targets of all of them, or, in every other batch, of some."""
    found = []
    for index, batch in enumerate(batches):
        columns = {"a": 0, "b": 1, "c": 2, "d": 0, "e": 1}
        targets = {name: batch["targets"]["vector"][:, column] for name, column in columns.items()}
        found.append(without({**batch, "targets": targets}, *(["b", "e"] if index % 2 else [])))
    return found


def frozen_equal(**options: Any) -> MultiTaskModule:
    module = equal(**options)
    for name in EQUAL:
        module.heads.get_submodule(name).requires_grad_(False)
    return module


def no_gap(batches: list[Batch]) -> list[Batch]:
    return batches


def missing(batches: list[Batch]) -> list[Batch]:
    """Some tasks have no target, and one is absent altogether."""
    return [without(batch, "vector", *(["kind"] if index % 2 else [])) for index, batch in enumerate(batches)]


def weighted(batches: list[Batch]) -> list[Batch]:
    return [{**batch, "weights": {"kind": torch.linspace(0, 1, 12).double()}} for batch in batches]


ENCODER = partial(MLP, hidden=[8, 6], activation=nn.Tanh)
NOISY = partial(MLP, hidden=[8, 6], dropout=0.3, norm=nn.BatchNorm1d)
READS = {"kind": ["number"], "vector": {"kind": {"stop_gradient": True}}}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "simple": {"architecture": partial(SharedBottom, encoder=partial(MLP, hidden=[8, 6], dropout=0.2))},
    "gaps": {"trainer": {"accumulate_grad_batches": 2}},
    "missing": {"batches": missing, "allow_unlabelled": ["vector"], "trainer": {"accumulate_grad_batches": 2}},
    "weights": {"batches": weighted},
    "aux": {"architecture": partial(WithAux, encoder=ENCODER), "trainer": {"accumulate_grad_batches": 2}},
    "noise": {
        "architecture": partial(SharedBottom, encoder=NOISY),
        "heads": {"default": partial(MLPHead, dropout=0.2)},
    },
    "reads": {"reads": READS},
    "open": {"reads": {"kind": {"number": {"stop_gradient": False}}}},
    "experts": {"architecture": MMoE},
    "own experts": {"architecture": PLE, "trainer": {"accumulate_grad_batches": 2}},
    "stitches": {"architecture": CrossStitch},
    "uses": {"architecture": partial(SharedBottom, encoder=Uses)},
    "frozen": {"make": frozen},
    "tied": {"make": tied, "trainer": {"accumulate_grad_batches": 2}},
    "weighs heads": {"balancer": partial(MGDA, weight_heads=True, losses=UncertaintyWeighting)},
    "rows": {"balancer": PCGrad, "architecture": CGC},
    "per parameter": {"balancer": MetaBalance},
    "parts": {"balancer": MoDo},
    "in place": {"make": in_place},
    "equal heads": {"make": equal, "batches": of_equal, "trainer": {"accumulate_grad_batches": 2}},
    "equal heads apart": {"make": equal, "batches": of_equal, "allow_unlabelled": ["b", "e"]},
    "equal heads that read": {"make": equal, "batches": of_equal, "reads": {"e": ["a"], "c": ["e"]}},
    "equal heads, frozen": {"make": frozen_equal, "batches": of_equal},
    "popart": {"make": rescaling},
}


def trained(fast: bool, options: dict[str, Any]) -> dict[str, Tensor]:
    rest = {"balancer": partial(GradientNormBalancing, weight_heads=False), **options}
    make, change = rest.pop("make", make_module), rest.pop("batches", no_gap)
    trainer = rest.pop("trainer", {})
    module = make(optimizers={"default": partial(SGD, lr=0.1)}, fast_paths=fast, **rest)
    fit(module, change(BATCHES), **trainer)
    return weights_of(module)


@pytest.mark.parametrize("name", CASES)
def test_updates_are_those_of_the_plain_way(name: str) -> None:
    fast, plain = (trained(fast, CASES[name]) for fast in (True, False))
    before = weights_of(
        CASES[name].get("make", make_module)(**{k: v for k, v in CASES[name].items() if k not in OTHERS})
    )
    assert any((before[key].double() - value).abs().max() > 1e-3 for key, value in plain.items())
    assert_same(fast, plain, atol=1e-10)


@pytest.mark.parametrize("name", ["missing", "aux", "own experts", "reads", "equal heads", "in place"])
def test_many_features_are_not_kept_for_all_tasks_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = trained(False, CASES[name])
    monkeypatch.setattr(parameters, "_MOST", 0)
    monkeypatch.setattr(CutFeatures, "gradients", None)  # of which there are none
    assert_same(trained(True, CASES[name]), plain, atol=1e-10)


@pytest.mark.parametrize("level", ["features", "last_layer"])
@pytest.mark.parametrize("name", [name for name in CASES if "equal" in name])
def test_other_levels_are_those_of_the_plain_way(name: str, level: Any) -> None:
    options = {**CASES[name], "balancer": partial(MGDA, level=level, weight_heads=True)}
    fast, plain = (trained(fast, options) for fast in (True, False))
    assert_same(fast, plain, atol=1e-10)


@pytest.mark.parametrize("level", ["parameters", "features"])
def test_gradients_of_equal_heads_are_written_together(level: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[list[str]] = []
    memory = CutFeatures.memory

    def noting(self: CutFeatures, names: Sequence[str]) -> Tensor:
        written.append([*names])
        return memory(self, names)

    monkeypatch.setattr(CutFeatures, "memory", noting)
    module = equal(balancer=partial(MGDA, level=level))
    fit(module, of_equal(BATCHES)[:1])
    assert written == ([["a", "b", "c", "e"]] if module.fast_paths else [])


OTHERS = ("make", "batches", "trainer")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_in_other_precisions(precision: Any) -> None:
    found = []
    for fast in (True, False):
        module = make_module(optimizers={"default": partial(SGD, lr=0.1)}, fast_paths=fast, balancer=UPGrad)
        options: dict[str, Any] = {"precision": precision}
        if precision == "16-mixed":
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
            options = {"precision": None, "plugins": MixedPrecision("16-mixed", "cpu", scaler=scaler)}
        batches: Any = [_single(batch) for batch in BATCHES]
        fit(module, batches, **options)
        found.append(weights_of(module))
    assert_same(found[0], found[1], atol=1e-6 if precision == "32-true" else 1e-3)


def _single(batch: Batch) -> Batch:
    targets = {name: t.float() if t.is_floating_point() else t for name, t in batch["targets"].items()}
    return {"inputs": batch["inputs"].float(), "targets": targets}


@pytest.mark.parametrize(("name", "apart"), [("plain", True), ("own experts", True), ("reads", True), ("open", False)])
def test_networks_that_are_features_and_then_heads_go_apart(name: str, apart: bool) -> None:
    options = {key: value for key, value in CASES[name].items() if key not in OTHERS}
    assert may_go_apart(make_module(**options)) == (apart and make_module(**options).fast_paths)
    assert not may_go_apart(make_module(**options, fast_paths=False))


class Overridden(MultiTaskModule):
    def run(self, inputs: Any, tasks: Sequence[str]) -> Any:
        return super().run(inputs, tasks)


def test_whoever_changes_the_run_gets_the_plain_way() -> None:
    assert not may_go_apart(make_module(Overridden))
    module = make_module()
    module.run = module.run  # type: ignore[method-assign]  # as somebody who patches it would
    assert not may_go_apart(module)


def test_a_head_that_hides_a_shared_weight_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, bool] = {}
    look = ParameterLevel.look

    def looking(self: ParameterLevel) -> None:
        look(self)
        found.update(self.memory.apart)

    monkeypatch.setattr(ParameterLevel, "look", looking)
    fit(tied(balancer=MGDA, fast_paths=True), BATCHES)
    assert set(found.values()) <= {False}


# ------------------------------------------------------------------------------------------------------------- in place
def test_only_weights_of_linear_layers_that_are_used_once_are_written_in_place() -> None:
    uses = Uses()
    parameters = [p for p in uses.parameters() if p.requires_grad]
    names = [n for n, p in uses.named_parameters() if p.requires_grad]
    found = linear_layers([uses(torch.randn(6, 4))], parameters, torch.float32).layers
    assert {names[layer.weight]: layer.bias and names[layer.bias] for layer in found} == {
        "bare.weight": None,
        "lent.weight": None,
        "last.weight": "last.bias",
    }
    assert not linear_layers([uses(torch.randn(6, 4))], parameters, torch.float64).layers


@pytest.mark.parametrize("begun", [False, True])
def test_rows_in_place_are_those_that_are_copied(begun: bool) -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3, bias=False), nn.BatchNorm1d(3), nn.Linear(3, 2))
    trunk.double()
    parameters, rows = list(trunk.parameters()), []
    for in_place in (True, False):
        jacobian = Jacobian(parameters, TaskGradients([]), 3, RowMemory(), in_place=in_place)
        for seed in range(1 + begun):
            values = trunk(torch.randn(9, 5, generator=torch.Generator().manual_seed(seed)).double())
            outputs = [values[:, 0].square().sum(), torch.zeros(()), values.exp().sum()]
            jacobian.add([Term(output) for output in outputs])
        rows.append(jacobian.rows.clone())
    assert rows[0][0].any()
    assert not rows[0][1].any()
    torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("activation", "together"), [(nn.ReLU, 2**17 // 40), (nn.Sigmoid, 2**17 // 40), (nn.Tanh, 1), (nn.GELU, 1)]
)
def test_rows_of_one_tensor_are_taken_together(activation: type[nn.Module], together: int) -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(5, 8), activation(), nn.Dropout(0.5), nn.Linear(8, 6), activation()).double()
    parameters, rows = list(trunk.parameters()), []
    inputs, factors = torch.randn(5, 5).double(), torch.randn(4, 5, 6).double()
    for in_place in (True, False):
        jacobian = Jacobian(parameters, TaskGradients([]), 5, RowMemory(), in_place=in_place)
        for seed in range(2):
            torch.manual_seed(seed)
            values = trunk(inputs)
            assert linear_layers([values], parameters, torch.float64).together == together
            terms = [Term(values, (), factor) for factor in factors]
            jacobian.add([*terms[:2], Term(torch.zeros(())), *terms[2:]])
        rows.append(jacobian.rows.clone())
    assert rows[0].any(1).tolist() == [True, True, False, True, True]
    torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=1e-12)


def test_memory_is_written_anew() -> None:
    memory, layer = RowMemory(), nn.Linear(3, 2)

    def made() -> Jacobian:
        return Jacobian(list(layer.parameters()), TaskGradients([]), 2, memory, in_place=True)

    first = made()
    first.add([Term(layer(torch.ones(4, 3)).sum()), Term(layer(torch.ones(4, 3)).prod())])
    second = made()
    assert second.rows is first.rows
    second.add([Term(torch.zeros(())), Term(layer(torch.ones(1, 3)).sum())])
    assert not second.rows[0].any()
    assert second.rows[1].tolist() == [1.0] * 8
