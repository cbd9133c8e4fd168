from __future__ import annotations

import pytest
import torch

from mtl_lightning.architectures import SharedBottom, TimmEncoder
from mtl_lightning.types import ConfigurationError, TensorSpec

PICTURES = TensorSpec((1, 33, 40))


class Elsewhere(TimmEncoder):
    """Looks for a package that nobody has."""

    needs = "a_package_that_nobody_has"


def test_says_how_to_get_timm() -> None:
    with pytest.raises(
        ConfigurationError, match=r"which cannot be imported: No module named .*`pip install timm`, which brings torchv"
    ):
        Elsewhere(PICTURES)


@pytest.mark.parametrize(("pool", "size"), [(True, (512,)), (False, (512, 2, 2))])
def test_a_model_without_its_classifier(pool: bool, size: tuple[int, ...]) -> None:
    pytest.importorskip("timm")
    encoder = TimmEncoder(PICTURES, model="resnet18", pool=pool)
    assert encoder.out_features == size
    assert encoder(torch.randn(2, 1, 33, 40)).shape == (2, *size)
    assert encoder.double()(torch.randn(2, 1, 33, 40, dtype=torch.float64)).dtype == torch.float64


def test_options_are_timms() -> None:
    pytest.importorskip("timm")
    encoder = TimmEncoder(
        TensorSpec((3, 64, 64)), model="vit_tiny_patch16_224", options={"img_size": 64, "embed_dim": 24}
    )
    assert encoder.out_features == (24,)
    network = SharedBottom(TensorSpec((3, 64, 64)), ["a", "b"], encoder=encoder)
    assert network(torch.randn(1, 3, 64, 64), ["a"]).per_task["a"].shape == (1, 24)
