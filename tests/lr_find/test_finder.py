"""Sweeps of real modules: what they find, on what they agree, and that they leave everything as it was."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.balancing import Balancer, PCGrad, UncertaintyWeighting
from mtl_lightning.data import MultiTaskDataModule, Split, TaskFactory, TensorRows
from mtl_lightning.lr_find import FoundRates, RateFinder
from mtl_lightning.tasks import Regression
from mtl_lightning.types import ConfigurationError, TargetSpec, TensorSpec, input_spec_to_dict
from tests.helpers import (
    TinyData,
    assert_same,
    loader_of,
    make_batches,
    make_module,
    make_trainer,
    weights_of,
    with_gaps,
    without,
)

SHORT = RateFinder(updates=6, lowest=1e-3, highest=10.0)
CPU: dict[str, Any] = {"accelerator": "cpu", "precision": "64-true"}


class TwoScales(MultiTaskDataModule):
    """Two functions of one hidden layer; ``large`` in a unit that is 1000 times smaller."""

    def read_schema(self) -> dict[str, Any]:
        return {"input_spec": input_spec_to_dict(TensorSpec((8,)))}

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        return {name: (TargetSpec(), Regression) for name in ("small", "large")}

    def rows(self, split: Split) -> TensorRows:
        fixed = torch.Generator().manual_seed(self.seed)
        inner, outer = torch.randn(8, 8, generator=fixed), torch.randn(8, 2, generator=fixed)
        random = torch.Generator().manual_seed(100 * self.seed + ["train", "val", "test"].index(split))
        x = torch.randn({"train": 2000}.get(split, 500), 8, generator=random)
        y = (0.5 * x @ inner).tanh() @ outer + 0.1 * torch.randn(len(x), 2, generator=random)
        return TensorRows(x, {"small": y[:, 0], "large": 1000 * y[:, 1]})


def two_heads(data: TwoScales, balancer: Any = Balancer, optimizer: Any = Adam, **rates: float) -> MultiTaskModule:
    torch.manual_seed(data.seed)
    return MultiTaskModule(
        tasks=data.tasks,
        input_spec=data.input_spec,
        architecture=partial(SharedBottom, encoder=partial(MLP, hidden=[64, 64])),
        balancer=balancer,
        optimizers={name: partial(optimizer, lr=rate) for name, rate in {"default": 1e-3, **rates}.items()},
    )


@pytest.mark.parametrize("balancer", [Balancer, UncertaintyWeighting])
def test_two_heads_whose_targets_differ_in_scale_are_ordered(balancer: Any) -> None:
    data = TwoScales(batch_size=64)
    found = (
        RateFinder(updates=20, lowest=1e-4, highest=1e3, per_decade=1)
        .find(two_heads(data, balancer), data, {"accelerator": "cpu"})
        .suggested
    )
    assert 10 < found["large"] / found["small"] < 1e5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_its_rates_beat_the_best_common_rate_on_both_tasks(seed: int) -> None:
    """The best of eight common rates is that with the lowest mean of normalised validation losses."""
    data = TwoScales(batch_size=64, seed=seed)

    def trained(**rates: float) -> tuple[float, float, float]:
        module = two_heads(data, **rates)
        make_trainer(max_epochs=5, precision="32-true").fit(module, data)
        values = make_trainer(precision="32-true").validate(module, data, verbose=False)[0]
        return values["val/loss_normalised"], values["val/loss/small"], values["val/loss/large"]

    found = RateFinder().find(two_heads(data), data, {"accelerator": "cpu"}).suggested
    assert {"small", "large"} <= set(found)
    common = [trained(default=rate) for rate in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)]
    _, small, large = trained(**found)
    _, *best = min(common)
    assert small < best[0]
    assert large < best[1]


# --------------------------------------------------------------------------------------------------- the same start
def test_a_sweep_does_not_depend_on_those_before_it() -> None:
    """Weights, buffers, optimizer states, dropout's draws and batches are the same for each, bit for bit."""

    class Noisy(nn.Module):
        out_features = 5

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.3))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.layers(inputs)
            return features

    def sweeps(*groups: str) -> dict[str, Any]:
        torch.manual_seed(1)
        module = make_module(architecture=Noisy(), balancer=UncertaintyWeighting)
        finder = RateFinder([*groups], updates=6, lowest=1e-3, highest=10.0, hold="configured")
        return finder.find(module, TinyData(), CPU).sweeps

    together = sweeps("balancer", "shared", "kind", "number")
    assert together["number"] == sweeps("number")["number"]
    assert together["balancer"] == sweeps("balancer")["balancer"]


def test_a_rate_of_almost_0_changes_nothing() -> None:
    finder = RateFinder(["kind", "shared"], updates=12, lowest=1e-18, highest=1e-16)
    for sweep in finder.find(make_module(), TinyData(), CPU).sweeps.values():
        assert sweep.values == pytest.approx([sweep.reference] * len(sweep.values), rel=1e-12)
        assert sweep.suggestion.rate is None
        assert "does not fall" in sweep.suggestion.why


def test_a_value_is_the_loss_of_training_at_that_rate() -> None:
    data = make_batches(4)
    found = RateFinder(["kind"], updates=3, lowest=1e-4, highest=1.0).find(make_module(), loader_of(data), CPU)
    shares = torch.bincount(torch.cat([batch["targets"]["kind"] for batch in data])) / (4 * 8)
    trivial = -sum(share * math.log(share) for share in shares.tolist() if share)
    sweep = found.sweeps["kind"]
    for rate, value in [(0.0, sweep.reference), *zip(sweep.rates, sweep.values, strict=True)]:
        module = make_module(optimizers={"default": partial(Adam, lr=1e-3), "kind": partial(Adam, lr=rate)})
        make_trainer(max_steps=3).fit(module, loader_of(data))
        outputs = module(data[3]["inputs"])["kind"]
        loss = nn.functional.cross_entropy(outputs, data[3]["targets"]["kind"]).item()
        assert value == pytest.approx(loss / trivial, rel=1e-3)


# --------------------------------------------------------------------------------------------- nothing else changes
@pytest.mark.parametrize("kind", ["datamodule", "loader"])
def test_training_afterwards_is_as_if_it_had_not_been(kind: str) -> None:
    def trained(finds: bool) -> dict[str, torch.Tensor]:
        rows: Any = make_batches(12)
        data: Any = TinyData()
        if kind == "loader":
            generator = torch.Generator().manual_seed(1)
            data = torch.utils.data.DataLoader(rows, batch_size=None, shuffle=True, generator=generator)
        module = make_module()
        if finds:
            before = weights_of(module)
            state = torch.get_rng_state()
            SHORT.find(module, data, CPU)
            assert torch.equal(torch.get_rng_state(), state)
            assert_same(weights_of(module), before)
            assert module._trainer is None
        make_trainer(max_epochs=2).fit(module, data)
        return weights_of(module)

    assert_same(trained(True), trained(False))


def test_after_an_error_too_the_random_state_is_as_before() -> None:
    module = make_module()
    state = torch.get_rng_state()
    with pytest.raises(ConfigurationError, match=r"'numbr'\. Did you mean 'number'"):
        RateFinder(["numbr"]).find(module, TinyData(), CPU)
    assert torch.equal(torch.get_rng_state(), state)


# ------------------------------------------------------------------------------------------- whatever a fit may have
def test_accumulation_and_several_processes_make_the_updates_of_one_larger_batch() -> None:
    small, large = TinyData(batch_size=4, n=80), TinyData(batch_size=16, n=80)
    finder = RateFinder(["number"], updates=4, lowest=1e-3, highest=1.0)
    one = finder.find(make_module(), large, CPU).sweeps["number"]
    two = {**CPU, "accumulate_grad_batches": 2, "devices": 2, "strategy": "ddp"}
    other = finder.find(make_module(), small, two).sweeps["number"]
    assert other.values == pytest.approx(one.values, rel=1e-6)


@pytest.mark.parametrize("balancer", [Balancer, PCGrad, UncertaintyWeighting])
def test_a_dataset_per_task_gaps_and_schedulers(balancer: Any) -> None:
    whole = with_gaps(make_batches(6))
    items = [{"a": without(batch, "kind"), "b": without(batch, "number", "vector")} for batch in whole]
    module = make_module(
        balancer=balancer,
        optimizers={"default": partial(SGD, lr=0.01, momentum=0.9)},
        schedulers={"default": partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=1e-6)},
    )
    found = SHORT.find(module, loader_of(items), CPU)
    assert list(found.sweeps) == list(module.groups)
    assert all(sweep.configured == 0.01 for sweep in found.sweeps.values())
    assert found.sweeps["number"].suggestion.descent > 0.02  # at the scheduler's rate of 1e-8 nothing would move


def test_a_rate_in_a_tensor_is_that_of_one_group() -> None:
    plain, tensor = (
        RateFinder(["kind"], updates=4, lowest=1e-3, highest=10.0)
        .find(make_module(optimizers={"default": partial(Adam, lr=lr, fused=False)}), TinyData(), CPU)
        .sweeps["kind"]
        for lr in (1e-3, torch.tensor(1e-3, dtype=torch.float64))
    )
    assert tensor.values == pytest.approx(plain.values, rel=1e-6)


def test_frozen_groups_are_left_out_and_merged_ones_are_judged_by_their_tasks() -> None:
    module = make_module(groups={"both": ["task:number", "task:vector"]}, balancer=UncertaintyWeighting)
    for parameter in module.architecture.parameters():
        parameter.requires_grad = False
    sweeps = SHORT.find(module, TinyData(), CPU).sweeps
    judged = {name: sweep.judged_by for name, sweep in sweeps.items()}
    assert judged == {
        "kind": "the loss of kind",
        "both": "the loss of number, vector",
        "balancer": "the balancer's objective",
    }


def test_a_sweep_that_diverges_ends_there() -> None:
    module = make_module(optimizers={"default": partial(SGD, lr=1e-3)})
    sweep = RateFinder(["number"], updates=8, lowest=1e-2, highest=1e6).find(module, TinyData(), CPU).sweeps["number"]
    assert len(sweep.values) < len(sweep.rates)
    assert sweep.values[-1] == math.inf


def test_data_without_labels_is_refused() -> None:
    items = with_gaps(make_batches(3), share=1.1)
    with pytest.raises(ConfigurationError, match="expected an update's labels in an epoch"):
        SHORT.find(make_module(allow_unlabelled=["number", "vector", "kind"]), loader_of(items), CPU)


def test_options_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="`lowest` below `highest`"):
        RateFinder(lowest=1.0, highest=0.1)
    with pytest.raises(ConfigurationError, match="updates"):
        RateFinder(updates=2)


# ------------------------------------------------------------------------------------------------------ the results
@pytest.fixture(scope="module")
def found() -> FoundRates:
    optimizers = {"default": partial(SGD, lr=0.01, momentum=0.5), "kind": partial(Adam, lr=0.1, betas=(0.8, 0.9))}
    return RateFinder(["number", "kind"], updates=8, lowest=1e-4, highest=1e2).find(
        make_module(optimizers=optimizers), TinyData(), CPU
    )


def test_a_folder_is_never_written_over(found: FoundRates, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rates.yaml").write_text("mine")
    assert found.write(tmp_path / "out") == tmp_path / "out-v1"
    assert found.write(tmp_path / "out") == tmp_path / "out-v2"
    assert (tmp_path / "out" / "rates.yaml").read_text() == "mine"
    assert (tmp_path / "out-v1" / "rates.png").read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "out-v1" / "curves.csv").read_text().splitlines()
    assert lines[0] == "group,rate,loss,reference,gain"
    assert len(lines) == 1 + sum(len(sweep.values) for sweep in found.sweeps.values())


def test_an_optimizer_made_by_code_is_told() -> None:
    made = RateFinder(["number"], updates=8, lowest=1e-4, highest=1e2).find(
        make_module(optimizers={"default": lambda parameters: SGD(parameters, lr=0.01)}), TinyData(), CPU
    )
    assert set(made.suggested) == {"number"}
    assert "# number: its optimizer is made by code: set lr to" in made.fragment()
