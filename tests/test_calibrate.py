"""The command line calibrates: every fit by itself, and `mtl-lightning calibrate` a checkpoint on any labelled file."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_lightning import MultiTaskModule, checkpoint_file
from mtl_lightning.cli.calibrate import store
from mtl_lightning.errors import CheckpointError
from tests.cli import only, run
from tests.helpers import assert_same

YAML = """
seed_everything: 0
data:
  class_path: TableData
  init_args: {path: rows.csv, targets: [price, sold, kind], batch_size: 512, split: {fractions: [0.5, 0.25, 0.25]}}
model:
  architecture:
    class_path: SharedBottom
    init_args: {encoder: {class_path: TabularEncoder, init_args: {hidden: [16]}}}
  optimizers: {default: {class_path: Adam, init_args: {lr: 0.01}}}
calibration: {by: city}
trainer: {max_epochs: 2, accelerator: cpu, logger: false, enable_progress_bar: false}
"""
CITIES = {"Bern": 1.0, "Oslo": 10.0, "Rome": 40.0}
"""The noise of a price in each."""


def write(path: Path, number: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, number, generator=random)
    cities = [[*CITIES][place] for place in torch.randint(0, 3, (number,), generator=random).tolist()]
    noise = torch.randn(number, generator=random) * torch.tensor([CITIES[city] for city in cities])
    sold = torch.rand(number, generator=random) < (3 * y).sigmoid()
    kind = (torch.stack([x, y, -x]) + torch.randn(3, number, generator=random)).argmax(0)
    lines = [
        f"{a:.4f},{b:.4f},{city},{a * 20 + n:.4f},{int(s)},{'abc'[k]}"
        for a, b, city, n, s, k in zip(x, y, cities, noise, sold, kind, strict=True)
    ]
    path.write_text("\n".join(["x,y,city,price,sold,kind", *lines]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and with what a fit of the command line has left there."""
    made = tmp_path_factory.mktemp("calibrate")
    (made / "run.yaml").write_text(YAML)
    write(made / "rows.csv", 4_000, 0)
    write(made / "new.csv", 3_000, 1)
    before = Path.cwd()
    os.chdir(made)
    with pytest.MonkeyPatch.context() as patch:
        run(patch, "fit", "--config=run.yaml")
    os.chdir(before)
    return made


@pytest.fixture
def there(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, as the current one."""
    shutil.copytree(folder, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def part_of(path: Path) -> Any:
    return checkpoint_file.read_part(path)["calibration"]


def without_calibration(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    del checkpoint["mtl_lightning"]["calibration"]
    return checkpoint


def same(found: Any, expected: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    return bool(found == expected) and type(found) is type(expected)


def test_a_fit_calibrates_the_best_and_the_last(folder: Path) -> None:
    best, last = (part_of(only(folder, pattern)) for pattern in ("epoch=*.ckpt", "last.ckpt"))
    for found in (best, last):
        assert {name: known["method"] for name, known in found.items()} == {
            "price": "conformal",
            "sold": "platt",
            "kind": "temperature",
        }
        widths = found["price"]["groups"]
        assert [*widths] == [*CITIES]
        assert widths["Bern"] < widths["Oslo"] < widths["Rome"]
    module = MultiTaskModule.load_from_checkpoint(only(folder, "last.ckpt"))
    assert module.calibration == last


def test_calibrate_changes_nothing_else(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = only(there, "last.ckpt")
    before, calibration, files = without_calibration(path), part_of(path), sorted(there.rglob("*"))
    options = ("--data.init_args.val=new.csv", "--calibration.binary=isotonic", "--calibration.coverage=0.8")
    run(monkeypatch, "calibrate", "--config=run.yaml", f"--ckpt_path={path}", *options)
    said = capsys.readouterr().out
    assert re.search(
        r"price: 80 % within [\d.]+, 3 intervals by city; sold: isotonic, \d+ knots; kind: temperature", said
    )
    assert said.rstrip().endswith(f"It is in {path}.")
    found = part_of(path)
    assert (found["sold"]["method"], found["price"]["coverage"]) == ("isotonic", 0.8)
    assert found["kind"] != calibration["kind"]
    assert same(without_calibration(path), before)
    assert sorted(there.rglob("*")) == files
    store(str(path), calibration, "again.ckpt")
    assert not same(torch.load("again.ckpt", weights_only=True), torch.load(path, weights_only=True))
    store("again.ckpt", found, "again.ckpt")
    assert same(torch.load("again.ckpt", weights_only=True), torch.load(path, weights_only=True))


def test_a_rewritten_checkpoint_is_resumed_and_tested(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(only(there, "last.ckpt"), "kept.ckpt")
    store("kept.ckpt", None, "changed.ckpt")
    states: list[dict[str, Any]] = []
    for name in ("kept.ckpt", "changed.ckpt"):
        shutil.rmtree("checkpoints")
        run(monkeypatch, "fit", "--config=run.yaml", f"--ckpt_path={name}", "--trainer.max_epochs=3")
        states.append(torch.load(only(there, "checkpoints/last.ckpt"), weights_only=True))
    assert states[0]["epoch"] == 2
    assert_same(states[1]["state_dict"], states[0]["state_dict"])
    assert states[0]["mtl_lightning"]["calibration"] == states[1]["mtl_lightning"]["calibration"]
    capsys.readouterr()
    run(monkeypatch, "test", "--config=run.yaml", f"--ckpt_path={only(there, 'checkpoints/last.ckpt')}")
    table = capsys.readouterr().out
    assert {"coverage", "interval_width", "ece", "brier"} <= set(table.split())


MISTAKES = [
    ([], "`calibrate`: expected trained weights, found no `--ckpt_path`"),
    (["--ckpt_path=nowhere.ckpt"], "nowhere.ckpt: expected a file, found none there"),
    (["--ckpt_path=LAST", "--output=s3://bucket/x.ckpt"], "expected a file to write to, found the address s3://bucket"),
    (["--ckpt_path=LAST", "--calibration.by=town"], "`by`: expected a column of categories, one of ['city'], found"),
    (["--ckpt_path=LAST", "--calibration.least=5000"], "the checkpoint stays as it is. Calibration, on the rows of"),
    (
        ["--ckpt_path=LAST", "--trainer.limit_val_batches=0"],
        "expected labelled rows in the validation split, found none",
    ),
]


@pytest.mark.parametrize(("options", "said"), MISTAKES)
def test_mistakes_are_told_and_nothing_is_changed(
    options: list[str], said: str, there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = only(there, "last.ckpt")
    content = path.read_bytes()
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "calibrate", "--config=run.yaml", *(one.replace("LAST", str(path)) for one in options))
    assert said in f"{end.value} {capsys.readouterr().err}"
    assert path.read_bytes() == content


def test_a_damaged_checkpoint_is_refused(there: Path) -> None:
    path = only(there, "last.ckpt")
    store(str(path), {"sold": {"method": "platt", "slope": [0.5], "intercept": [0.25]}}, str(path))
    content = bytearray(path.read_bytes())
    place = content.index(b"intercept")
    content[place + len(b"intercept") + 8] ^= 1  # near the number that follows
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"last.ckpt: expected a checkpoint file, found one that is damaged"):
        MultiTaskModule.load_from_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"damaged"):
        store(str(path), None, "other.ckpt")
    assert not Path("other.ckpt").exists()
