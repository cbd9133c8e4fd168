"""What each process goes on with, and what is decided when their number has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from mtl_lightning import MultiTaskModule
from mtl_lightning.types import ConfigurationError
from tests.core.test_resume import EPOCHS, Interrupted, assert_same_end, build, run
from tests.helpers import fit, loader_of, make_batches, make_module

PATH = Path("saved/inside.ckpt")


def interrupted(batch: int) -> tuple[MultiTaskModule, Trainer]:
    """Train to the end; on the way, after a batch of a window of three, write a checkpoint."""
    module, data = build()
    return module, fit(module, data, callbacks=[Interrupted(batch)], accumulate_grad_batches=3, max_epochs=EPOCHS)


def rewrite(change: Callable[[dict[str, Any]], Any]) -> None:
    checkpoint = torch.load(PATH, weights_only=True)
    change(checkpoint["mtl_lightning"])
    torch.save(checkpoint, PATH)


def test_a_process_takes_up_its_own_state() -> None:
    whole = interrupted(10)
    (state,) = torch.load(PATH, weights_only=True)["mtl_lightning"]["processes"]
    assert len(state["accumulation"]["window"]) == 2
    assert state["labels"]["labelled"] == ["kind", "number", "vector"]
    assert_same_end(run(PATH, accumulate_grad_batches=3), whole)


def test_a_window_of_two_processes_is_not_continued_by_one() -> None:
    interrupted(10)
    rewrite(lambda part: part.update(processes=part["processes"] * 2))
    with pytest.raises(ConfigurationError, match=r"by 2 processes.*expected as many, found 1. Resume with 2"):
        run(PATH, accumulate_grad_batches=3)


def test_another_number_of_processes_goes_on_with_other_random_numbers() -> None:
    whole = interrupted(11)  # the end of a window
    rewrite(lambda part: part.update(processes=part["processes"] * 2))
    with pytest.warns(UserWarning, match="random states of 2 processes, found 1"):
        found = run(PATH, accumulate_grad_batches=3)
    assert found[1].global_step == whole[1].global_step
    with pytest.raises(AssertionError):
        assert_same_end(found, whole)


class Opaque:
    """Inputs that are no plain data, which the network reads as a tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def to(self, *args: Any, **kwargs: Any) -> Opaque:
        return Opaque(self.tensor.to(*args, **kwargs))


def test_a_window_that_is_no_plain_data_is_left_out_with_a_warning() -> None:
    class Reader(torch.nn.Module):
        """Reads opaque inputs."""

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.out_features = torch.nn.Linear(4, 6), 6

        def forward(self, inputs: Opaque) -> torch.Tensor:
            return torch.tanh(self.layer(inputs.tensor))

    batches: list[Any] = [{**batch, "inputs": Opaque(batch["inputs"])} for batch in make_batches(4)]
    module = make_module(architecture=Reader(), input_spec=None)
    options: dict[str, Any] = {"callbacks": [Interrupted(2)], "accumulate_grad_batches": 3}
    with pytest.warns(UserWarning, match="more than tensors and plain data"):
        fit(module, loader_of(batches), **options)
    assert torch.load(PATH, weights_only=True)["mtl_lightning"]["processes"][0]["accumulation"]["window"] == []
