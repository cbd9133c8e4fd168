"""``mtl-lightning lr-find``: its files, its table, and that what it finds is taken by ``fit``."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # it ships no types

from tests.cli import CONFIGS, SMALL, only, run

MULTIDIGIT = str(CONFIGS / "multidigit.yaml")
SYNTHETIC = str(CONFIGS / "synthetic.yaml")
QUICK = ("--data.init_args.n=100", "--model.architecture.init_args.encoder.init_args.hidden=[16]")


def test_the_fragment_is_taken_by_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ("--lr_find.updates=12", "--lr_find.groups=[y2,balancer]")
    run(monkeypatch, "lr-find", "--config", SYNTHETIC, *QUICK, *sweep)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed if line.startswith(("y", "balancer"))] == ["y2", "balancer"]
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.rglob("events.*"))
    config = yaml.safe_load(Path(SYNTHETIC).read_text())
    found = yaml.safe_load((tmp_path / "lr_find" / "rates.yaml").read_text())["optimizers"]
    assert found["default"] == {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}  # as it was
    assert found["y2"]["class_path"] == "torch.optim.Adam"
    config["model"]["optimizers"] = found
    (tmp_path / "found.yaml").write_text(yaml.safe_dump(config))
    run(monkeypatch, "fit", "--config", "found.yaml", *QUICK, "--trainer.max_epochs=1")
    saved = yaml.safe_load(only(tmp_path, "config.yaml").read_text())["model"]["optimizers"]
    assert saved["y2"]["init_args"]["lr"] == found["y2"]["init_args"]["lr"] > 1e-3


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--lr_find.groups=[rigth]", "`lr_find.groups`: expected one of ['shared', 'left', 'right', 'balancer']"),
        ("--lr_find.updates=2", "`lr_find.updates`: expected"),
        ("--lr_find.lowest=0", "`lr_find.lowest`: expected"),
        ("--model.optimizer.lr=3", "optimizer"),
    ],
)
def test_a_mistake_ends_in_one_sentence(
    option: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "lr-find", "--config", MULTIDIGIT, *SMALL, option)
    assert said in f"{end.value} {capsys.readouterr().err}"
