"""What is left of the features for a gradient balancer on one process."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torchjd.aggregation import UPGrad

from mtl_lightning.types import ConfigurationError
from tests.conformance.features_on_two import CASES, REGROUPED, evaluate, resume, train
from tests.conformance.plain import Plain, read_log
from tests.helpers import assert_same, fit, loader_of, make_batches, make_module, make_trainer, weights_of

KIND = "ddp-UPGrad"  # on one process it is the balancer alone


def test_gradients_are_clipped_per_group() -> None:
    clip = {"shared": 0.05, "kind": 0.2}
    moved = []
    choices: list[dict[str, Any]] = [{}, {"gradient_clip": clip}]
    for options in choices:
        module = make_module(balancer=UPGrad(), optimizers={"default": partial(SGD, lr=1.0)}, **options)
        start = weights_of(module)
        fit(module, make_batches(1))
        groups = {name: list(named) for name, named in module.groups.items()}
        moved.append({name: weight - start[name] for name, weight in weights_of(module).items()})
    for group, names in groups.items():
        norm = torch.stack([moved[0][name].norm() for name in names]).norm()
        factor = min(1.0, clip.get(group, float("inf")) / float(norm))
        assert (factor < 1) == (group in clip)
        for name in names:
            torch.testing.assert_close(moved[1][name], factor * moved[0][name], rtol=1e-4, atol=0.0)


def test_several_loggers_get_the_same() -> None:
    train(CASES["several loggers"], KIND, "several")
    first, second = (read_log(f"several/{name}") for name in "ab")
    assert first == second
    assert {"train/loss", "val/loss"} <= set(first)


def test_a_group_that_is_partly_backbone() -> None:
    with pytest.raises(ConfigurationError, match=r"expected groups that are part of it or not, found \['all'\]"):
        train(CASES["backbone finetuning of a part"], KIND, "part")


def test_evaluation() -> None:
    found, data = evaluate(KIND), loader_of(make_batches(2, seed=4))
    module = Plain(("number", "vector", "kind"), None)
    for stage in ("validate", "test"):
        trainer = make_trainer()
        getattr(trainer, stage)(module, data, verbose=False)
        name = f"{'val' if stage == 'validate' else 'test'}/loss"
        assert found[stage][0][name] == pytest.approx(float(trainer.callback_metrics[name]), abs=1e-6)
    for mine, theirs in zip(found["predict"], make_trainer().predict(module, data) or [], strict=True):
        assert isinstance(theirs, dict)
        torch.testing.assert_close(mine["number"], theirs["number"][:, 0])
        torch.testing.assert_close(mine["kind"]["probability"], theirs["kind"].softmax(1))


@pytest.mark.parametrize("batch", [10, 11], ids=["middle of an epoch", "middle of a window"])
def test_resume(batch: int) -> None:
    """Bit for bit; 8 batches in an epoch, in windows of 2."""
    found = resume(KIND, "alone", batch)
    assert Path("alone.ckpt").is_file()
    assert found["resumed"]["global_step"] == found["whole"]["global_step"] == 12
    assert_same(found["resumed"]["weights"], found["whole"]["weights"])


def test_other_groups_than_the_checkpoints() -> None:
    with pytest.raises(ConfigurationError, match="The optimizer groups changed between save and load"):
        resume(KIND, "alone", 2, **REGROUPED)
