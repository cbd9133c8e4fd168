"""The command line with a real trainer: train, save, resume, test, predict, and what it says of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from mtl_lightning import MultiTaskModule
from mtl_lightning.data import MultiDigit
from tests.cli import CONFIGS, SMALL, only, run
from tests.programs import start

MULTIDIGIT = str(CONFIGS / "multidigit.yaml")


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """The log folder of a short run of the shipped config."""
    run(monkeypatch, "fit", "--config", MULTIDIGIT, *SMALL)
    return only(tmp_path, "config.yaml").parent


def test_fit_ends_with_a_table_and_the_line_that_starts_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "fit", "--config", MULTIDIGIT, *SMALL)
    *before, header, rule, left, right, note, blank, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["task", "labels", "loss", "accuracy", "f1", "ece", "brier", "sigma"]
    assert set(rule) == {"-", " "}
    assert (left.split()[:2], right.split()[:2], blank) == (["left", "128"], ["right", "128"], "")
    assert all(0 <= float(value.strip("()")) < 10 for line in (left, right) for value in line.split()[2:])
    assert note.startswith("In brackets: ")
    assert sum(line.startswith("epoch ") and "the best so far" in line for line in before) == 2
    folder = only(tmp_path, "config.yaml").parent
    assert last == f"Watch it with: tensorboard --logdir {folder}"


def test_the_saved_config_repeats_the_run(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "fit", "--config", str(trained / "config.yaml"))
    first, second = (only(trained.parent / version, "last.ckpt") for version in ("version_0", "version_1"))
    assert first.name == second.name
    assert all(torch.equal(a, b) for a, b in zip(weights(first).values(), weights(second).values(), strict=True))


def test_print_config_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "fit", "--config", MULTIDIGIT, *SMALL, "--print_config")
    assert end.value.code == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    run(monkeypatch, "fit", "--config", "printed.yaml", "--trainer.fast_dev_run=true")
    assert "sigma" in capsys.readouterr().out


def test_resume_continues_to_the_same_weights(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = [f"--trainer.default_root_dir={tmp_path / 'short'}", "--trainer.max_epochs=1"]
    run(monkeypatch, "fit", "--config", MULTIDIGIT, *SMALL, *short)
    half = only(tmp_path / "short", "last.ckpt")
    rest = [f"--trainer.default_root_dir={tmp_path / 'rest'}", f"--ckpt_path={half}"]
    run(monkeypatch, "fit", "--config", MULTIDIGIT, *SMALL, *rest)
    whole, resumed = weights(only(trained, "last.ckpt")), weights(only(tmp_path / "rest", "last.ckpt"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_test_and_validate_take_a_checkpoint(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(only(trained, "last.ckpt"))
    for subcommand in ("validate", "test"):
        run(monkeypatch, subcommand, "--config", MULTIDIGIT, *SMALL, f"--ckpt_path={checkpoint}")
    assert "accuracy" in capsys.readouterr().out


def test_predict_writes_the_rows_in_order(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = str(only(trained, "last.ckpt"))
    options = [f"--ckpt_path={checkpoint}", "--predictions.path=out.parquet", "--trainer.logger=false"]
    run(monkeypatch, "predict", "--config", MULTIDIGIT, *SMALL, *options)
    table = pq.read_table(tmp_path / "out.parquet")
    module = MultiTaskModule.load_from_checkpoint(checkpoint).eval()
    data = MultiDigit(sizes=(512, 128, 128))
    inputs = torch.cat([batch["inputs"] for batch in data.predict_dataloader()])
    predicted = module.predict(inputs)
    for task in ("left", "right"):
        assert table[task].to_pylist() == predicted[task]["label"].tolist()
        probabilities = torch.tensor(table[f"{task}.probability"].to_pylist())
        torch.testing.assert_close(probabilities, predicted[task]["probability"])
    metadata = json.loads(table.schema.metadata[b"mtl_lightning"])
    assert module.sigmas() == pytest.approx(metadata["sigmas"] if "sigmas" in metadata else metadata["sigma"])


def test_the_package_is_the_same_program() -> None:
    (program,) = start("mtl_lightning", "fit", "--help")
    shown = program.stdout.read()
    assert program.wait(60) == 0, program.errors()
    assert "--model.balancer" in shown


MISTAKES = {
    "misspelt module option": (["--model.balancr=UncertaintyWeighting"], "'balancr': did you mean 'balancer'?"),
    "misspelt section": (["--modl.balancer=UncertaintyWeighting"], "'modl': did you mean 'model'?"),
    "misspelt option of a part": (["--model.architecture.encodr=LeNet"], "'encodr': did you mean 'encoder'?"),
    "misspelt option of the data": (["--data.init_args.batchsize=3"], "'batchsize': did you mean 'batch_size'?"),
    "misspelt optimizer option": (["--model.optimizers.right.init_args.momentm=1"], "momentm"),
    "misspelt balancer": (["--model.balancer=UncertaintyWeightin"], "did you mean 'UncertaintyWeighting'?"),
    "misspelt dataset": (["--data=MultiDigt"], "did you mean 'MultiDigit'?"),
    "misspelt optimizer": (["--model.optimizers.default=Adamm"], "did you mean 'Adam'?"),
    "misspelt group": (["--model.optimizers.lft=SGD"], "found 'lft'. Did you mean 'left'?"),
    "misspelt task": (["--data.init_args.tasks={lft: null}"], "found 'lft'"),
    "cycle": (["--model.reads={left: [right], right: [left]}"], "cycle: left reads right reads left"),
}


@pytest.mark.parametrize(("options", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_ends_in_one_message(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "fit", "--config", MULTIDIGIT, *options, *SMALL, "--trainer.fast_dev_run=true")
    said = f"{end.value.code} {capsys.readouterr().err}"
    assert end.value.code not in (0, None)
    assert message in said
    assert "usage:" not in said


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("architecture:", "architectur:", "'architectur': did you mean 'architecture'?"),
        ("model:", "modell:", "found 'modell'. Did you mean 'model'?"),
        ("class_path: SharedBottom", "class_path: SharedBotom", "'SharedBotom': did you mean 'SharedBottom'?"),
        ("{class_path: LeNet}", "{clas_path: LeNet}", "'clas_path': did you mean 'class_path'?"),
    ],
)
def test_a_misspelt_yaml_file(
    before: str,
    after: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = Path(MULTIDIGIT).read_text()
    assert before in text
    (tmp_path / "wrong.yaml").write_text(text.replace(before, after, 1))
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "fit", "--config", "wrong.yaml")
    assert message in f"{end.value.code} {capsys.readouterr().err}"


def test_a_datamodule_without_tasks_is_told_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="declares no tasks: expected an attribute `tasks`"):
        run(
            monkeypatch,
            "fit",
            "--data=lightning.pytorch.demos.boring_classes.BoringDataModule",
            "--model.architecture=SharedBottom",
        )
