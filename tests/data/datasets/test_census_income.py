from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtl_lightning.data import CensusIncome
from mtl_lightning.data.datasets import census_income
from mtl_lightning.encoding.reader import TableFiles
from mtl_lightning.tasks import BinaryClassification
from mtl_lightning.types import DataError, TableSpec
from tests.data.datasets.test_table import whole
from tests.data.make_tables import CENSUS, write_census
from tests.data.shared import layout, shared

COLLEGE = ("Associates", "Bachelors", "Masters", "Prof school", "Doctorate")


def spec(data: CensusIncome) -> TableSpec:
    assert isinstance(data.input_spec, TableSpec)
    return data.input_spec


def cells(path: Path) -> list[list[str]]:
    with gzip.open(path, "rt") as file:
        return [[cell.strip() for cell in row] for row in csv.reader(file)]


def test_the_features_are_the_papers(tmp_path: Path) -> None:
    root = write_census(tmp_path)
    assert (len(spec(CensusIncome(root=root)).categorical), len(spec(CensusIncome(root=root)).numeric)) == (31, 7)
    for group in ("income", "education", "all"):
        names = {*spec(CensusIncome(root=root, group=group)).categorical}
        assert not names & {"income", "education", "marital stat", "instance weight"}
        assert len(names) == 31
    strict = spec(CensusIncome(root=root, strict=True))
    assert len(strict.categorical) == 28
    assert not [name for name in strict.categorical if "household" in name or "tax" in name]
    both = spec(CensusIncome(root=root, embed_numbers=True))
    assert len(both.categorical) == 38
    assert both.categorical["age"] > 20
    rare = spec(CensusIncome(root=root, embed_numbers=True, min_count=10))
    assert rare.categorical["age"] == 1


def test_labels_and_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    data = CensusIncome(root=write_census(tmp_path), group="all")
    assert {name: type(task) for name, task in data.tasks.items()} == dict.fromkeys(
        ("income", "education", "never_married"), BinaryClassification
    )
    rows, batch = cells(tmp_path / "census-income.data.gz"), whole(data, "train")
    assert batch["targets"]["income"].tolist() == [int(row[41] == "50000+.") for row in rows]
    assert batch["targets"]["never_married"].tolist() == [int(row[7] == "Never married") for row in rows]
    assert batch["targets"]["education"].tolist() == [int(row[4].startswith(COLLEGE)) for row in rows]
    wage = np.log1p([float(row[5]) for row in rows])
    column = batch["inputs"]["numeric"][:, list(spec(data).numeric).index("wage per hour")]
    np.testing.assert_allclose(column, (wage - wage.mean()) / wage.std(), rtol=1e-5)
    assert "Foreign born- Not a citizen of U S" in data.schema["categorical"]["citizenship"]  # without its last blank
    assert {"?", "Nonmover"} < {*data.schema["categorical"]["migration code-change in msa"]}
    assert "NA" in data.schema["categorical"]["hispanic origin"]


def test_the_test_file_is_halved_by_a_fixed_permutation(tmp_path: Path) -> None:
    data = CensusIncome(root=write_census(tmp_path, test=61), seed=5)
    rows = cells(tmp_path / "census-income.test.gz")
    order = np.random.default_rng(0).permutation(61)
    for split, part in (("val", np.sort(order[:30])), ("test", np.sort(order[30:]))):
        batch = whole(data, split)
        assert batch["targets"]["income"].tolist() == [int(rows[i][41] == "50000+.") for i in part]
        known = data.schema["numeric"]["age"]
        age = torch.expm1(batch["inputs"]["numeric"][:, 0].double() * known["std"] + known["mean"])
        assert age.round().int().tolist() == [int(rows[i][0]) for i in part]


def test_files_need_not_be_compressed_and_a_folder_of_data_is_left_as_it_is(tmp_path: Path) -> None:
    write_census(tmp_path / "a")
    write_census(tmp_path / "b", compressed=False)
    a, b = (CensusIncome(root=tmp_path / name) for name in "ab")
    assert a.schema == b.schema
    assert layout(tmp_path / "b") == {"census-income.data", "census-income.test"}


def test_the_generator_has_the_real_layout() -> None:
    folder = shared("fixtures/census_income")
    data = CensusIncome(root=folder)
    assert [len(data.rows(split)) for split in ("train", "val", "test")] == [120, 30, 30]
    columns = json.loads((shared("census") / "schema.json").read_text())
    assert [column["name"] for column in columns] == census_income.COLUMNS
    assert [column["name"] for column in columns if column["kind"] == "numeric"] == census_income.NUMERIC
    positive = {value for target in census_income.TARGETS.values() for value in target.positive or []}
    assert positive <= {value for column in columns for value in column.get("values", [])}
    for made, column in zip(CENSUS, columns, strict=True):
        if column["kind"] == "categorical":
            assert {str(value).strip() for value in made} <= {value.strip() for value in column["values"]}


# ------------------------------------------------------------------------------------------------------------- download
@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive as UCI has it, of made files, where the class looks for it."""
    files = write_census(tmp_path / "made", compressed=False)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in census_income.SHA256:
            tar.add(files / name, name)
    with zipfile.ZipFile(tmp_path / "uci.zip", "w") as archive:
        archive.writestr("census.tar.gz", packed.getvalue())
    sums = {name: hashlib.sha256((files / name).read_bytes()).hexdigest() for name in census_income.SHA256}
    monkeypatch.setattr(census_income, "URL", (tmp_path / "uci.zip").as_uri())
    monkeypatch.setattr(census_income, "SHA256", sums)
    return tmp_path


def test_the_archive_is_fetched_and_unpacked(published: Path) -> None:
    data = CensusIncome(root=published / "root")
    assert data.schema == CensusIncome(root=published / "made").schema
    with pytest.raises(DataError, match=r"or these with .gz, found neither. Get file://.*uci.zip by hand"):
        _ = CensusIncome(root=published / "none", download=False).schema


@pytest.mark.parametrize("broken", ["the sums", "the archive"])
def test_another_archive_is_an_error_that_says_what_to_do_by_hand(
    published: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    message = "census-income.data: expected the sha256 0000"
    if broken == "the sums":
        monkeypatch.setitem(census_income.SHA256, "census-income.data", "0" * 64)
    else:
        content = (published / "uci.zip").read_bytes()
        (published / "uci.zip").write_bytes(content[: len(content) // 2])
        message = "zip"
    for _ in range(2):  # the second time too: nothing wrong may be taken for the data
        with pytest.raises(DataError, match=f"{message}.* by hand, unpack it"):
            _ = CensusIncome(root=published / "root").schema
    assert not any((published / "root" / name).is_file() for name in census_income.SHA256)


# ------------------------------------------------------------------------------------------------------- the real files
@pytest.mark.slow
def test_the_real_files_have_the_published_counts() -> None:
    data: Any = CensusIncome(root=shared("census"), group="all")
    rows = {split: data.rows(split) for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in rows.items()} == {"train": 199_523, "val": 49_881, "test": 49_881}
    positives = {task: int(rows["test"].target(task).sum()) for task in data.tasks}
    assert positives == {"income": 3_075, "education": 9_694, "never_married": 21_581}


def test_each_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    batches = TableFiles._batches

    def noted(self: TableFiles, file: Path, columns: Any) -> Any:
        read.append(file.name)
        return batches(self, file, columns)

    monkeypatch.setattr(TableFiles, "_batches", noted)
    data = CensusIncome(root=write_census(tmp_path))
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert next(iter(loader))["inputs"]["categorical"].shape[1] == 31
    assert sorted(read) == ["census-income.data.gz", "census-income.test.gz"]
