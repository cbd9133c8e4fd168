"""What names in a file may stand for, and that nothing else is imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torchmetrics
from torch import nn

from mtl_lightning.errors import NotDescribableError
from mtl_lightning.tasks import Regression
from mtl_lightning.trust import ALLOWED, Trust, TrustAll
from tests.test_describe import Part, scaled

ABOVE = "has not been imported. If you trust the file: trusted="


def test_classes_of_the_list_are_found() -> None:
    trust = Trust()
    assert trust.the_class("torch.nn.Linear") is nn.Linear
    assert trust.the_class("torch.optim.lr_scheduler.StepLR") is torch.optim.lr_scheduler.StepLR
    assert trust.the_class("torchmetrics.MeanSquaredError") is torchmetrics.MeanSquaredError
    assert trust.the_class("mtl_lightning.tasks.Regression") is Regression


def test_the_list_is_what_it_is() -> None:
    assert ALLOWED == ("mtl_lightning", "torch.nn", "torch.optim", "torchmetrics", "torchjd", "timm", "transformers")


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.load",
        "torch.hub.load",
        "torch.fx.GraphModule",
        "torch.nnx.Linear",
        "mtl_lightning_evil.X",
        "tests.test_describe.Part",
    ],
)
def test_others_are_not(path: str) -> None:
    with pytest.raises(NotDescribableError, match=f"found {path}.*{ABOVE}"):
        Trust().the_class(path)


@pytest.mark.parametrize(
    "path", ["Linear", "", "torch.nn.", ".torch.nn.Linear", "torch.nn.Linear()", "a b.c", 3, None, ["a"]]
)
def test_what_is_no_path_is_refused(path: object) -> None:
    with pytest.raises(NotDescribableError, match="Expected a dotted path"):
        Trust(["torch"]).the_class(path)


def test_what_is_only_visible_in_a_package_of_the_list_is_refused() -> None:
    for path in ("mtl_lightning.describe.Path", "torch.nn.modules.module.OrderedDict", "torchmetrics.metric.Tensor"):
        with pytest.raises(NotDescribableError, match=ABOVE):
            Trust().the_class(path)
    with pytest.raises(NotDescribableError, match=r"Expected a class or function, found 'torch\.nn\.functional'"):
        Trust(["torch"]).the_class("torch.nn.functional")


def test_functions_are_found_only_where_the_caller_trusts_them() -> None:
    with pytest.raises(NotDescribableError, match=r"trusted=\['torch\.nn\.functional'\]"):
        Trust().the_function("torch.nn.functional.l1_loss")
    with pytest.raises(NotDescribableError, match="Expected a class"):
        Trust().the_class("torch.nn.functional.l1_loss")
    assert Trust(["torch.nn.functional"]).the_function("torch.nn.functional.l1_loss") is nn.functional.l1_loss
    assert Trust(["tests"]).the_function("tests.test_describe.scaled") is scaled


def test_a_caller_names_a_package_a_module_or_a_class() -> None:
    for names in (["tests"], ["tests.test_describe"], ["tests.test_describe.Part"], "tests"):
        assert Trust(names).the_class("tests.test_describe.Part") is Part
    assert Trust(caller=Part).the_class("tests.test_describe.Part") is Part
    with pytest.raises(NotDescribableError, match=ABOVE):
        Trust(["tests.test_des"]).the_class("tests.test_describe.Part")
    assert Trust(caller=Regression).names == ()


def test_a_name_is_refused_before_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_of_test.py").write_text("open('PROOF', 'w').close()\nclass X: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NotDescribableError, match=ABOVE):
        Trust(["tests"]).the_class("evil_of_test.X")
    assert "evil_of_test" not in sys.modules
    with pytest.raises(NotDescribableError, match=r"Expected to find evil_of_test\.X"):
        TrustAll().the_class("evil_of_test.X")  # it imports nothing at all
    assert not Path("PROOF").exists()
    Trust(["evil_of_test"]).the_class("evil_of_test.X")
    assert Path("PROOF").exists()
    del sys.modules["evil_of_test"]


def test_what_is_gone_is_named() -> None:
    with pytest.raises(NotDescribableError, match=r"Expected to find torch\.nn\.Gone: AttributeError"):
        Trust().the_class("torch.nn.Gone")
    with pytest.raises(NotDescribableError, match=r"Expected to find timm\.gone\.X: ModuleNotFoundError"):
        Trust().the_class("timm.gone.X")


def test_classes_of_a_script_are_for_that_script_alone() -> None:
    with pytest.raises(NotDescribableError, match="of a script or notebook"):
        TrustAll().the_class("__main__.X")
