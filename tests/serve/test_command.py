"""Mistakes in the options of `mtl-lightning serve` end it with one message."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mtl_lightning.cli import main
from mtl_lightning.export import export_network
from tests.export.networks import on_a_table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "none.ckpt"], "none.ckpt"),
        (["--model", "."], "found no schema.json"),
        (["--model", "out", "--host", "example.org"], "`host`: expected one of ['127.0.0.1'"),
        (["--model", "out", "--port", "80"], "`port`: expected a number from 1024 to 65535, found 80"),
        (["--model", "out", "--tasks", "[solde]"], "Did you mean 'sold'?"),
    ],
)
def test_mistakes(options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "out" in options:
        export_network(on_a_table(), tmp_path / "out", "pt2")
    with pytest.raises(SystemExit) as caught:
        main(["serve", *options])
    assert message in str(caught.value.code)


def test_the_extra_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("mtl_lightning.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "litserve", None)
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--model", "exported"])
    assert "pip install 'mtl-lightning[serve]'" in str(caught.value.code)
