"""How gates use experts, against weights by hand, and which use is called a fault."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.optim import SGD

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import CGC, MLP, PLE, DSelectK, MMoE, OMoE, Product
from mtl_lightning.architectures.base import Architecture
from mtl_lightning.callbacks import GateUse
from mtl_lightning.types import TensorSpec
from tests.callbacks.events import said
from tests.helpers import INPUTS, fit, make_batches, make_module, without

EXPERT = partial(MLP, hidden=[5])
MIXTURE = partial(MMoE, encoder=EXPERT, num_experts=3)
STILL = {"default": partial(SGD, lr=0.0)}
TASKS = ["number", "vector", "kind"]


def biased(architecture: Any = MIXTURE, **biases: list[float]) -> MultiTaskModule:
    """A module whose gates give weights that do not follow the inputs: the softmax of these logits, else all alike."""
    module = make_module(architecture=architecture, optimizers=STILL)
    with torch.no_grad():
        for task in TASKS:
            gate = module.get_submodule(f"architecture.gates.{task}.map")
            assert isinstance(gate, nn.Linear)
            gate.weight.zero_()
            gate.bias.copy_(torch.tensor(biases.get(task, [0.0] * len(gate.bias))))
    return module


def values(trainer: Trainer, kind: str) -> dict[str, float]:
    start = f"watch/{kind}/"
    return {t.removeprefix(start): float(v) for t, v in trainer.callback_metrics.items() if t.startswith(start)}


def texts_of(module: MultiTaskModule, callback: GateUse, updates: int = 6) -> list[str]:
    with said() as texts:
        fit(module, make_batches(updates), callbacks=[callback])
    return texts


@pytest.mark.parametrize(
    "architecture",
    [
        MIXTURE,
        partial(OMoE, encoder=EXPERT, num_experts=4),
        partial(CGC, encoder=EXPERT, num_own=2),
        partial(PLE, encoder=partial(MLP, hidden=[5, 4]), num_own=2),
        partial(DSelectK, encoder=EXPERT, num_experts=5),
        partial(Product, architecture=MIXTURE),
    ],
    ids=["MMoE", "OMoE", "CGC", "PLE", "DSelectK", "Product"],
)
def test_what_an_architecture_tells_of_its_gates_is_what_they_give(architecture: Any) -> None:
    """A weight for each named expert, of each row; every task is served by some gate."""
    network: Architecture = architecture(TensorSpec((INPUTS,)), ["a", "b"])
    gates, seen = network.gating(), {}
    for name, gate in gates.items():
        gate.module.register_forward_hook(lambda _m, _i, output, name=name: seen.update({name: output}))
    network(torch.randn(7, INPUTS), ["a", "b"])
    for name, gate in gates.items():
        weights = seen[name][0] if isinstance(seen[name], tuple) else seen[name]
        assert weights.shape == (7, len(gate.experts))
        assert len({*gate.experts}) == len(gate.experts)
        if not gate.selects:  # whose codes may be no expert's
            torch.testing.assert_close(weights.sum(1), torch.ones(7))
    assert {task for gate in gates.values() for task in gate.tasks} == {"a", "b"}


def test_use_by_hand() -> None:
    """Softmax of log 6, log 3, log 1 is 0.6, 0.3, 0.1; the others' gates give each a third."""
    module = biased(number=[math.log(6), math.log(3), 0.0])
    trainer = fit(module, make_batches(2), callbacks=[GateUse(2)], accumulate_grad_batches=2)
    entropy = -sum(p * math.log(p) for p in (0.6, 0.3, 0.1))
    expected = {"number": math.exp(entropy), "vector": 3.0, "kind": 3.0}
    assert values(trainer, "experts_used") == pytest.approx(expected, rel=1e-6)
    uses = {"expert 0": 1.8, "expert 1": 1.0, "expert 2": 1.0}
    assert values(trainer, "expert_use") == pytest.approx(uses, rel=1e-6)


def test_gates_that_have_not_run_have_no_value() -> None:
    module = make_module(architecture=MIXTURE, allow_unlabelled=["vector"])
    trainer = fit(module, [without(batch, "vector") for batch in make_batches(2)], callbacks=[GateUse(2)])
    assert {*values(trainer, "experts_used")} == {"number", "kind"}


def test_a_gate_that_is_stuck_from_the_start_is_named_once() -> None:
    (text,) = texts_of(biased(vector=[0.0, 50.0, 0.0]), GateUse(2, samples=3))
    assert text.startswith("The gate of vector is stuck: in all 3 samples since the start it has given expert 1 100 %")
    assert "`optimizers.gates`" in text
    assert texts_of(biased(vector=[0.0, 50.0, 0.0]), GateUse(2, samples=5)) == []


def test_a_gate_that_has_come_to_one_expert_is_none_to_warn_of() -> None:
    callback = GateUse(1, samples=2)
    module = biased()
    with said() as texts:
        fit(module, make_batches(1), callbacks=[callback])
    assert callback.seen["open"] == sorted(TASKS)
    module.load_state_dict(biased(number=[0.0, 50.0, 0.0]).state_dict())
    state = callback.state_dict()
    again = GateUse(1, samples=2)
    again.setup = lambda *_, **__: again.load_state_dict(state)  # type: ignore[method-assign]  # as after a resume
    with said() as later:
        fit(module, make_batches(4), callbacks=[again])
    assert texts == later == []


def test_experts_that_no_gate_uses_are_named_together() -> None:
    away = [0.0, -4.3, -4.3]  # 0.973 and twice 0.0132, which is 0.04 of a third
    (text,) = texts_of(biased(number=away, vector=away, kind=[0.0, -4.3, -3.9]), GateUse(2, 3))
    assert text.startswith("Experts that no gate uses: expert 1. In 3 samples in a row")
    assert texts_of(biased(number=away, vector=away, kind=[0.0, -2.0, -2.0]), GateUse(2, 3)) == []


def test_selectors_may_leave_experts_out_once_they_have_tried_them() -> None:
    """All of the six selectors are at expert 0 from the start, or only later."""
    architecture = partial(DSelectK, encoder=EXPERT, num_experts=4)
    module = make_module(architecture=architecture, optimizers=STILL)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".code." in name:
                parameter.fill_(-50.0 if "bias" in name else 0.0)
    texts = texts_of(module, GateUse(2, samples=3))
    assert [text[:12] for text in texts] == ["The gate of "] * 3
    callback = GateUse(2, samples=3)
    callback.fresh = {**GateUse.fresh, "open": TASKS, "alive": [f"expert {i}" for i in range(4)]}  # type: ignore[misc]
    assert texts_of(module, callback, updates=40) == []
