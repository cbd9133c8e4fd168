from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchjd.aggregation import UPGrad

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import CGC, MLP, MLPHead, MMoE, Product, SharedBottom
from mtl_lightning.architectures.product import mixture_logit, product_logit
from mtl_lightning.balancing import Balancer
from mtl_lightning.tasks import BinaryClassification
from mtl_lightning.types import Batch, ConfigurationError, TargetSpec, TensorSpec
from tests.helpers import fit, weights_of, without

VECTORS, FUNNEL = TensorSpec((4,)), ["click", "buy"]
ESMM: dict[str, Any] = {"products": {"buy": ["click", "conversion"]}}


@pytest.mark.parametrize("logits", [[0.3, -1.2], [2.0, 3.0, -4.0], [-0.5], [1.0, 1.0, 1.0, 1.0]])
def test_the_logit_is_that_of_the_product(logits: list[float]) -> None:
    given = [torch.tensor([[value]], dtype=torch.float64, requires_grad=True) for value in logits]
    product = torch.stack([value.sigmoid() for value in given]).prod(0)
    found = product_logit(given)
    torch.testing.assert_close(found.sigmoid(), product)
    expected = torch.autograd.grad(torch.logit(product).sum(), given)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), given), expected)


@pytest.mark.parametrize("a", [-1e4, -200.0, -20.0, 0.0, 20.0, 200.0, 1e4])
@pytest.mark.parametrize("b", [-1e4, -200.0, 0.0, 200.0, 1e4])
def test_the_logit_and_its_gradient_are_finite_at_extremes(a: float, b: float) -> None:
    given = [torch.tensor([value], requires_grad=True) for value in (a, b)]
    found = product_logit(given)
    gradients = torch.autograd.grad(found.sum(), given)
    assert found.isfinite()
    assert all(g.isfinite() and 0 <= g <= 1.0001 for g in gradients)
    low = min(a, b)
    assert found.item() == pytest.approx(a + b if max(a, b) < -30 else low, rel=0.1, abs=1.2)


def test_half_precision_is_computed_in_float32() -> None:
    assert product_logit([torch.zeros(2, 1, dtype=torch.bfloat16)] * 2).dtype == torch.float32


def test_a_purchase_is_a_click_and_a_conversion() -> None:
    network = Product(VECTORS, FUNNEL, **ESMM)
    inputs = torch.randn(5, 4)
    outputs = network(inputs, FUNNEL).per_task
    features = network.architecture(inputs, ["click"]).per_task["click"]
    click, conversion = (network.heads[name](features).sigmoid() for name in ("click", "conversion"))
    torch.testing.assert_close(outputs["click"].sigmoid(), click)
    torch.testing.assert_close(outputs["buy"].sigmoid(), click * conversion)
    assert outputs["buy"].shape == (5, 1)
    assert (outputs["buy"] < outputs["click"]).all()


def test_by_default_tasks_are_a_funnel() -> None:
    network = Product(VECTORS, ["see", "click", "buy"])
    assert network.factors == {
        "see": ["see"],
        "click": ["see", "click_given_see"],
        "buy": ["see", "click_given_see", "buy_given_click"],
    }
    outputs = network(torch.randn(9, 4), ["see", "click", "buy"]).per_task
    assert (outputs["see"] > outputs["click"]).all()
    assert (outputs["click"] > outputs["buy"]).all()


FOUR = ["see", "click", "cart", "buy"]
ESM2: dict[str, Any] = {
    "products": {
        "click": ["see", "click_given_see"],
        "cart": ["click", "cart_given_click"],
        "buy": ["click", "buy_given_click"],
    },
    "mixtures": {"buy_given_click": ["cart_given_click", "buy_given_cart", "buy_given_no_cart"]},
}


def test_a_funnel_of_four_stages_is_a_chain_of_conditional_rates() -> None:
    network = Product(VECTORS, FOUR)
    inputs = torch.randn(6, 4)
    names = ["see", "click_given_see", "cart_given_click", "buy_given_cart"]
    assert list(network.heads) == names
    features = network.architecture(inputs, ["see"]).per_task["see"]
    rates = torch.stack([network.heads[name](features).sigmoid() for name in names])
    outputs = network(inputs, FOUR).per_task
    for name, expected in zip(FOUR, rates.cumprod(0), strict=True):
        torch.testing.assert_close(outputs[name].sigmoid(), expected)
    own = network.task_parameters()
    assert list(own) == ["buy"]  # the factors of earlier stages serve all that follow
    assert own["buy"] == list(network.heads["buy_given_cart"].parameters())


def test_a_purchase_with_and_without_a_cart_by_hand() -> None:
    """As Wen et al. (2020) have it: y1 is click, y2 cart after click, y3 and y4 purchase with and without a cart."""
    network = Product(VECTORS, FOUR, **ESM2)
    inputs = torch.randn(6, 4)
    features = network.architecture(inputs, ["see"]).per_task["see"]
    rate = {name: head(features).sigmoid() for name, head in network.heads.items()}
    y1, y2 = rate["see"] * rate["click_given_see"], rate["cart_given_click"]
    buys = y2 * rate["buy_given_cart"] + (1 - y2) * rate["buy_given_no_cart"]
    outputs = network(inputs, FOUR).per_task
    torch.testing.assert_close(outputs["cart"].sigmoid(), y1 * y2)
    torch.testing.assert_close(outputs["buy"].sigmoid(), y1 * buys)
    parameters = [p for name in ("buy_given_cart", "buy_given_no_cart") for p in network.heads[name].parameters()]
    assert network.task_parameters() == {"buy": parameters}
    assert list(network(inputs, ["cart"]).per_task) == ["cart"]


@pytest.mark.parametrize("c", [-1e4, -30.0, 0.3, 30.0, 1e4])
@pytest.mark.parametrize(("a", "b"), [(0.5, -2.0), (-50.0, -60.0), (80.0, 90.0), (1e4, -1e4)])
def test_a_mixture_is_exact_and_finite_at_extremes(c: float, a: float, b: float) -> None:
    given = [torch.tensor([value], requires_grad=True) for value in (c, a, b)]
    found = mixture_logit(*given)
    assert all(g.isfinite() for g in torch.autograd.grad(found.sum(), given))
    wide = [torch.tensor(value, dtype=torch.float64) for value in (c, a, b)]
    mixed, not_so = (
        wide[0].sigmoid() * (sign * wide[1]).sigmoid() + (-wide[0]).sigmoid() * (sign * wide[2]).sigmoid()
        for sign in (1, -1)
    )
    if min(mixed, not_so) > 0:
        assert found.item() == pytest.approx(float(mixed.log() - not_so.log()), rel=1e-5, abs=1e-5)
    assert found.isfinite()


def test_a_factor_that_only_one_task_depends_on_is_its_own() -> None:
    network = Product(VECTORS, FUNNEL, architecture=partial(MMoE, num_experts=2), **ESMM)
    declared = network.task_parameters()
    assert {*declared} == {"buy"}
    names = {id(p): name for name, p in network.named_parameters()}
    assert {names[id(p)].rpartition(".map")[0] for p in declared["buy"]} == {
        "architecture.gates.conversion",
        "heads.conversion",
    }


def test_only_the_factors_asked_for_are_run() -> None:
    network = Product(VECTORS, FUNNEL, architecture=CGC, **ESMM)
    calls: list[int] = []
    network.heads["conversion"].register_forward_hook(lambda *_: calls.append(1))
    network(torch.randn(2, 4), ["click"])
    assert calls == []


def test_heads_are_a_choice() -> None:
    network = Product(VECTORS, FUNNEL, head=partial(MLPHead, hidden=[3]))
    assert isinstance(network.heads["click"], MLPHead)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"products": {"buy": ["click", "a.b"]}}, r"expected names without '\.' .* found \['a\.b'\]"),
        ({"products": {"bye": ["click", "buy"]}}, r"expected products of tasks, \['click', 'buy'\], found \['bye'\]"),
        (
            {"products": {"buy": ["click"]}},
            r"expected at least 2 factors of each product, found \{'buy': \['click'\]\}",
        ),
        ({"products": {"buy": ["click", "x"], "click": ["buy", "y"]}}, "found a cycle: click of buy of click"),
        ({"mixtures": {"buy": ["click", "x"]}}, "expected of a mixture a condition, the factor where it holds and"),
        ({"mixtures": {"x": ["click", "y", "z"]}}, r"expected mixtures that are tasks, .*found \['x'\]"),
        (
            {"products": {"buy": ["click", "x"]}, "mixtures": {"buy": ["click", "y", "z"]}},
            "products or mixtures, found",
        ),
        ({"mixtures": {"buy": ["click", "buy", "z"]}}, "found a cycle: buy of buy"),
        ({"architecture": Product}, "Product: expected an architecture that gives features, found Product, whose"),
    ],
)
def test_says_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Product(VECTORS, FUNNEL, **options)


# ------------------------------------------------------------------------------------------------------- in the module
def impressions(batches: int, seed: int = 0) -> list[Batch]:
    """Clicks, and purchases among those who clicked; what decides a purchase is known only to those who click."""
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(batches, 256, 4, generator=random, dtype=torch.float64)
    draws = torch.rand(2, batches, 256, generator=random, dtype=torch.float64)
    click = draws[0] < torch.sigmoid(2 * inputs[..., 0] - 1)
    buy = click & (draws[1] < conversion_rate(inputs))
    return [
        {"inputs": x, "targets": {"click": c.double(), "buy": b.double()}}
        for x, c, b in zip(inputs, click, buy, strict=True)
    ]


def conversion_rate(inputs: Tensor) -> Tensor:
    return torch.sigmoid(2 * inputs[..., 1] - 2 * inputs[..., 0])


def test_the_conversion_rate_is_learned_without_a_label_of_its_own() -> None:
    architecture = partial(
        Product,
        architecture=partial(SharedBottom, encoder=partial(MLP, hidden=(32,), activation=nn.Tanh)),
        products={"buy": ["click", "conversion"]},
    )
    torch.manual_seed(0)
    tasks: Any = {name: BinaryClassification(TargetSpec()) for name in ("click", "conversion", "buy")}
    module = MultiTaskModule(
        tasks=tasks,
        architecture=architecture,
        input_spec=VECTORS,
        allow_unlabelled=["conversion"],
        optimizers={"default": partial(torch.optim.Adam, lr=1e-2)},
    )
    inputs = torch.randn(4000, 4, dtype=torch.float64)
    rate = conversion_rate(inputs)

    def error() -> float:
        with torch.no_grad():
            return float((module.double().eval()(inputs)["conversion"][:, 0].sigmoid() - rate).abs().mean())

    before = error()
    fit(module, impressions(40), max_epochs=5)
    assert error() < 0.35 * before
    assert error() < 0.08


@pytest.mark.parametrize("balancer", [Balancer, UPGrad()], ids=["sum", "UPGrad"])
def test_it_trains_on_batches_of_some_tasks(balancer: Any) -> None:
    tasks: Any = {name: BinaryClassification(TargetSpec()) for name in FUNNEL}
    module = MultiTaskModule(tasks=tasks, architecture=Product, input_spec=VECTORS, balancer=balancer)
    one, other = impressions(2)
    before = weights_of(module.double())
    fit(module, [without(one, "buy"), without(other, "click")], max_epochs=2)
    after = weights_of(module)
    assert all(value.isfinite().all() for value in after.values())
    assert all(not torch.equal(before[name], after[name]) for name in after)
    module.labels.allowed.append("buy")
    fit(module, [without(one, "buy")])
    last = [name for name in after if "heads.buy_given_click" in name]
    assert len(last) == 2
    assert all(torch.equal(weights_of(module)[name], after[name]) for name in last)


@pytest.mark.parametrize(
    ("factor", "meant"),
    [("convertion", "conversion"), ("clcik", "click"), ("conversion_given_click", None), ("rate", None)],
)
def test_a_misspelt_factor_is_no_hidden_one(factor: str, meant: str | None) -> None:
    tasks, products = ["click", "conversion", "both"], {"both": ["click", factor]}
    if meant is None:
        assert Product(TensorSpec((3,)), tasks, products=products).factors["both"] == ["click", factor]
        return
    with pytest.raises(ConfigurationError, match=rf"found '{factor}'\. Did you mean '{meant}'\?"):
        Product(TensorSpec((3,)), tasks, products=products)


def test_numbered_factors_are_told_apart() -> None:
    products = {"all": ["p_1", "p_2", "p_a"]}
    assert Product(TensorSpec((3,)), ["p_1", "all"], products=products).factors["all"] == ["p_1", "p_2", "p_a"]
