"""Mistakes in the options of `mtl-lightning serve` end it with one message."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch

from mtl_lightning.cli import main
from mtl_lightning.export import export_network
from mtl_lightning.serve.model import Served
from mtl_lightning.serve.options import device_of
from tests.export.networks import on_a_table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "none.ckpt"], "none.ckpt"),
        (["--model", "."], "found no schema.json"),
        (["--model", "out", "--host", "example.org"], "`host`: expected one of ['127.0.0.1'"),
        (["--model", "out", "--port", "80"], "`port`: expected a number from 1024 to 65535, found 80"),
        (["--model", "out", "--tasks", "[solde]"], "Did you mean 'sold'?"),
        (["--model", "m.ckpt", "--workers", "0"], "`workers`: expected a finite number of at least 1, found 0"),
        (["--model", "m.ckpt", "--max_batch_size", "0"], "`max_batch_size`: expected a finite number of at least 1"),
        (["--model", "m.ckpt", "--max_bytes", "-1"], "`max_bytes`: expected a finite number of at least 1, found -1"),
        (["--model", "m.ckpt", "--timeout", "-5"], "`timeout`: expected a finite number above 0, found -5"),
        (["--model", "m.ckpt", "--batch_wait", "-1"], "`batch_wait`: expected a finite number of at least 0"),
        (["--model", "m.ckpt", "--batch_wait", "40"], "`batch_wait`: expected less than the `timeout` of 30 seconds"),
    ],
)
def test_mistakes(options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "out" in options:
        export_network(on_a_table(), tmp_path / "out", "pt2")
    with pytest.raises(SystemExit) as caught:
        main(["serve", *options])
    assert message in str(caught.value.code)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    export_network(on_a_table(), tmp_path / "out", "pt2")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as caught:
            main(["serve", "--model", str(tmp_path / "out"), "--port", str(port)])
    assert f"`port`: expected one that is free, found {port} taken" in str(caught.value.code)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_a_gpu_that_is_not_there(form: Literal["pt2", "onnx"], tmp_path: Path) -> None:
    export_network(on_a_table(), tmp_path / "out", form)
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--model", str(tmp_path / "out"), "--accelerator", "cuda"])
    assert "`accelerator`: expected a GPU for cuda, found" in str(caught.value.code)
    assert device_of(Served(str(tmp_path / "out")), "auto") == "cpu"


def test_the_extra_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("mtl_lightning.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "litserve", None)
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--model", "exported"])
    assert "pip install 'mtl-lightning[serve]'" in str(caught.value.code)
