"""The table after each validation: its numbers are the logged ones, and the best epoch is that of the checkpoint."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar

from mtl_lightning import MultiTaskModule
from mtl_lightning.callbacks import EpochTable
from mtl_lightning.callbacks.best_epoch import BestModelCheckpoint
from tests.helpers import fit, make_batches, make_module

RATES = {"default": partial(torch.optim.Adam, lr=0.2)}
HEADING = re.compile(r"epoch (\d+), update (\d+): (\S+) (\S+), the best so far( \*| is (\S+) of epoch (\d+))")


class Witness(Callback):
    """Keeps the metrics of every validation."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def cells(lines: list[str]) -> dict[str, dict[str, float]]:
    """The numbers of tables, by task and column."""
    found: dict[str, dict[str, float]] = {}
    header: list[str] = []
    for line in lines:
        words = line.split()
        if words[:1] == ["task"]:
            header = words[1:]
        elif not set(line) <= {"-", " "}:
            found[words[0]] = dict(zip(header, map(float, words[1:]), strict=True))
    return found


def test_it_shows_what_is_logged_and_marks_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    """At a rate this large validation goes up and down."""
    witness = Witness()
    module = make_module(optimizers=RATES)
    fit(module, make_batches(3), make_batches(3), max_epochs=6, callbacks=[witness, EpochTable()])
    lines = capsys.readouterr().out.splitlines()
    starts = [index for index, line in enumerate(lines) if HEADING.match(line)]
    assert len(starts) == 6
    scores = [metrics["val/loss_normalised"] for metrics in witness.metrics]
    assert scores != sorted(scores, reverse=True)
    assert scores != sorted(scores)
    for epoch, (start, end) in enumerate(zip(starts, [*starts[1:], len(lines) - 1], strict=True)):
        match = HEADING.fullmatch(lines[start])
        assert match is not None
        assert (int(match[1]), int(match[2]), match[3]) == (epoch, 3 * (epoch + 1), "val/loss_normalised")
        assert float(match[4]) == pytest.approx(scores[epoch], rel=1e-3)
        best = min(range(epoch + 1), key=scores.__getitem__)
        assert (match[5] == " *") == (best == epoch)
        assert best == epoch or int(match[7]) == best
        for task, row in cells(lines[start + 1 : end]).items():
            assert row == {
                metric: pytest.approx(witness.metrics[epoch][f"val/{metric}/{task}"], rel=1e-3) for metric in row
            }
            assert {"loss"} < row.keys()
    best = min(range(6), key=scores.__getitem__)
    assert lines[-1].startswith(f"The best validation was that of epoch {best}, update {3 * (best + 1)}: ")


def test_the_best_is_what_the_checkpoint_keeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keeps = ModelCheckpoint(tmp_path, monitor="val/f1/kind", mode="max", filename="{epoch}")
    module = make_module()
    fit(module, make_batches(3), make_batches(3), max_epochs=4, callbacks=[keeps, EpochTable()])
    best = module.validations.best
    assert best.monitor == "val/f1/kind"
    assert best.score == pytest.approx(float(cast("Any", keeps.best_model_score)))
    assert Path(keeps.best_model_path).name == f"epoch={best.epoch}.ckpt"
    assert f"of epoch {best.epoch}, update {best.update}: val/f1/kind" in capsys.readouterr().out


def test_a_resumed_run_knows_the_best_and_another_run_forgets_it(tmp_path: Path) -> None:
    def run(epochs: int, module: MultiTaskModule, **options: Any) -> Any:
        keeps = BestModelCheckpoint()
        fit(
            module,
            make_batches(3),
            make_batches(3),
            max_epochs=epochs,
            callbacks=[keeps],
            default_root_dir=tmp_path,
            **options,
        )
        return module.validations.best.state_dict()

    options: dict[str, Any] = {}
    module = make_module(optimizers=RATES)
    whole = run(4, module, **options)
    (last,) = tmp_path.rglob("last.ckpt")
    last.rename(tmp_path / "four.ckpt")
    six = run(6, make_module(optimizers=RATES), **options)
    again = make_module(optimizers=RATES)
    assert run(6, again, ckpt_path=str(tmp_path / "four.ckpt"), **options) == six
    assert whole["epoch"] < 4
    short = run(1, again, **options)
    assert short["epoch"] == 0
    assert short["score"] != six["score"]


@pytest.mark.parametrize(
    "bar", [TQDMProgressBar, RichProgressBar, partial(TQDMProgressBar, refresh_rate=0)], ids=["tqdm", "rich", "none"]
)
def test_progress_bars_stay_whole(bar: Any, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"enable_progress_bar": True}
    fit(make_module(), make_batches(3), make_batches(3), max_epochs=2, callbacks=[bar(), EpochTable()], **options)
    out = capsys.readouterr().out
    lines = [line.split("\r")[-1].rstrip() for line in out.splitlines()]
    assert sum(bool(HEADING.fullmatch(line)) for line in lines) == 2
    assert [line.split()[0] for line in lines if line.startswith(("number ", "vector ", "kind "))] == [
        "number",
        "vector",
        "kind",
    ] * 2
    assert sum(line.startswith("The best validation was that of epoch ") for line in lines) == 1


def test_it_prints_every_second_validation_or_none(capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"num_sanity_val_steps": 2}
    fit(make_module(), make_batches(3), make_batches(3), max_epochs=4, callbacks=[EpochTable(2)], **options)
    out = capsys.readouterr().out
    assert [match[1] for match in HEADING.finditer(out)] == ["1", "3"]
    fit(make_module(), make_batches(3), make_batches(3), max_epochs=2, callbacks=[EpochTable(0)], **options)
    assert "epoch" not in capsys.readouterr().out
