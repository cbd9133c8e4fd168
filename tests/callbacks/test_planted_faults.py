"""A planted fault of each kind triggers exactly its warning, with the key to change; healthy runs trigger none."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
from torch.optim import SGD, Adam

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import CGC, MLP, DSelectK, MLPHead, MMoE
from mtl_lightning.balancing import PCGrad, UncertaintyWeighting
from tests.callbacks.faults import OneOutput, Related, watched

EXPERT = partial(MLP, hidden=[16])
MIXTURE = partial(MMoE, encoder=EXPERT, num_experts=4)


def stick(module: MultiTaskModule) -> None:
    module.get_parameter("architecture.gates.a.map.bias")[1] = 50.0


def stick_selectors(module: MultiTaskModule) -> None:
    module.get_parameter("architecture.selectors.a.code.bias").fill_(50.0)


def rates(default: Any, wrong: Any) -> dict[str, Any]:
    return {"optimizers": {"default": default, "b": wrong}}


SLOW = {"default": partial(Adam, lr=1e-3), "balancer": partial(Adam, lr=1e-5)}
QUICK = {"default": partial(Adam, lr=5e-3)}
HEADS = {"default": partial(MLPHead, hidden=[32])}
FAULTS: dict[str, tuple[Related, int, dict[str, Any], str, list[str], str]] = {
    "rate": (Related(), 8, rates(partial(Adam, lr=1e-3), partial(Adam, lr=0.1)), "UpdateRatio", ["b"], "optimizers.b"),
    "rate-sgd": (
        Related(),
        8,
        {"heads": HEADS, **rates(partial(SGD, lr=1e-2), partial(SGD, lr=1.0))},
        "DeadUnits|UpdateRatio",  # whichever sees it first: the other then leaves this group alone
        ["b"],
        "optimizers.b",
    ),
    "opposed": (Related(opposed=True), 16, {"architecture": OneOutput}, "Conflict", ["a", "b"], "model.architecture"),
    "scale": (Related(scale=1e4), 6, {}, "Conflict", ["a", "b"], r"data.init_args.tasks.a.*standardize"),
    "balancer": (
        Related(),
        10,
        {"balancer": UncertaintyWeighting, "optimizers": SLOW},
        "UnsettledSigma",
        ["balancer"],
        "optimizers.balancer",
    ),
    "gate": (
        Related(),
        11,
        {"architecture": MIXTURE, "plant": stick},
        "GateUse",
        ["a", "gate of a"],
        "optimizers.gates",
    ),
    "few-rows": (Related(n=50, noise=0.5), 70, {"optimizers": QUICK}, "Overfitting", ["a", "b"], "weight_decay"),
}
MORE_FAULTS: dict[str, tuple[Related, int, dict[str, Any], str, list[str], str]] = {
    "rate-of-mlp": (
        Related(),
        20,
        {"heads": HEADS, **rates(partial(Adam, lr=1e-3), partial(Adam, lr=0.1))},
        "UpdateRatio",
        ["b"],
        "optimizers.b",
    ),
    "scale-of-three": (
        Related(["number", "kind", "number"], scale=1e4),
        30,
        {},
        "Conflict",
        ["a", "b", "c"],
        "standardize",
    ),
    "opposed-under-pcgrad": (
        Related(opposed=True),
        20,
        {"architecture": OneOutput, "balancer": PCGrad},
        "Conflict",
        ["a", "b"],
        "share less",
    ),
    "balancer-of-kinds": (
        Related(["number", "kind"], scale=30),
        20,
        {"balancer": UncertaintyWeighting, "optimizers": SLOW},
        "UnsettledSigma",
        ["balancer"],
        "optimizers.balancer",
    ),
    "gate-of-cgc": (
        Related(),
        20,
        {"architecture": partial(CGC, encoder=EXPERT, num_own=2), "plant": stick},
        "GateUse",
        ["a", "gate of a"],
        "optimizers.gates",
    ),
    "selectors": (
        Related(),
        20,
        {"architecture": partial(DSelectK, encoder=EXPERT, num_experts=4), "plant": stick_selectors},
        "GateUse",
        ["a", "gate of a"],
        "optimizers.gates",
    ),
    "few-rows-in-batches": (Related(n=50, noise=0.5, batch_size=8), 200, {}, "Overfitting", ["a", "b"], "more rows"),
}


def check(
    data: Related, epochs: int, options: dict[str, Any], callback: str, about: list[str], key: str
) -> dict[str, float]:
    found, texts, trainer = watched(data, epochs, **options)
    assert found in [{name: about} for name in callback.split("|")]
    assert all(re.search(key, text) for text in texts), texts
    assert all(text.count("\n") == 0 and len(text) < 600 for text in texts)
    return {tag: float(value) for tag, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_triggers_exactly_its_warning(name: str) -> None:
    check(*FAULTS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAULTS, *MORE_FAULTS])
@pytest.mark.parametrize("seed", range(3))
def test_so_do_more_of_them_whatever_the_seed(name: str, seed: int) -> None:
    data, epochs, options, *expected = {**FAULTS, **MORE_FAULTS}[name]
    check(data, epochs, {**options, "seed": seed}, *expected)  # type: ignore[arg-type]  # a tuple of two types


HEALTHY: dict[str, tuple[Related, dict[str, Any]]] = {
    "plain": (Related(), {}),
    "uncertainty": (Related(["number", "kind", "number"]), {"balancer": UncertaintyWeighting}),
    "experts": (Related(["kind", "number"]), {"architecture": MIXTURE}),
    "pcgrad": (Related(["kind", "number"], noise=1.0), {"balancer": PCGrad, "heads": HEADS}),
    "fast": (Related(), {"optimizers": {"default": partial(Adam, lr=1e-2)}, "heads": HEADS}),
    "sgd": (Related(), {"optimizers": {"default": partial(SGD, lr=0.02, momentum=0.9)}}),
    "noise": (Related(noise=3.0), {"balancer": UncertaintyWeighting, "gradient_clip": {"shared": 1.0}}),
}


@pytest.mark.parametrize("name", ["experts"])
def test_a_healthy_run_triggers_none(name: str) -> None:
    data, options = HEALTHY[name]
    assert watched(data, 12, **options)[:2] == ({}, [])


@pytest.mark.slow
@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("seed", range(3))
def test_longer_healthy_runs_trigger_none(name: str, seed: int) -> None:
    data, options = HEALTHY[name]
    assert watched(data, 60, seed=seed, **options)[:2] == ({}, [])
