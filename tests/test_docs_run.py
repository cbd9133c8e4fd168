"""What the README and the docstrings show runs as it stands."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import mtl_lightning
from tests.cli import CONFIGS, run

PACKAGE = Path(mtl_lightning.__file__).parent
README = (CONFIGS.parent / "README.md").read_text()
SHOWN = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>>" in path.read_text()]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_run(path: Path) -> None:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_notebook_form_runs() -> None:
    (code,) = blocks("python")
    short = code.replace("max_epochs=5", "max_epochs=1, limit_train_batches=2, limit_val_batches=1, accelerator='cpu'")
    assert short != code
    names: dict[str, object] = {}
    exec(compile(short, "README.md", "exec"), names)
    assert isinstance(names["module"], mtl_lightning.MultiTaskModule)
    assert set(names["module"].sigmas()) == {"left", "right"}


*LESSONS, TABLE = blocks("yaml")


@pytest.mark.parametrize("text", LESSONS, ids=["lesson 1", "lesson 2", "lesson 3"])
def test_the_lessons_lines_run(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lesson.yaml").write_text(text)
    options = ["--trainer.fast_dev_run=true", "--trainer.accelerator=cpu"]
    run(monkeypatch, "fit", "--config", str(CONFIGS / "multidigit.yaml"), "--config", "lesson.yaml", *options)


def test_the_readme_shows_a_picture_and_one_line_commands() -> None:
    picture = re.search(r"!\[.*?\]\((.*?)\)", README, flags=re.DOTALL)
    assert picture is not None
    assert (CONFIGS.parent / picture.group(1)).stat().st_size > 10_000
    commands = [block.strip() for block in blocks("bash")]
    assert all(re.match(r"python3 -m venv", command) and "\n" not in command for command in commands[:2])


MODEL = """model: {architecture: {class_path: SharedBottom, init_args: {encoder: {class_path: TabularEncoder}}}}
trainer: {max_epochs: 1, accelerator: cpu}
"""


def test_the_table_trains_and_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "houses").mkdir()
    lines = [
        f"{40 + n % 90},{'north' if n % 3 else 'south'},{100 + n % 90 + n / 7},{n % 2 if n % 5 else ''},{'abc'[n % 3]}"
        for n in range(300)
    ]
    for part in (0, 1):
        (tmp_path / "houses" / f"{part}.csv").write_text("\n".join(["area,place,price,sold,kind", *lines[part::2]]))
    (tmp_path / "new_houses.csv").write_text("place,area\nsouth,50\nwest,61\nnorth,47\n")
    (tmp_path / "table.yaml").write_text(TABLE + MODEL)
    run(monkeypatch, "fit", "--config", "table.yaml")
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    run(
        monkeypatch,
        "predict",
        "--config",
        "table.yaml",
        "--ckpt_path",
        str(checkpoint),
        "--predictions.path=new.parquet",
    )
    predicted = pq.read_table("new.parquet")
    assert predicted.num_rows == 3
    assert {"price", "sold", "kind"} <= {*predicted.column_names}
