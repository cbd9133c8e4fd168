from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, Product, SharedBottom
from mtl_lightning.data import SyntheticFunnel
from tests.helpers import fit


def drawn(data: SyntheticFunnel, split: Any = "train") -> tuple[Tensor, dict[str, Tensor]]:
    rows = data.rows(split)
    batch = rows.__getitems__(range(len(rows)))
    return batch["inputs"], batch["targets"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_conversions_are_seen_where_somebody_clicked(split: Any) -> None:
    _, targets = drawn(SyntheticFunnel(), split)
    clicked = targets["click"] == 1
    assert 0.05 < clicked.double().mean() < 0.3
    assert torch.equal(targets["conversion"] != -100, clicked)
    assert torch.equal(targets["click_and_conversion"][clicked], targets["conversion"][clicked])
    assert not targets["click_and_conversion"][~clicked].any()
    assert 0 < targets["click_and_conversion"].sum() < clicked.sum()


def test_the_test_split_knows_what_everybody_would_have_done() -> None:
    x, targets = drawn(SyntheticFunnel(n_test=20_000), "test")
    click, conversion = SyntheticFunnel().rates(x)
    assert (targets["conversion"] != -100).all()
    assert torch.equal(targets["click_and_conversion"], targets["click"] * targets["conversion"])
    assert targets["click"].double().mean().item() == pytest.approx(click.mean().item(), abs=0.01)
    assert targets["conversion"].double().mean().item() == pytest.approx(conversion.mean().item(), abs=0.01)
    assert targets["click_and_conversion"].double().mean().item() == pytest.approx(
        (click * conversion).mean().item(), abs=0.01
    )


@pytest.mark.parametrize(("cosine", "sign"), [(0.8, 1), (-0.8, -1)])
def test_those_who_click_are_no_fair_sample(cosine: float, sign: int) -> None:
    data = SyntheticFunnel(cosine=cosine)
    click, conversion = data.rates(drawn(data)[0])
    among_clicks = (click * conversion).sum() / click.sum()
    assert sign * (among_clicks - conversion.mean()) > 0.05


def test_training_labels_of_conversions_are_a_choice() -> None:
    data = SyntheticFunnel(conversion_labels=False)
    assert (drawn(data)[1]["conversion"] == -100).all()
    assert torch.equal(drawn(data)[1]["click"], drawn(SyntheticFunnel())[1]["click"])
    assert torch.equal(drawn(data, "val")[1]["conversion"], drawn(SyntheticFunnel(), "val")[1]["conversion"])


# ------------------------------------------------------------------------------------------ what the entire space gives
NETWORK = partial(SharedBottom, encoder=partial(MLP, hidden=[32]))
ESMM = partial(Product, architecture=NETWORK, products={"click_and_conversion": ["click", "conversion"]})


def error(architecture: Any, **data_options: Any) -> float:
    """The mean error of the conversion rate over all rows, clicked or not; mean of two seeds."""
    errors = []
    for seed in (0, 1):
        data = SyntheticFunnel(n=8000, seed=seed, **data_options)
        torch.manual_seed(seed)
        module = MultiTaskModule(
            tasks=data.tasks,
            input_spec=data.input_spec,
            architecture=architecture,
            allow_unlabelled=["conversion"],
            optimizers={"default": partial(torch.optim.Adam, lr=5e-3)},
        )
        fit(module, data, max_epochs=8, precision="32-true", limit_val_batches=0)
        x, _ = drawn(data, "test")
        with torch.no_grad():
            found = module.eval()(x)["conversion"][:, 0].sigmoid()
        errors.append(float((found - data.rates(x)[1]).abs().mean()))
    return sum(errors) / len(errors)


def test_the_entire_space_model_knows_the_conversion_rate_better_than_one_of_clicked_rows() -> None:
    naive = error(NETWORK, tasks={"click": None, "click_and_conversion": None})
    assert error(ESMM, conversion_labels=False) < 0.85 * naive
