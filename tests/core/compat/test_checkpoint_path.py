"""Whatever `--ckpt_path` is, weights and schema come from the same file; without weights there are no answers."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import Trainer

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.core.compat.checkpoint_path import as_text
from mtl_lightning.data import TableData
from mtl_lightning.data.differences import in_words
from mtl_lightning.types import ConfigurationError
from tests.cli import run

CONFIG = """
seed_everything: 0
data:
  class_path: TableData
  init_args: {path: t.csv, targets: [price], predict: new.csv, categorical: [c], numeric: [f], batch_size: 20}
model:
  architecture: {class_path: SharedBottom, init_args: {encoder: {class_path: TabularEncoder}}}
  optimizers: {default: {class_path: Adam, init_args: {lr: 0.03}}}
trainer:
  max_epochs: 10
  accelerator: cpu
  logger: false
  default_root_dir: runs
  enable_progress_bar: false
  enable_model_summary: false
  callbacks: [{class_path: ModelCheckpoint, init_args: {save_last: true, filename: best, monitor: val/loss}}]
"""
PRICES = {"a": 50, "b": 0, "c": 100}


def write_towns(letters: str) -> None:
    """A table whose price follows from its category; and two rows to predict, b and c."""
    rows = [f"{(c := letters[i % 2])},{i % 7 / 7},{PRICES[c] + i % 11 / 11}" for i in range(200)]
    Path("t.csv").write_text("\n".join(["c,f,price", *rows]) + "\n")
    Path("new.csv").write_text("c,f\nb,0.5\nc,0.5\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints of a run on the categories b and c; the table has changed since."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("t.yaml").write_text(CONFIG)
        write_towns("bc")
        run(patch, "fit", "--config", "t.yaml")
        write_towns("ab")
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    "path",
    [
        *("last", "best", "hpc", "runs", "file"),
        *(pytest.param(path, marks=pytest.mark.slow) for path in ("runs/checkpoints", "runs/checkpoints/best.ckpt")),
    ],
)
def test_predictions_are_by_the_checkpoints_schema(path: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "hpc":
        shutil.copy("runs/checkpoints/last.ckpt", "runs/hpc_ckpt_3.ckpt")
    path = f"file://{here}/runs/checkpoints/last.ckpt" if path == "file" else path
    run(monkeypatch, "predict", "--config", "t.yaml", f"--ckpt_path={path}", "--predictions.path=p.parquet")
    assert pq.read_table("p.parquet")["price"].to_pylist() == pytest.approx([0, 100], abs=10)


def test_with_a_logger_that_numbers_runs_they_are_of_the_newest_run_that_kept_some(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a test, or of a prediction, has a number too, and no checkpoints."""
    logged = ["--config", "t.yaml", "--trainer.logger=true", "--trainer.default_root_dir=logged"]
    write_towns("bc")
    run(monkeypatch, "fit", *logged)
    run(monkeypatch, "fit", *logged)
    write_towns("ab")
    run(monkeypatch, "test", *logged, "--ckpt_path=last", "--data.init_args.test=t.csv")
    assert {path.name for path in Path("logged/lightning_logs").iterdir()} >= {"version_0", "version_1", "version_2"}
    shutil.rmtree("logged/lightning_logs/version_0")  # it is not that run's
    for path in ("best", "last"):
        run(monkeypatch, "predict", *logged, f"--ckpt_path={path}", "--predictions.path=p.parquet")
        assert pq.read_table("p.parquet")["price"].to_pylist() == pytest.approx([0, 100], abs=10)


@pytest.mark.parametrize("stage", ["test", "validate"])
def test_other_stages_take_the_schema_too(
    stage: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the categories a and b, b is as it was and a is unseen; codes fitted anew would take a for b, and b for c."""
    Path("t.csv").write_text(Path("t.csv").read_text().replace("\na,", "\nb,").replace(",5", ",-5"))
    run(monkeypatch, stage, "--config", "t.yaml", "--ckpt_path=last")
    assert "training rows" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict"], "`predict`: expected trained weights, found no `--ckpt_path`"),
        (["test"], "`test`: expected trained weights, found no `--ckpt_path`"),
        (["predict", "--ckpt_path=last", "--trainer.default_root_dir=other"], "weights, found none for 'last'"),
        (["validate", "--ckpt_path=last", "--trainer.default_root_dir=other"], "weights, found none for 'last'"),
        (["predict", "--ckpt_path=best", "--trainer.default_root_dir=other"], "ckpt_path=best: expected a checkpoint"),
        (["predict", "--ckpt_path=hpc"], "ckpt_path=hpc: .*no HPC checkpoint was found"),
        (["fit", "--ckpt_path=runs/none.ckpt"], "ckpt_path=runs/none.ckpt: expected a file, found none"),
        (["test", "--ckpt_path=empty"], "ckpt_path=empty: expected a folder with one checkpoint.*found none"),
    ],
)
def test_without_trained_weights_there_is_an_error(
    arguments: list[str], message: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "empty").mkdir()
    with pytest.raises(SystemExit, match=message) as caught:
        run(monkeypatch, arguments[0], "--config", "t.yaml", *arguments[1:])
    assert len(str(caught.value).splitlines()) == 1


def test_fit_goes_on_from_the_last_or_starts_anew(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_towns("bc")
    run(monkeypatch, "fit", "--config", "t.yaml", "--ckpt_path=last", "--trainer.max_epochs=11")
    with pytest.warns(UserWarning, match="no last checkpoint available"):
        run(
            monkeypatch, "fit", "--config", "t.yaml", "--ckpt_path=last", "--trainer.default_root_dir=other",
            "--trainer.max_epochs=1",
        )  # fmt: skip
    assert Path("other/checkpoints/last.ckpt").is_file()


def test_with_a_logger_that_numbers_runs_fit_goes_on_from_the_newest_run_that_kept_some(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = ["fit", "--config", "t.yaml", "--trainer.logger=true", "--trainer.default_root_dir=logged"]
    write_towns("bc")
    with pytest.warns(UserWarning, match="no last checkpoint available"):  # the first start of a job
        run(monkeypatch, *logged, "--ckpt_path=last", "--trainer.max_epochs=1")
    for epochs in (2, 3):
        run(monkeypatch, *logged, "--ckpt_path=last", f"--trainer.max_epochs={epochs}")
    kept = [*Path("logged/lightning_logs").glob("version_*/checkpoints/last.ckpt")]
    assert len(kept) == 3
    ends = sorted(torch.load(path, weights_only=True)["global_step"] for path in kept)
    assert ends == [ends[0], 2 * ends[0], 3 * ends[0]]


def test_data_of_another_schema_are_refused_with_the_difference(here: Path) -> None:
    def data() -> TableData:
        return TableData(path="t.csv", targets=["price"], predict="new.csv", categorical=["c"], numeric=["f"])

    other = data()
    module = MultiTaskModule(other.tasks, partial(SharedBottom, encoder=TabularEncoder), input_spec=other.input_spec)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    path = "runs/checkpoints/last.ckpt"
    with pytest.raises(ConfigurationError, match=r"another schema: categorical\.c: \['c'\] there, \['a'\] here"):
        trainer.predict(module, datamodule=other, ckpt_path=path)
    loaded = MultiTaskModule.load_from_checkpoint(path)
    with pytest.raises(ConfigurationError, match=r"another schema: categorical\.c"):
        trainer.test(loaded, datamodule=other)
    unread = data()
    (predicted,) = trainer.predict(loaded, datamodule=unread) or []
    assert unread.schema["categorical"] == {"c": ["b", "c"]}
    assert isinstance(predicted, dict)
    assert predicted["price"].tolist() == pytest.approx([0, 100], abs=10)


def test_differences_are_told_in_a_few_words() -> None:
    saved = {"a": {"x": 1.0, "y": 2}, "classes": ["n", "y"], "old": 1}
    assert in_words(saved, saved) == ""
    assert in_words(saved, {"a": {"x": 1.0 + 1e-12, "y": 2}, "classes": ("n", "y"), "new": 2}) == ""
    assert in_words(saved, {"a": {"x": 1.5, "y": 2}, "classes": ["n", "y", "z"]}) == (
        "a.x: 1 there, 1.5 here; classes: ['n', 'y'] there, ['z'] here"
    )
    assert in_words(saved, {"a": {"x": 1.0, "z": 2}}) == "a: ['y'] there, ['z'] here"
    many = {"a": dict.fromkeys("abcdefg", 1)}
    assert in_words(many, {"a": dict.fromkeys("abcdefg", 2)}).endswith("; and 4 more")


@pytest.mark.parametrize(
    "given", ["last", "runs/last.ckpt", "https://example.org/a.ckpt", "s3://bucket/a", "file:///a/b"]
)
def test_a_path_object_loses_nothing(given: str) -> None:
    """What the parser makes of a text depends on what was imported before."""
    assert as_text(Path(given)) == as_text(given) == given
