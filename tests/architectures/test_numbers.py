from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.export import export_network
from mtl_lightning.types import ConfigurationError, TableSpec
from tests.export.networks import network, two_tasks

BOUNDS = {"age": (-1.0, 0.0, 0.5), "gain": (2.0,)}
TABLE = TableSpec(("age", "face", "gain"), {}, quantiles=BOUNDS)  # face: a number of a vector, which has no quantiles
KINDS: list[Any] = ["linear", "buckets", "periodic", "piecewise"]
GAP = float("nan")


def table(*rows: list[float]) -> dict[str, Tensor]:
    return {"numeric": torch.tensor(rows), "categorical": torch.zeros(len(rows), 0, dtype=torch.int64)}


def encoder_of(numbers: Any, spec: TableSpec = TABLE, **options: Any) -> TabularEncoder:
    return TabularEncoder(spec, hidden=(), numbers=numbers, number_width=3, **options)


def weight_of(encoder: nn.Module, kind: str) -> nn.Parameter:
    return encoder.get_parameter(f"stages.0.numbers.{kind}.weight")


def expected(weight: Tensor, encoded: list[float]) -> Tensor:
    return weight[1] + torch.tensor(encoded, dtype=torch.float32) @ weight[2 : 2 + len(encoded)]


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (-2.0, [-2 / 3, 0, 0, 0]),  # 1 below the first bound, in units of the distance of 1.5 between first and last
        (-1.0, [0, 0, 0, 0]),
        (-0.25, [0, 0.75, 0, 0]),
        (0.25, [0, 1, 0.5, 0]),
        (3.5, [0, 1, 1, 2]),
    ],
)
def test_piecewise_by_hand(number: float, encoded: list[float]) -> None:
    encoder = encoder_of("piecewise")
    weight = weight_of(encoder, "piecewise")
    found = encoder(table([number, 7.0, 2.0 + number]))
    of_gain = [min(number, 0.0), max(number, 0.0)]  # a single bound: two slopes
    columns = [torch.tensor([7.0]), expected(weight[0], encoded), expected(weight[1], of_gain)]
    torch.testing.assert_close(found[0], torch.cat(columns))
    assert encoder.out_features == (1 + 3 + 3,)


@pytest.mark.parametrize(
    ("number", "bucket"), [(-9.0, 0), (-1.0, 1), (-0.1, 1), (0.0, 2), (0.4, 2), (0.5, 3), (9.0, 3)]
)
def test_buckets_by_hand(number: float, bucket: int) -> None:
    encoder = encoder_of({"age": "buckets"})
    weight = weight_of(encoder, "buckets")[0]
    found = encoder(table([number, 7.0, 8.0]))
    torch.testing.assert_close(found[0], torch.cat([torch.tensor([7.0, 8.0]), weight[1] + weight[2 + bucket]]))


def test_periodic_and_linear_by_hand() -> None:
    encoder = encoder_of({"age": "periodic", "gain": "linear"}, frequencies=2, frequency_scale=1.0)
    linear, periodic = weight_of(encoder, "linear")[0], weight_of(encoder, "periodic")[0]
    angles = 2 * torch.pi * 0.3 * encoder.get_parameter("stages.0.numbers.periodic.frequencies")[0]
    waves = [*angles.sin().tolist(), *angles.cos().tolist()]
    columns = [torch.tensor([7.0]), expected(linear, [-2.0]).relu(), expected(periodic, waves).relu()]
    torch.testing.assert_close(encoder(table([0.3, 7.0, -2.0]))[0], torch.cat(columns))


def test_frequencies_are_drawn_with_their_scale() -> None:
    spec = TableSpec(tuple(map(str, range(50))), {})
    drawn = encoder_of("periodic", spec, frequencies=100, frequency_scale=0.2).get_parameter(
        "stages.0.numbers.periodic.frequencies"
    )
    assert drawn.shape == (50, 100)
    assert drawn.std().item() == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_number_has_a_vector_of_its_own_that_starts_at_zero(kind: str) -> None:
    encoder = encoder_of({"age": kind})
    rows = table([GAP, 1.0, 1.0], [0.0, 1.0, 1.0])
    missing, mean = encoder(rows)[:, 2:]
    assert missing.tolist() == [0.0, 0.0, 0.0]
    assert mean.abs().sum() > 0
    torch.autograd.backward([missing.sum()])
    gradient = weight_of(encoder, kind).grad
    assert gradient is not None
    assert gradient[0, 0].tolist() == [1.0, 1.0, 1.0]
    assert not gradient[0, 1:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_jacobian_can_be_taken_at_once(kind: Any) -> None:
    encoder = TabularEncoder(TABLE, hidden=(4,), numbers={"age": kind}, activation=nn.Tanh)
    outputs = encoder(table([GAP, 1.0, 1.0], [0.2, 0.5, 1.0])).sum(0)
    parameters, tasks = list(encoder.parameters()), torch.eye(4)
    at_once = torch.autograd.grad(outputs, parameters, tasks, retain_graph=True, is_grads_batched=True)
    for row, own in enumerate(tasks):
        alone = torch.autograd.grad(outputs, parameters, own, retain_graph=True)
        torch.testing.assert_close([gradient[row] for gradient in at_once], list(alone))


@pytest.mark.parametrize("kind", [k if k == "piecewise" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_exports_agree(kind: Any, format: Any, tmp_path: Path) -> None:
    spec = TableSpec(("age", "gain"), {"work": 5}, quantiles=BOUNDS)
    encoder = partial(TabularEncoder, hidden=(6,), numbers=kind)
    found = export_network(network(two_tasks(), partial(SharedBottom, encoder=encoder), spec), tmp_path / "out", format)
    assert max(one.size for one in found.differences.values()) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_it_compiles(kind: Any) -> None:
    encoder, rows = encoder_of({"age": kind}), table([GAP, 1.0, 1.0], [0.2, 0.5, 1.0])
    compiled: Any = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(rows), encoder(rows))


def test_quantiles_are_in_the_units_of_the_inputs_where_the_network_standardises() -> None:
    spec = TableSpec(("age",), {}, quantiles={"age": (20.0, 40.0, 60.0)})
    plain, standardised = (encoder_of("piecewise", spec, standardize=given) for given in (False, True))
    standardised.load_state_dict(plain.state_dict(), strict=False)
    rows = table([30.0], [70.0], [10.0])
    assert torch.equal(standardised(rows), plain(rows))


def test_buckets_fit_a_step_that_numbers_cannot() -> None:
    """A linear head on the buckets of a number learns a target that is 1 between two quantiles, else 0."""
    torch.manual_seed(0)
    x = torch.rand(2000, 1)
    target = ((x > 0.25) & (x < 0.75)).float()
    bounds = tuple(np.quantile(x.numpy(), np.linspace(0, 1, 17)[1:-1]).tolist())
    spec = TableSpec(("x",), {}, quantiles={"x": bounds})
    left = {}
    for numbers in (None, "buckets", "piecewise"):
        features = encoder_of(numbers, spec)(table(*x.tolist())).detach()
        ones = torch.ones(len(x), 1)
        if numbers is not None:  # what any weights could make of it
            features = encoder_of(numbers, spec).get_submodule(f"stages.0.numbers.{numbers}").encode(x)[:, 0]  # type: ignore[operator]
        design = torch.cat([features, ones], dim=1).double()
        solution = torch.linalg.lstsq(design, target.double(), driver="gelsd").solution
        left[numbers] = (design @ solution - target).square().mean().item()
    assert left[None] > 0.24
    assert left["buckets"] < 0.01
    assert left["piecewise"] < 0.03


@pytest.mark.parametrize(
    ("spec", "numbers", "message"),
    [
        (TABLE, {"face": "piecewise"}, r"expected training quantiles of \['face'\] .*, found none"),
        (TableSpec(("a",), {}), "buckets", r"expected training quantiles of \['a'\] .* Take linear or periodic"),
        (TABLE, {"ages": "linear"}, r"`numbers`: expected names of numeric columns, .* Did you mean 'age'"),
        (TABLE, "cubic", r"`numbers`: expected one of \['linear', 'buckets', .* found \['cubic'\]"),
    ],
)
def test_says_what_is_wrong(spec: TableSpec, numbers: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        encoder_of(numbers, spec)
