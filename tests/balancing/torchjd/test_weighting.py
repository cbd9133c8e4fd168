"""torchjd's weightings as balancers: from their classes, instances and YAML, and what they weigh."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torchjd.aggregation as theirs
from torch import Tensor
from torchjd.aggregation import CRMOGMWeighting, UPGradWeighting, Weighting
from torchjd.linalg import Matrix, PSDMatrix

from mtl_lightning import MultiTaskModule
from mtl_lightning.balancing.build import build_balancer
from mtl_lightning.balancing.torchjd import TorchJD
from mtl_lightning.types import ConfigurationError
from tests.balancing.matrices import random_rows
from tests.balancing.test_build import parsed
from tests.helpers import assert_same, fit, make_batches, make_module, weights_of

ROWS = random_rows(3, 8).float()
PAIRS: dict[str, dict[str, Any]] = {
    "AlignedMTL": {}, "DualProj": {}, "IMTLG": {}, "Mean": {}, "MGDA": {}, "Sum": {}, "UPGrad": {},
    "Krum": {"n_byzantine": 0}, "Constant": {"weights": torch.tensor([1.0, 2.0, 3.0])},
}  # fmt: skip


def combined(argument: Any, rows: Tensor = ROWS) -> Tensor:
    balancer = build_balancer(argument, len(rows))
    assert isinstance(balancer, TorchJD)
    return balancer.gradient(rows, torch.ones(len(rows)), torch.ones(len(rows), dtype=torch.bool))


@pytest.mark.parametrize("name", PAIRS)
def test_a_weighting_gives_what_its_aggregator_gives(name: str) -> None:
    weighting, aggregator = (getattr(theirs, name + kind) for kind in ("Weighting", ""))
    expected = combined(aggregator(**PAIRS[name]))
    torch.testing.assert_close(combined(weighting(**PAIRS[name])), expected)
    torch.testing.assert_close(combined(partial(weighting, **PAIRS[name])), expected)
    if not PAIRS[name]:
        torch.testing.assert_close(combined(weighting), expected)


class OfProducts(Weighting[PSDMatrix]):
    """A user's own: the inverse lengths."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        assert gramian.shape == (3, 3)
        return gramian.diagonal().rsqrt()


class OfRows(Weighting[Matrix]):
    """Likewise, of the rows themselves."""

    def forward(self, matrix: Tensor, /) -> Tensor:
        lengths: Tensor = matrix.norm(dim=1)
        return 1 / lengths


class Later(OfRows):
    """A subclass of one's own."""


@pytest.mark.parametrize("cls", [OfProducts, OfRows, Later])
def test_weightings_of_ones_own(cls: Any) -> None:
    expected = (ROWS / ROWS.norm(dim=1, keepdim=True)).sum(0)
    torch.testing.assert_close(combined(cls), expected)


def test_smoothed_and_composed_ones() -> None:
    torch.testing.assert_close(combined(CRMOGMWeighting(UPGradWeighting(), alpha=0.0)), combined(theirs.UPGrad))
    torch.testing.assert_close(combined(UPGradWeighting() << (lambda rows: rows @ rows.T)), combined(theirs.UPGrad))


@pytest.mark.parametrize(
    ("cls", "ours"), [(theirs.MoDoWeighting, "MoDo"), (theirs.SDMGradWeighting, "SDMGrad")], ids=["MoDo", "SDMGrad"]
)
def test_those_of_independent_batches_are_refused(cls: Any, ours: str) -> None:
    with pytest.raises(ConfigurationError, match=f"independent batches. Use mtl_lightning.balancing.{ours}, which"):
        build_balancer(cls, 3)


def test_from_yaml_and_from_a_checkpoint(tmp_path: Any) -> None:
    chosen: Any = parsed("torchjd.aggregation.UPGradWeighting")
    torch.testing.assert_close(combined(chosen), combined(theirs.UPGrad))
    module, batches = make_module(balancer=chosen), make_batches(3)
    trainer = fit(module, batches)
    expected = make_module(balancer=theirs.UPGrad)
    fit(expected, batches)
    assert_same(weights_of(module), weights_of(expected), atol=1e-12)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = MultiTaskModule.load_from_checkpoint(tmp_path / "x.ckpt")
    balancer: Any = again.balancer
    assert type(balancer.aggregator.gramian_weighting) is UPGradWeighting
