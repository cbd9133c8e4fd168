"""A last batch of one row: what cannot train on it says so and names ``drop_last``, which helps."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from torch import nn

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import SharedBottom
from mtl_lightning.balancing import Balancer, MoDo
from mtl_lightning.data import SyntheticRegression
from mtl_lightning.types import BatchError
from tests.helpers import make_trainer


class Normalised(nn.Sequential):
    """Features with batch normalisation."""

    out_features = 5

    def __init__(self) -> None:
        super().__init__(nn.LazyLinear(5), nn.BatchNorm1d(5), nn.ReLU())


NEEDS_TWO = {
    "MoDo": ({"balancer": MoDo}, r"splits each batch into 3 parts: .* found 1\. .* `drop_last: true`"),
    "BatchNorm1d": (
        {"architecture": partial(SharedBottom, encoder=Normalised)},
        r"batch normalisation in SharedBottom: expected at least 2 rows .* found 1: .* `drop_last: true`",
    ),
}


@pytest.mark.parametrize(("options", "message"), NEEDS_TWO.values(), ids=NEEDS_TWO)
@pytest.mark.parametrize("drop_last", [False, True])
def test_one_row_is_left(options: dict[str, Any], message: str, drop_last: bool) -> None:
    data = SyntheticRegression(n=101, batch_size=20, drop_last=drop_last)
    defaults: dict[str, Any] = {"architecture": SharedBottom, "balancer": Balancer}
    module = MultiTaskModule(data.tasks, input_spec=data.input_spec, **{**defaults, **options})
    trainer = make_trainer(precision="32-true", limit_val_batches=0)
    if drop_last:
        trainer.fit(module, data)
        assert trainer.global_step == 5
    else:
        with pytest.raises(BatchError, match=message):
            trainer.fit(module, data)
