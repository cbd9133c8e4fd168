"""State whose width comes with the rows."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor

from mtl_lightning.balancing.gradients.moco import MoCo
from mtl_lightning.balancing.rows import PerParameter
from mtl_lightning.types import MtlLightningWarning
from tests.balancing.matrices import random_rows, saved_and_loaded, update


def test_is_empty_until_rows_have_been_seen() -> None:
    balancer = MoCo(3)
    assert balancer.tracked.shape == (3, 0)
    update(balancer, random_rows(3, width=5))
    assert balancer.tracked.shape == (3, 5)
    assert balancer.tracked.dtype == torch.float64


def test_half_precision_rows_have_float32_state() -> None:
    balancer = MoCo(2)
    found = update(balancer, random_rows(2).bfloat16())
    assert found.dtype == torch.bfloat16
    assert balancer.tracked.dtype == torch.float32
    assert balancer.to(torch.bfloat16).tracked.dtype == torch.float32


def test_a_checkpoint_brings_its_width_and_its_precision() -> None:
    balancer = MoCo(3)
    update(balancer, random_rows(3))
    fresh = saved_and_loaded(balancer, MoCo(3))
    assert isinstance(fresh, MoCo)
    assert torch.equal(fresh.tracked, balancer.tracked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        update(fresh, random_rows(3))


def test_a_checkpoint_from_before_the_first_update_empties_the_state() -> None:
    balancer = MoCo(3)
    update(balancer, random_rows(3))
    assert isinstance(loaded := saved_and_loaded(MoCo(3), balancer), MoCo)
    assert loaded.tracked.shape == (3, 0)


def test_a_checkpoint_of_other_tasks_is_refused() -> None:
    balancer = MoCo(2)
    update(balancer, random_rows(2))
    with pytest.raises(RuntimeError, match="size mismatch for tracked"):
        MoCo(3).load_state_dict(balancer.state_dict())


def test_another_width_starts_afresh() -> None:
    balancer = MoCo(3)
    update(balancer, random_rows(3))
    with pytest.warns(MtlLightningWarning, match="MoCo: expected rows that fit its state of width 6.*found 4"):
        found = update(balancer, random_rows(3, width=4))
    fresh = MoCo(3)
    assert torch.equal(found, update(fresh, random_rows(3, width=4)))
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in balancer.state_dict().items())


def test_copies_are_apart() -> None:
    balancer = MoCo(2)
    update(balancer, random_rows(2))
    other = copy.deepcopy(balancer)
    before: Tensor = balancer.tracked.clone()
    update(other, random_rows(2, seed=1))
    assert torch.equal(balancer.tracked, before)


def test_pieces_of_rows() -> None:
    known = PerParameter()
    assert known.widths(5) == [5]
    known.sizes = (2, 3)
    assert known.widths(5) == [2, 3]
    assert known.widths(4) == [4]
