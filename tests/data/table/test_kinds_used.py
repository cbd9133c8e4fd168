"""Columns of other kinds from files to answers: a network learns from each, in a checkpoint, an export and a server."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import Trainer

from mtl_lightning import MultiTaskModule, Predictor
from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.callbacks.groups import Groups
from mtl_lightning.cli import main
from mtl_lightning.data import TableData, TargetColumn
from mtl_lightning.serve.body import Expected
from mtl_lightning.types import ConfigurationError, TableSpec

ROWS = 1200
KINDS = {"of_user": "user_id", "of_tags": "tags", "of_place": "place", "of_title": "title"}


def table(rows: int, seed: int) -> dict[str, Any]:
    """A target for each column, which it alone tells, and a column of numbers that tells nothing."""
    worth = np.random.default_rng(0).normal(0, 1, 60)
    random = np.random.default_rng(seed)
    user = random.integers(0, 60, rows)
    tags = [random.integers(0, 20, n) for n in random.integers(1, 5, rows)]
    place = random.normal(0, 3, (rows, 3))
    words = random.integers(0, 40, (rows, 4))
    return {
        "noise": random.normal(0, 1, rows),
        "user_id": [f"u{n}" for n in user],
        "tags": [[f"t{n}" for n in some] for some in tags],
        "place": place.tolist(),
        "title": [" ".join(f"word{n}" for n in some) + f" {i}" for i, some in enumerate(words)],
        "of_user": worth[user],
        "of_tags": [float(worth[some].mean()) for some in tags],
        "of_place": place @ [1.0, -2.0, 0.5],
        "of_title": worth[words].mean(1),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TableData, MultiTaskModule]:
    folder = tmp_path_factory.mktemp("kinds")
    pq.write_table(pa.table(table(ROWS, 1)), folder / "train.parquet")
    data = TableData(
        train=str(folder / "train.parquet"),
        val="0.1 of train",
        targets={name: TargetColumn(kind="number") for name in KINDS},
        hashed={"user_id": 1000},
        batch_size=64,
    )
    torch.manual_seed(0)
    module = MultiTaskModule(
        tasks=data.tasks,
        architecture=partial(SharedBottom, encoder=partial(TabularEncoder, hidden=(64,), embedding=8)),
        input_spec=data.input_spec,
        optimizers={"default": partial(torch.optim.Adam, lr=0.01)},
    )
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=10, **options)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder, data, module


@pytest.fixture(scope="module")
def predictor(run: tuple[Path, TableData, MultiTaskModule]) -> Predictor:
    return Predictor.from_checkpoint(run[0] / "last.ckpt")


def values(answers: Any) -> Any:
    return np.stack([answers[name]["value"] for name in KINDS], 1)


def test_what_is_guessed_and_declared_is_what_the_network_is_given(
    run: tuple[Path, TableData, MultiTaskModule],
) -> None:
    spec = run[1].input_spec
    assert isinstance(spec, TableSpec)
    assert spec.numeric == ("noise", "place[0]", "place[1]", "place[2]")
    assert [*spec.categorical] == ["user_id"]
    assert [*spec.lists] == ["tags", "title"]


@pytest.mark.parametrize("task", KINDS)
def test_a_network_learns_from_each_kind(task: str, predictor: Predictor) -> None:
    """Of new rows, at least 70 % of the variance; without the column, nothing of it."""
    rows = table(500, 2)
    wanted = np.array(rows[task])
    left = np.mean((predictor(rows)[task]["value"] - wanted) ** 2) / wanted.var()
    assert left < 0.3
    predictor.on_unknown = "ignore"
    blind = np.mean((predictor({n: c for n, c in rows.items() if n != KINDS[task]})[task]["value"] - wanted) ** 2)
    predictor.on_unknown = "warn"
    assert blind / wanted.var() > 0.7


def test_answers_do_not_depend_on_where_rows_come_from(predictor: Predictor, tmp_path: Path) -> None:
    columns = table(50, 3)
    arrow = pa.table(columns)
    pq.write_table(arrow, tmp_path / "t.parquet")
    expected = values(predictor(arrow))
    for rows in (columns, arrow.to_pylist(), arrow.to_pandas(), str(tmp_path / "t.parquet")):
        np.testing.assert_allclose(values(predictor(rows)), expected, rtol=1e-5, atol=1e-5)
    one = values(predictor(arrow.slice(0, 1).to_pylist()[0]))  # a dict with lists is one row
    np.testing.assert_allclose(one, expected[:1], rtol=1e-5, atol=1e-5)


def test_what_training_never_saw_is_reported(predictor: Predictor) -> None:
    row = {"noise": 0.0, "user_id": "nobody", "tags": ["t1", "?!"], "place": [1e6, 0, 0], "title": "Quagga"}
    with pytest.warns(UserWarning, match="expected rows like those of training"):
        report = predictor([row]).report
    assert {(one.column, one.kind) for one in report.columns} == {
        ("user_id", "unseen"), ("tags", "unseen"), ("place", "outside"), ("title", "unseen"),
    }  # fmt: skip


def test_an_export_answers_as_the_checkpoint(
    run: tuple[Path, TableData, MultiTaskModule], predictor: Predictor
) -> None:
    folder = run[0]
    main(["export", "--ckpt_path", str(folder / "last.ckpt"), "--out", str(folder / "out")])
    rows = pa.table(table(100, 4)).to_pylist()
    exported = Predictor.from_export(folder / "out")
    np.testing.assert_allclose(values(exported(rows)), values(predictor(rows)), rtol=1e-4, atol=1e-4)
    card = (folder / "out" / "README.md").read_text()
    assert "Of other kinds: user_id (hashed of user_id)" in card
    assert "title (text of title)" in card


def test_a_server_takes_lists_and_says_what_is_none(predictor: Predictor) -> None:
    expected = Expected(predictor.description)
    assert [*expected.example] == expected.columns
    assert expected.example["tags"] == ["t0", "t1"]
    assert expected.mistakes([expected.example])[0] == []
    wrong, _ = expected.mistakes([{**expected.example, "tags": [["t1"]], "place": [1, 2]}])
    assert [one["column"] for one in wrong] == ["tags", "place"]
    assert wrong[0]["message"].startswith("row 1, column 'tags': expected a list of texts or numbers, or a text that")
    assert wrong[1]["message"] == "row 1, column 'place': expected a list of 3 numbers or null, found [1, 2]"


def test_hashed_ids_make_no_groups_of_intervals(run: tuple[Path, TableData, MultiTaskModule]) -> None:
    with pytest.raises(ConfigurationError, match=r"expected a column of categories, one of .*found 'user_id'"):
        Groups.of(run[2], "user_id")


def test_all_of_it_can_be_said_in_yaml(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = {**table(80, 5), "friend": [f"u{n % 7}" for n in range(80)], "genres": ["a|b", "c"] * 40}
    pq.write_table(pa.table(written), tmp_path / "t.parquet")
    (tmp_path / "run.yaml").write_text(
        f"""
data:
  class_path: TableData
  init_args:
    path: {tmp_path / "t.parquet"}
    targets: [of_user]
    ignore: [of_*]
    hashed: {{user_id: 500}}
    share: {{user: [user_id, friend]}}
    lists: {{genres: "|", tags: {{length: 2, buckets: 100}}}}
    vectors: [place]
    text: {{title: {{buckets: 50, length: 9, ngrams: null}}}}
    min_count: {{user_id: 2, "g*": 3}}
model:
  architecture: {{class_path: SharedBottom, init_args: {{encoder: {{class_path: TabularEncoder}}}}}}
trainer: {{max_epochs: 1, accelerator: cpu, devices: 1, logger: false, enable_progress_bar: false,
  default_root_dir: {tmp_path}}}
"""
    )
    with caplog.at_level("INFO"):
        main(["fit", "--config", str(tmp_path / "run.yaml")])
    said = caplog.text
    assert "more codes: user_id (hashed into 500 buckets), friend (hashed into 500 buckets)" in said
    assert "genres (at most 2 elements, 3 different)" in said
    assert "tags (at most 2 elements, hashed into 100 buckets)" in said
