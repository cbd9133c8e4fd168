"""What an update is made of, against bare PyTorch: missing labels, weights, micro-batches, one dataset per task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, IterableDataset

from mtl_lightning.architectures import SharedBottom
from mtl_lightning.balancing import Balancer, UncertaintyWeighting
from mtl_lightning.types import Batch, ConfigurationError, Features
from tests.core.by_hand import HandLoop, Make
from tests.helpers import (
    NETWORK,
    assert_same,
    fit,
    loader_of,
    make_batches,
    make_module,
    weights_of,
    with_gaps,
    without,
)

TOLERANCE = 1e-10
EVERYTHING = ("",)
SLOW_AND_FAST: dict[str, Any] = {"default": partial(Adam, lr=0.01), "shared": partial(SGD, lr=0.05, momentum=0.9)}
BY_HAND: dict[tuple[str, ...], Make] = {
    ("architecture.",): partial(SGD, lr=0.05, momentum=0.9),
    **{(f"heads.{name}.",): partial(Adam, lr=0.01) for name in ("number", "vector", "kind")},
    ("balancer.",): partial(Adam, lr=0.01),
}


def weighted(batches: Sequence[Batch], per_task: bool) -> list[Batch]:
    """Give every row a weight in 0..2, some of them 0; or only the rows of ``number`` and ``kind``, each its own."""
    random = torch.Generator().manual_seed(5)

    def draw(batch: Batch) -> Tensor:
        return (torch.rand(len(batch["inputs"]), generator=random, dtype=torch.float64) * 2.5 - 0.5).clamp(min=0)

    if not per_task:
        return [{**batch, "weights": draw(batch)} for batch in batches]
    full = [torch.ones(len(batch["inputs"]), dtype=torch.float64) for batch in batches]
    return [
        {**batch, "weights": {"number": draw(batch), "kind": draw(batch), "vector": ones}}
        for batch, ones in zip(batches, full, strict=True)
    ]


GAPS = with_gaps(make_batches(10))
CASES = {
    "complete": make_batches(10),
    "nan and -100": GAPS,
    "tasks left out": [without(b, *["number", "vector", "kind"][: i % 3]) for i, b in enumerate(make_batches(10))],
    "weights for all tasks": weighted(GAPS, per_task=False),
    "weights by task": weighted(GAPS, per_task=True),
}


def cut(batches: Sequence[Batch], size: int) -> list[list[Batch]]:
    return [list(batches[start : start + size]) for start in range(0, len(batches), size)]


@pytest.mark.parametrize("accumulate", [1, 3], ids=["one batch", "three batches"])  # windows of 3, 3, 3 and 1
@pytest.mark.parametrize("case", CASES)
def test_labels_are_averaged_over_the_whole_window(case: str, accumulate: int) -> None:
    module = make_module(balancer=UncertaintyWeighting, optimizers=SLOW_AND_FAST)
    trainer = fit(module, CASES[case], max_epochs=5, accumulate_grad_batches=accumulate)
    windows = cut(CASES[case], accumulate)
    assert trainer.global_step == 5 * len(windows)
    by_hand = HandLoop(make_module(balancer=UncertaintyWeighting), BY_HAND, uncertainty=True).train(5, windows)
    assert_same(weights_of(module), weights_of(by_hand.net), atol=TOLERANCE)


class Stream(IterableDataset[Any]):
    """Batches that cannot be counted beforehand."""

    def __iter__(self) -> Iterator[Any]:
        return iter(GAPS)


def test_the_last_window_of_a_loader_without_a_length() -> None:
    module = make_module(optimizers=SLOW_AND_FAST)
    trainer = fit(module, DataLoader(Stream(), batch_size=None), max_epochs=5, accumulate_grad_batches=3)
    assert trainer.global_step == 20
    by_hand = HandLoop(make_module(), BY_HAND).train(5, cut(GAPS, 3))
    assert_same(weights_of(module), weights_of(by_hand.net), atol=TOLERANCE)


class Product(Balancer):
    """Sum of the logarithms of the losses: not affine, so that micro-batches do not simply add up."""

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        return torch.where(present, losses.clamp(min=1e-12).log(), 0.0).sum()


class ProductByHand(HandLoop):
    def objective(self, means: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([mean.log() for mean in means.values()]).sum()


@pytest.mark.parametrize("accumulate", [1, 3], ids=["one batch", "three batches"])
def test_an_objective_that_is_not_affine_sees_the_losses_of_the_whole_window(accumulate: int) -> None:
    module = make_module(balancer=Product, optimizers={"default": partial(SGD, lr=0.01)})
    assert not module.balancer.affine
    fit(module, GAPS, max_epochs=5, accumulate_grad_batches=accumulate)
    by_hand = ProductByHand(make_module(), {EVERYTHING: partial(SGD, lr=0.01)}).train(5, cut(GAPS, accumulate))
    assert_same(weights_of(module), weights_of(by_hand.net), atol=TOLERANCE)


class Penalised(SharedBottom):
    """A shared bottom with an auxiliary loss, the mean square of its features."""

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        features = self.encoder(inputs)
        return Features(dict.fromkeys(tasks, features), aux={"size": 0.3 * features.square().mean()})


class PenalisedByHand(HandLoop):
    def update(self, window: Sequence[Batch]) -> None:
        self.window = window
        super().update(window)

    def objective(self, means: Mapping[str, Tensor]) -> Tensor:
        penalties = [0.3 * self.network(batch["inputs"]).square().mean() for batch in self.window]
        return super().objective(means) + torch.stack(penalties).mean()


@pytest.mark.parametrize("balancer", [Balancer, Product], ids=["affine", "not affine"])
def test_auxiliary_losses_are_added_to_the_objective(balancer: type[Balancer]) -> None:
    architecture = partial(Penalised, **NETWORK.keywords)
    sgd = partial(SGD, lr=0.02)
    module = make_module(architecture=architecture, balancer=balancer, optimizers={"default": sgd})
    fit(module, GAPS, max_epochs=5, accumulate_grad_batches=3)
    bases = (PenalisedByHand,) if balancer is Balancer else (PenalisedByHand, ProductByHand)
    by_hand = type("ByHand", bases, {})(make_module(architecture=architecture), {EVERYTHING: sgd})
    assert_same(weights_of(module), weights_of(by_hand.train(5, cut(GAPS, 3)).net), atol=TOLERANCE)


# ------------------------------------------------------------------------------------------------------------- clipping
@pytest.mark.parametrize(("accumulate", "choice"), [(1, "raise"), (3, "raise"), (1, "ignore")])
def test_gradients_are_clipped_per_group(accumulate: int, choice: str) -> None:
    options = {"shared": 0.05, "kind": 0.2}
    module = make_module(gradient_clip=options, optimizers=SLOW_AND_FAST, on_nonfinite=choice)
    fit(module, GAPS, max_epochs=5, accumulate_grad_batches=accumulate)
    clip = {"architecture.": 0.05, "heads.kind.": 0.2}
    by_hand = HandLoop(make_module(), BY_HAND, clip=clip).train(5, cut(GAPS, accumulate))
    assert_same(weights_of(module), weights_of(by_hand.net), atol=TOLERANCE)


@pytest.mark.parametrize("accumulate", [1, 3], ids=["one batch", "three batches"])
def test_the_trainers_clipping_is_of_the_whole_gradient(accumulate: int) -> None:
    module = make_module(optimizers=SLOW_AND_FAST)
    trainer = fit(module, GAPS, max_epochs=5, accumulate_grad_batches=accumulate, gradient_clip_val=0.1)
    assert (trainer.gradient_clip_val, trainer.accumulate_grad_batches) == (0.1, accumulate)  # given back
    by_hand = HandLoop(make_module(), BY_HAND, clip_all=0.1).train(5, cut(GAPS, accumulate))
    assert_same(weights_of(module), weights_of(by_hand.net), atol=TOLERANCE)


def test_the_trainers_clipping_by_value() -> None:
    class ByValue(HandLoop):
        def step(self) -> None:
            for parameter in self.net.parameters():
                if parameter.grad is not None:
                    parameter.grad.clamp_(-0.01, 0.01)
            super().step()

    module = make_module(optimizers=SLOW_AND_FAST)
    fit(module, GAPS, max_epochs=5, gradient_clip_val=0.01, gradient_clip_algorithm="value")
    by_hand = ByValue(make_module(), BY_HAND).train(5, cut(GAPS, 1))
    assert_same(weights_of(module), weights_of(by_hand.net), atol=TOLERANCE)


# ------------------------------------------------------------------------------------------------- one dataset per task
NUMBERS = make_batches(5, rows=6, seed=1, tasks=["number"])
KINDS = make_batches(3, rows=9, seed=2, tasks=["kind", "vector"])


@pytest.mark.parametrize("accumulate", [1, 2], ids=["one item", "two items"])
@pytest.mark.parametrize("mode", ["max_size", "min_size", "max_size_cycle"])
def test_a_dict_of_batches_is_one_window(mode: Any, accumulate: int) -> None:
    module = make_module(balancer=UncertaintyWeighting, optimizers=SLOW_AND_FAST)
    loaders = CombinedLoader({"numbers": loader_of(NUMBERS), "kinds": loader_of(KINDS)}, mode)
    fit(module, loaders, max_epochs=4, accumulate_grad_batches=accumulate)
    items: list[list[Batch]] = [[number, kind] for number, kind in zip(NUMBERS, KINDS, strict=False)]
    if mode == "max_size":  # the shorter one is over: None
        items += [[number] for number in NUMBERS[3:]]
    elif mode == "max_size_cycle":
        items += [[number, kind] for number, kind in zip(NUMBERS[3:], KINDS, strict=False)]
    starts = range(0, len(items), accumulate)
    windows = [[batch for item in items[start : start + accumulate] for batch in item] for start in starts]
    by_hand = HandLoop(make_module(balancer=UncertaintyWeighting), BY_HAND, uncertainty=True).train(4, windows)
    assert_same(weights_of(module), weights_of(by_hand.net), atol=TOLERANCE)


def test_a_plain_dict_of_loaders_repeats_the_shorter_one() -> None:
    module = make_module(optimizers=SLOW_AND_FAST)
    fit(module, {"numbers": loader_of(NUMBERS), "kinds": loader_of(KINDS)}, max_epochs=3)
    by_hand = HandLoop(make_module(), BY_HAND)
    by_hand.train(3, [[number, KINDS[index % 3]] for index, number in enumerate(NUMBERS)])
    assert_same(weights_of(module), weights_of(by_hand.net), atol=TOLERANCE)


@pytest.mark.parametrize("value", [None, 0, -1.0])
def test_no_positive_norm_is_no_clipping(value: float | None) -> None:
    clipped, free = (make_module(gradient_clip=clip) for clip in ({"shared": value}, None))
    for module in (clipped, free):
        fit(module, make_batches(2))
    assert_same(weights_of(clipped), weights_of(free))


def test_a_norm_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"`gradient_clip\.shared`: expected a finite number, found nan"):
        make_module(gradient_clip={"shared": float("nan")})
    with pytest.raises(ConfigurationError, match=r"`gradient_clip`: .*Did you mean 'shared'\?"):
        make_module(gradient_clip={"sharde": 0.0})
