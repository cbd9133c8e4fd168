"""Gramian methods without rows of linear layers: the same inner products and updates, fewer multiplications."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.flop_counter import FlopCounterMode

from mtl_lightning import balancing
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.balancing import MGDA, GradVac, MoDo, UncertaintyWeighting
from mtl_lightning.balancing.gramian import gramian
from mtl_lightning.balancing.rows import GramianBalancer
from mtl_lightning.core.update.gradients import inner_products
from mtl_lightning.core.update.gradients.inner_products import saves
from mtl_lightning.core.update.gradients.jacobian import Jacobian, RowMemory, TaskGradients, Term
from mtl_lightning.core.update.gradients.parameters import ParameterLevel
from mtl_lightning.types import Features
from tests.core.update.gradients.test_fast_rows import BATCHES, CASES, _single, trained
from tests.helpers import assert_same, fit, make_batches, make_module, weights_of

EVERY = {
    name: cls
    for name in balancing.__all__
    if isinstance(cls := getattr(balancing, name), type) and issubclass(cls, GramianBalancer) and cls.gramian
}


class OnFeatures(SharedBottom):
    """Adds a penalty of its features: a row that no method weighs."""

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        found = super().forward(inputs, tasks)
        return Features(found.per_task, {"features": next(iter(found.per_task.values())).square().mean()})


ENCODER = partial(MLP, hidden=[8, 6], activation=nn.Tanh)
AUX = {"aux of features": {"architecture": partial(OnFeatures, encoder=ENCODER)}}
ALONE = {*AUX, "plain", "noise", "reads", "open", "uses", "frozen", "weighs heads", "popart", "equal heads apart"}


def always(answer: bool = True) -> Any:
    """Have the rule say this whatever the sizes are."""
    return mock.patch.object(inner_products, "saves", return_value=answer)


def products(jacobian: Jacobian, number: int) -> Tensor:
    return sum((each.gramian(number) for each in jacobian.unwritten.values()), gramian(jacobian.rows[:number]))


# -------------------------------------------------------------------------------------------------- of layers by hand
WIDTHS = st.integers(1, 9)


@settings(max_examples=20, deadline=None, database=None, derandomize=True)
@given(
    batch=st.integers(2, 9),
    widths=st.lists(WIDTHS, min_size=2, max_size=4),
    terms=st.integers(1, 5),
    bias=st.booleans(),
    smooth=st.booleans(),
    far=st.sampled_from([0.0, 30.0]),
    single=st.booleans(),
)
def test_products_and_sums_are_those_of_rows(
    batch: int, widths: list[int], terms: int, bias: bool, smooth: bool, far: float, single: bool
) -> None:
    torch.manual_seed(sum(widths))
    layers = [
        module
        for first, second in pairwise(widths)
        for module in (nn.Linear(first, second, bias=bias), nn.Tanh() if smooth else nn.ReLU())
    ]
    trunk = nn.Sequential(*layers).to(torch.float32 if single else torch.float64)
    parameters, inputs = (
        list(trunk.parameters()),
        (torch.randn(batch, widths[0]) + far).to(torch.float32 if single else torch.float64),
    )
    weights, found = torch.randn(terms).to(inputs.dtype), []
    factors = torch.randn(terms, batch, widths[-1]).to(inputs.dtype)
    for only in (True, False):
        jacobian = Jacobian(parameters, TaskGradients([]), terms, RowMemory(), in_place=True, products_only=only)
        values = trunk(inputs)
        with always():
            jacobian.add([*(Term(values, (), factor) for factor in factors[:-1]), Term((values * factors[-1]).sum())])
        assert len(jacobian.unwritten) == (len(widths) - 1) * only
        assert jacobian.rows.shape[1] == (0 if only else sum(jacobian.sizes))
        combined = jacobian.by_place(weights @ jacobian.rows, weights)
        found.append((products(jacobian, terms), [combined[place] for place in range(len(parameters))]))
    (ours, sums), (exact, others) = found
    error = 1e-6 if single else 1e-12
    assert (ours - exact).abs().max() <= error * exact.abs().max()
    scale = max(float(other.abs().max()) for other in others)
    for one, other in zip(sums, others, strict=True):
        assert (one - other).abs().max() <= error * max(1.0, scale)


def test_means_far_from_0_in_front_of_a_batch_norm_cancel_out() -> None:
    """Gradients sum to 0 over the examples there, so that only what is left of the inputs without means counts."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16))
    inputs, factors = torch.randn(12, 32) + 1000, torch.randn(3, 12, 16)
    jacobian = Jacobian(list(trunk.parameters()), TaskGradients([]), 3, RowMemory(), in_place=True, products_only=True)
    values = trunk(inputs)
    with always():
        jacobian.add([Term((values * factor).sum()) for factor in factors])
    (layer,) = jacobian.unwritten.values()
    gradients = layer.gradients().double()
    rows = torch.cat([gradients.transpose(1, 2) @ inputs.double(), gradients.sum(1).unsqueeze(2)], 2).flatten(1)
    exact = rows @ rows.t()
    assert (layer.gramian(3) - exact).abs().max() < 1e-5 * exact.abs().max()
    plain = inputs @ inputs.t() + 1
    uncentred = gramian(torch.matmul(plain, layer.gradients()).flatten(1), layer.gradients().flatten(1))
    assert (uncentred - exact).abs().max() > 1e-3 * exact.abs().max()


# ------------------------------------------------------------------------------------------------------------ the rule
def multiplications(batch: int, inputs: int, outputs: int, terms: int, only: bool) -> int:
    """Count those of rows, inner products and the sum of one layer."""
    with torch.device("meta"):
        layer, values = nn.Linear(inputs, outputs), torch.empty(batch, inputs)
        gradients = torch.empty(terms, batch, outputs)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        if only:
            kernel = values @ values.t()
            other = torch.matmul(kernel, gradients)
            _ = other.flatten(1) @ gradients.flatten(1).t(), values.t() @ gradients[0]
        else:
            rows = torch.stack([(gradient.t() @ values).flatten() for gradient in gradients])
            _ = rows @ rows.t()
    del layer
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((256, 1024, 1024, 3), True),  # W3: its hidden layers, but not what reads its 64 columns
        ((256, 64, 1024, 3), False),
        ((512, 256, 256, 8), False),  # W1
        ((512, 256, 256, 128), False),
        ((32, 512, 512, 8), True),
        ((8, 64, 64, 3), True),
        ((1024, 1024, 1024, 3), False),
    ],
)
def test_the_rule_takes_what_multiplies_less(sizes: tuple[int, int, int, int], expected: bool) -> None:
    assert saves(*sizes) == expected
    assert (multiplications(*sizes, only=True) < multiplications(*sizes, only=False)) == expected


def test_the_precision_of_products_decides() -> None:
    layer = nn.Linear(64, 64)
    before = torch.get_float32_matmul_precision()
    for precision, expected in (("highest", 1), ("medium", 0)):
        torch.set_float32_matmul_precision(precision)
        try:
            made = Jacobian([*layer.parameters()], TaskGradients([]), 2, RowMemory(), in_place=True, products_only=True)
            values = layer(torch.randn(8, 64))
            made.add([Term(values.sum()), Term(values.square().sum())])
        finally:
            torch.set_float32_matmul_precision(before)
        assert len(made.unwritten) == expected


# ------------------------------------------------------------------------------------------------------------- updates
@pytest.mark.parametrize("name", sorted(ALONE))
def test_updates_are_those_of_rows(name: str) -> None:
    options = {**{**CASES, **AUX}[name], "trainer": {}}
    with always() as rule:
        found = trained(True, options)
    assert rule.called == make_module(fast_paths=True).fast_paths
    assert_same(found, trained(False, options), atol=1e-10)


@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_method(name: str) -> None:
    found, single = [], []
    for fast in (True, False):
        options: dict[str, Any] = {"optimizers": {"default": partial(SGD, lr=0.1)}, "balancer": EVERY[name]}
        with always():
            module = make_module(fast_paths=fast, **options)
            fit(module, BATCHES)
            found.append(weights_of(module))
            module = make_module(fast_paths=fast, **options)
            fit(module, [_single(batch) for batch in BATCHES[:1]], precision="32-true")
            single.append(weights_of(module))
    assert_same(found[0], found[1], atol=1e-10)
    assert_same(single[0], single[1], atol=1e-6)


def test_nobody_else_goes_without_rows() -> None:
    options: dict[str, dict[str, Any]] = {
        "accumulated": {"trainer": {"accumulate_grad_batches": 2}, "balancer": MGDA},
        "whole rows": {"balancer": partial(GradVac, groups="matrix")},
        "parts": {"balancer": MoDo},
        "tied": {**CASES["tied"], "trainer": {}},
        "open": {**CASES["open"], "balancer": MGDA, "fast": False},
    }
    for case in options.values():
        with always() as rule:
            trained(case.pop("fast", True), case)
        assert not rule.called
    network, part = SimpleNamespace(balancer=MGDA(3)), SimpleNamespace(batches=[1])
    for processes in (1, 2):
        level: Any = SimpleNamespace(network=network, runtime=SimpleNamespace(world_size=processes))
        asked: Any = part
        assert ParameterLevel._needs_products_only(level, asked) == (processes == 1)


def test_what_is_not_finite_is_found() -> None:
    batches = make_batches(3, 12)
    batches[1]["inputs"][0, 0] = torch.inf
    found = []
    for fast in (True, False):
        module = make_module(
            optimizers={"default": partial(SGD, lr=0.1)},
            balancer=partial(MGDA, losses=UncertaintyWeighting),
            on_nonfinite="skip",
            fast_paths=fast,
        )
        with always():
            fit(module, batches)
        found.append(weights_of(module))
    assert all(weight.isfinite().all() for weight in found[0].values())
    assert_same(found[0], found[1], atol=1e-10)


def test_wide_layers_take_no_memory_for_rows() -> None:
    held: list[int] = []

    class Looking(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            rows = module.updates.memory.rows
            held.append(0 if rows is None else rows.numel())

    architecture = partial(SharedBottom, encoder=partial(MLP, hidden=[64, 64, 64]))
    for rule in (saves, lambda *_: False):
        module = make_module(architecture=architecture, balancer=MGDA, fast_paths=True)
        with mock.patch.object(inner_products, "saves", rule):
            fit(module, make_batches(1, 8), callbacks=[Looking()])
    narrow, wide = 3 * 5 * 64, 3 * 2 * 65 * 64
    assert held == [narrow + (0 if module.fast_paths else wide), narrow + wide]
