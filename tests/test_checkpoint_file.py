"""The number of a checkpoint's format: what reads it, and what refuses one from the future."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mtl_lightning import MultiTaskModule, __version__, checkpoint_file
from mtl_lightning.types import ConfigurationError
from tests.cli import run
from tests.helpers import TinyData, fit, make_module

PATH = "saved/model.ckpt"


@pytest.fixture
def saved() -> dict[str, Any]:
    fit(make_module(), TinyData(), callbacks=[ModelCheckpoint("saved", filename="model")], precision="32-true")
    checkpoint: dict[str, Any] = torch.load(PATH, weights_only=True)
    return checkpoint


def test_a_checkpoint_says_its_format_and_who_wrote_it(saved: dict[str, Any]) -> None:
    part = saved["mtl_lightning"]
    assert (part["format"], part["version"]) == (checkpoint_file.FORMAT, __version__) == (2, "0.2.0")
    assert list(part["processes"][0]) == ["accumulation", "updates", "labels", "validations", "random_state"]


WAYS: dict[str, Callable[[], Any]] = {
    "module": lambda: MultiTaskModule.load_from_checkpoint(PATH),
    "optimizers": lambda: make_module().restore_optimizers(PATH),
    "data": lambda: TinyData.from_checkpoint(PATH),
    "fit": lambda: fit(make_module(), TinyData(), ckpt_path=PATH, precision="32-true"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_from_the_future_names_the_version_that_wrote_it(saved: dict[str, Any], way: str) -> None:
    saved["mtl_lightning"].update(format=3, version="9.9.9")
    torch.save(saved, PATH)
    with pytest.raises(ConfigurationError, match=r"2 or older, found format 3, written by mtl_lightning 9\.9\.9"):
        WAYS[way]()


def test_the_command_line_says_so_too(saved: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    saved["mtl_lightning"].update(format="three")
    torch.save(saved, PATH)
    model = ("--model.architecture=SharedBottom", "--model.architecture.encoder=MLP")
    with pytest.raises(SystemExit, match=r"model\.ckpt: expected a checkpoint of format 2 or older, found format 'thr"):
        run(monkeypatch, "test", "--data=SyntheticRegression", *model, f"--ckpt_path={PATH}", "--trainer.logger=false")
