from __future__ import annotations

import importlib.util

import pytest
import torch

from mtl_lightning.architectures import TimmEncoder
from mtl_lightning.types import ConfigurationError, TensorSpec

PICTURES = TensorSpec((1, 33, 40))
HERE = importlib.util.find_spec("timm") is not None


@pytest.mark.skipif(HERE, reason="timm is installed")
def test_says_how_to_get_timm() -> None:
    with pytest.raises(
        ConfigurationError, match=r"TimmEncoder takes its models from timm, .* not found: pip install timm"
    ):
        TimmEncoder(PICTURES)


@pytest.mark.skipif(not HERE, reason="needs timm")
@pytest.mark.parametrize(("pool", "size"), [(True, (512,)), (False, (512, 2, 2))])
def test_a_model_without_its_classifier(pool: bool, size: tuple[int, ...]) -> None:
    encoder = TimmEncoder(PICTURES, model="resnet18", pool=pool)
    assert encoder.out_features == size
    assert encoder(torch.randn(2, 1, 33, 40)).shape == (2, *size)
