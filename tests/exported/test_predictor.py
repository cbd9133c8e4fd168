"""`Predictor.from_export` gives the answers of the checkpoint, with numpy, pyarrow and onnxruntime alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtl_lightning import Predictor
from mtl_lightning.architectures import LeNet, SharedBottom
from mtl_lightning.errors import CheckpointError, ConfigurationError, MtlLightningWarning
from mtl_lightning.export import export_network
from mtl_lightning.types import TargetSpec, TensorSpec
from tests.export.networks import TWO_INPUTS, Tags, TwoInputs, network, yes_or_no
from tests.exported.test_folder import resealed
from tests.serve.houses import exported, rows

PROGRAM = """
import json, sys
from mtl_lightning import Predictor
answers = Predictor.from_export(sys.argv[1], on_unknown="ignore")(json.loads(sys.stdin.read()))
assert not {"torch", "lightning", "pytorch_lightning"} & {*sys.modules}, "imported"
print(json.dumps(answers.to_list()))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("houses"))


def test_neither_torch_nor_lightning_is_imported(folder: Path) -> None:
    some = rows(500, seed=4)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / "exported")],
        input=json.dumps(some),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = Predictor.from_checkpoint(folder / "last.ckpt", on_unknown="ignore")(some).to_list()
    for found, other in zip(json.loads(done.stdout), expected, strict=True):
        assert found.keys() == other.keys()
        assert found["style"]["label"] == other["style"]["label"]
        for name, probability in other["style"]["probabilities"].items():
            assert abs(found["style"]["probabilities"][name] - probability) <= 1e-5


def test_the_report_and_the_tasks_are_those_of_the_checkpoint(folder: Path) -> None:
    some = rows(60, seed=5)
    one, other = Predictor.from_export(folder / "exported"), Predictor.from_checkpoint(folder / "last.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MtlLightningWarning)
        assert one(some).report == other(some).report
        assert [*one(some, tasks=["sold"]).tasks] == ["sold"]
    assert one.description["tasks"] == other.description["tasks"]
    with pytest.raises(ConfigurationError, match="Did you mean 'sold'"):
        Predictor.from_export(folder / "exported", tasks=["solde"])


def test_another_devices_name_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="`device`: expected one that this onnxruntime has"):
        Predictor.from_export(folder / "exported", device="cuda")


def test_a_description_of_another_version_is_refused(folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder / "exported", tmp_path / "copy"))
    resealed(copied, lambda document: document["versions"].update(format=9))
    with pytest.raises(CheckpointError, match="expected a description of format 1, found 9"):
        Predictor.from_export(copied)


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_pictures_and_dicts(format: Any, tmp_path: Path) -> None:
    """Arrays in; what a task of a user's own predicts, too."""
    digits = partial(SharedBottom, encoder=partial(LeNet, channels=(2, 3), width=4))
    made = network(yes_or_no(), digits, TensorSpec((1, 16, 16)))
    export_network(made, tmp_path / "digits", format)
    pictures = np.random.default_rng(0).normal(size=(3, 1, 16, 16)).astype(np.float32)
    found = Predictor.from_export(tmp_path / "digits")(pictures)
    expected = made.predict(torch.from_numpy(pictures))
    np.testing.assert_allclose(found["a"]["probability"], expected["a"]["probability"], atol=1e-6)
    if format == "pt2":
        tags = network(
            {"tags": Tags(TargetSpec(classes=3))}, partial(SharedBottom, encoder=TwoInputs()), {**TWO_INPUTS}
        )
        export_network(tags, tmp_path / "tags", format)
        inputs = {"picture": torch.randn(2, 3, 9, 8), "words": torch.randint(0, 20, (2, 5))}
        answer = Predictor.from_export(tmp_path / "tags")(inputs)["tags"]
        np.testing.assert_allclose(answer["logits"], made_logits(tags, inputs), atol=1e-5)


def made_logits(made: Any, inputs: Any) -> Any:
    return made.predict(inputs)["tags"]["logits"]
