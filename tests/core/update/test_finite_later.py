"""A gradient that is inf or nan, which the host sees one update later: as if it had looked at once, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from mtl_lightning import NonFiniteError
from mtl_lightning.core.network.fast_paths import VARIABLE
from mtl_lightning.core.optim.taking_back import can_take_back
from tests.core.saved import single
from tests.core.update.finite_cases import (
    BALANCERS,
    ON_TWO,
    OPTIMIZERS,
    WAYS,
    Saver,
    ended,
    looking,
    same,
    with_bad,
)
from tests.core.update.test_after_update import BRANCHING
from tests.helpers import fit, make_batches, make_module
from tests.programs import run

LATER = WAYS[1:]
each_way = pytest.mark.parametrize("way", LATER)
PAIRS = [("fused", balancer) for balancer in BALANCERS] + [(optimizer, "uncertainty") for optimizer in OPTIMIZERS]
BRIEF = [
    *(("fused", balancer) for balancer in ("uncertainty", "FAMO", "counting", "GradNorm", "IMTLG features", "PCGrad")),
    *((optimizer, "uncertainty") for optimizer in ("not fused", "SGD momentum", "user's")),
]
"""Pairs that meet each way of taking back, and each reason not to; the other ones are slow tests."""


def marked(pairs: list[tuple[str, str]]) -> list[Any]:
    return [pytest.param(*pair, marks=[] if pair in BRIEF else pytest.mark.slow) for pair in pairs]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the fast paths that this is about, in a suite without them, too."""
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.mark.parametrize("policy", ["skip", "raise"])
@pytest.mark.parametrize(("optimizer", "balancer"), marked(PAIRS))
def test_it_ends_as_if_one_had_looked_at_once(optimizer: str, balancer: str, policy: str) -> None:
    batches = with_bad(torch.nan, 4, 5, 8)
    expected = ended("at once", batches, optimizer, balancer, policy)
    assert expected["skipped"] == (3 if policy == "skip" else 0)
    assert expected["error"].startswith("Update 5: expected finite" if policy == "raise" else "")
    for way in LATER:
        assert same(ended(way, batches, optimizer, balancer, policy), expected), way


@pytest.mark.parametrize("policy", ["skip", "raise"])
@pytest.mark.parametrize(
    ("value", "places", "options"),
    [
        pytest.param(1e200, (4,), {}, id="the loss of one task"),
        pytest.param(torch.inf, (0, 1), {}, id="the first ones"),
        pytest.param(torch.nan, (11,), {}, id="the last one"),
        pytest.param(torch.nan, (3, 4), {"architecture": BRANCHING}, id="an architecture that counts"),
        pytest.param(1e200, (3, 8), {"gradient_clip": {"shared": 0.1}}, id="clipped"),
        pytest.param(1e200, (3, 8), {"groups": {"all": ["*"]}}, id="one group"),
        pytest.param(1e200, (3, 8), {"trainer": {"accumulate_grad_batches": 3}}, id="accumulated"),
        pytest.param(1e200, (3, 8), {"trainer": {"max_epochs": 2}, "balancer": "DWA"}, id="two epochs"),
        pytest.param(1e200, (4,), {"trainer": {"max_steps": 5}}, id="the last one of all"),
        pytest.param(1e30, (4,), {"trainer": {"precision": "32-true"}}, id="single"),
        pytest.param(1e200, (4,), {"trainer": {"gradient_clip_val": 0.5}}, id="clipped by the trainer"),
        pytest.param(
            torch.nan,
            (4,),
            {"trainer": {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"}},
            id="clipped by value",
        ),
    ],
)
def test_so_it_does_whatever_is_bad_and_when(
    value: float, places: tuple[int, ...], options: dict[str, Any], policy: str
) -> None:
    batches = with_bad(value, *places)
    if options.get("trainer", {}).get("precision"):
        batches = single(batches)
    expected = ended("at once", batches, policy=policy, **options)
    assert bool(expected["error"]) == (policy == "raise")
    for way in LATER:
        assert same(ended(way, batches, policy=policy, **options), expected), way


@each_way
@pytest.mark.parametrize("after", [4, 5])
def test_a_run_that_is_resumed_right_after_it_ends_the_same(after: int, way: str) -> None:
    batches, ends = with_bad(torch.nan, 4), []
    for each in ("at once", way):  # the loader, a plain one, begins anew
        saver = Saver(after, f"{each}.ckpt")
        ended(each, batches, balancer="FAMO", trainer={"callbacks": [saver], "max_steps": after + 1})
        saved = torch.load(f"{each}.ckpt", weights_only=True)["mtl_lightning"]["processes"][0]["updates"]
        assert saved["skipped"] == 1
        ends.append(ended(each, batches, balancer="FAMO", ckpt_path=f"{each}.ckpt"))
    assert same(*ends)


@each_way
def test_no_checkpoint_and_no_validation_comes_before_the_error(way: str) -> None:
    module = make_module()
    saver = Saver(4, "saved.ckpt")
    with looking(way), pytest.raises(NonFiniteError, match=r"^Update 5: "):
        fit(module, with_bad(torch.nan, 4), callbacks=[saver], log_every_n_steps=0)
    assert not Path("saved.ckpt").exists()
    validated: list[int] = []

    class Noting(Callback):
        def on_validation_batch_start(self, trainer: Any, *args: Any) -> None:
            validated.append(trainer.global_step)

    options: dict[str, Any] = {"val_check_interval": 1, "num_sanity_val_steps": 0, "log_every_n_steps": 0}
    with looking(way), pytest.raises(NonFiniteError, match=r"^Update 5: "):
        fit(make_module(), with_bad(torch.nan, 4), make_batches(1), callbacks=[Noting()], **options)
    assert validated == [1, 2, 3, 4]


@each_way
def test_the_error_comes_one_update_later(way: str) -> None:
    started: list[int] = []

    class Noting(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            started.append(batch_idx)

    with looking(way), pytest.raises(NonFiniteError):
        fit(make_module(), with_bad(torch.nan, 4), callbacks=[Noting()], log_every_n_steps=0)
    assert started == [0, 1, 2, 3, 4, 5]


def test_a_step_is_taken_back_only_where_it_can_be() -> None:
    expected = dict.fromkeys(OPTIMIZERS, True) | {"user's": False}
    for name, taken in expected.items():
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = OPTIMIZERS[name]([weight])
        weight.grad = torch.ones(3)
        assert can_take_back([optimizer], weight.device) == (name in ("SGD", "Adagrad"))  # others have no state yet
        optimizer.step()
        assert can_take_back([optimizer], weight.device) == taken
        assert not can_take_back([optimizer], torch.device("meta"))
        optimizer.register_step_post_hook(lambda *_: None)
        assert not can_take_back([optimizer], weight.device)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    folder = tmp_path_factory.mktemp("two")
    run("tests.core.update.finite_cases", str(folder), world=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize(("optimizer", "balancer", "policy", "accumulate"), ON_TWO)
def test_two_processes_agree(
    optimizer: str, balancer: str, policy: str, accumulate: int, two_processes: list[dict[Any, Any]]
) -> None:
    keys = {way: (optimizer, balancer, policy, accumulate, way) for way in WAYS}
    expected = two_processes[0][keys["at once"]]
    assert expected["skipped"] == (1 if policy == "skip" else 0)
    assert bool(expected["error"]) == (policy == "raise")
    for found in two_processes:
        for way, key in keys.items():
            assert same(found[key], expected), way
