"""Tables of columns that people write, in all storages: the numbers that were meant, or which cell is none."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from mtl_lightning.data import Streaming, TableData, TableSplit
from mtl_lightning.types import MtlLightningError
from tests.fuzz.cases import MOST_LINES, for_each, sizes

ROWS, TRAIN = 160, 120
MARKS = ["", "NA", "N/A", "null", "NULL", "None", "NaN", "nan", "-", "#N/A"]
STRANGERS = ["oops", "12x", "1e999", "?", "1.2.3", "--", "0x1F", "1_000", "unknown"]
"""Cells that are no numbers."""
NOTATIONS: dict[str, Callable[[float], str]] = {
    "plain": lambda value: f"{value:.2f}",
    "scientific": lambda value: f"{value:.6e}",
    "thousands": lambda value: f"{value:,.2f}",
    "points": lambda value: f"{value:,.2f}".translate(str.maketrans(",.", ".,")),
    "blanks": lambda value: f"{value:,.2f}".replace(",", " "),
    "decimal comma": lambda value: f"{value:.2f}".replace(".", ","),
    "money": lambda value: f"-${-value:,.2f}" if value < 0 else f"${value:,.2f}",
    "brackets": lambda value: f"({-value:,.2f})" if value < 0 else f"{value:,.2f}",
    "euro": lambda value: f"{value:,.2f} EUR".translate(str.maketrans(",.", ".,")),
    "per cent": lambda value: f"{value:.2f}%",
    "dates": lambda value: (datetime(2001, 1, 1, tzinfo=timezone.utc) + timedelta(days=round(value))).strftime(
        "%Y-%m-%d"
    ),
}


@dataclass(frozen=True)
class Case:
    """A table: how its numbers are written, where they are stored, and what is wrong with them."""

    notation: str
    storage: str
    marks: list[str]
    share: float
    stranger: str | None
    place: int
    column: str
    offset: float
    seed: int

    def numbers(self, random: np.random.Generator) -> NDArray[np.float64]:
        """Return what is meant, to the digits that are written; nan where a cell is missing."""
        values = (random.normal(0, 300, ROWS) + self.offset * (self.notation != "dates")).round(2)
        if self.notation == "dates":
            first = datetime(2001, 1, 1, tzinfo=timezone.utc).timestamp()
            values = first + 86400.0 * values.round()
        elif self.notation == "scientific":
            values = np.array([float(f"{value:.6e}") for value in values])
        return np.where(random.random(ROWS) < self.share, np.nan, values)

    def texts(self, numbers: NDArray[np.float64], random: np.random.Generator) -> list[str]:
        """Return the cells as they are written."""
        written = NOTATIONS[self.notation]
        if self.notation == "dates":
            first = datetime(2001, 1, 1, tzinfo=timezone.utc).timestamp()
            numbers = (numbers - first) / 86400.0
        return [random.choice(self.marks) if np.isnan(value) else written(value) for value in numbers]


CASES = st.builds(
    Case,
    notation=st.sampled_from(list(NOTATIONS)),
    storage=st.sampled_from(["csv", "two csv", "gzip", "tsv", "parquet", "dictionary", "large", "streamed"]),
    marks=st.lists(st.sampled_from(MARKS), min_size=1, max_size=4, unique=True),
    share=st.sampled_from([0.0, 0.02, 0.3]),
    stranger=st.none() | st.sampled_from(STRANGERS),
    place=st.integers(0, ROWS - 1),
    column=st.sampled_from(["x", "y"]),
    offset=st.sampled_from([0.0, 2_000.0, 5e6]),
    seed=st.integers(0, 2**32 - 1),
)


def stored(folder: Path, table: Any, storage: str) -> dict[str, Any]:
    """Write a table of texts; return the arguments that read it."""
    if storage in ("csv", "two csv", "gzip", "tsv"):
        ending = "tsv" if storage == "tsv" else "csv"
        halves = (table.slice(0, 50), table.slice(50)) if storage == "two csv" else (table,)
        for part, rows in enumerate(halves):
            written = pa.BufferOutputStream()
            options = pyarrow.csv.WriteOptions(quoting_style="needed", delimiter="\t" if storage == "tsv" else ",")
            pyarrow.csv.write_csv(rows, written, options)
            content = written.getvalue().to_pybytes()
            packed = gzip.compress(content) if storage == "gzip" else content
            (folder / f"{part}.{ending}{'.gz' * (storage == 'gzip')}").write_bytes(packed)
        return {"path": str(folder / "*")}
    for place, name in enumerate(table.schema.names):
        if storage != "parquet":
            column = table.column(place)
            kind = column.cast(pa.large_string()) if storage == "large" else column.dictionary_encode()
            table = table.set_column(place, name, kind)
    pq.write_table(table, folder / "t.parquet", row_group_size=70)
    return {"path": str(folder / "t.parquet"), "stream": Streaming(buffer_rows=50) if storage == "streamed" else False}


def check(case: Case) -> None:
    random = np.random.default_rng(case.seed)
    meant = {name: case.numbers(random) for name in ("x", "y")}
    cells = {name: case.texts(values, random) for name, values in meant.items()}
    if case.stranger is not None:
        cells[case.column][case.place] = case.stranger
    fold = ["train"] * TRAIN + ["val"] * (ROWS - TRAIN)
    table = pa.table({**cells, "colour": random.choice(["red", "blue"], ROWS), "fold": fold})
    with TemporaryDirectory() as name:
        data = TableData(
            targets=["y"], split=TableSplit(column="fold"), batch_size=TRAIN, **stored(Path(name), table, case.storage)
        )
        try:
            _ = data.schema
            data.setup("validate")
            found = list(data.val_dataloader())
        except MtlLightningError as error:
            message = str(error)
            assert case.stranger is not None, f"refused: {message}"
            assert len(message.splitlines()) <= MOST_LINES
            assert repr(case.stranger) in message or (case.stranger == "1e999" and "inf" in message), message
            assert repr(case.column) in message, message
            return
    assert case.stranger is None, f"{case.stranger!r} in row {case.place} of {case.column} was taken without a word"
    for name, values in meant.items():
        mean, std = np.nanmean(values[:TRAIN]), np.nanstd(values[:TRAIN])
        read = [batch["inputs"]["numeric"][:, 0] if name == "x" else batch["targets"]["y"] for batch in found]
        want, scale = ((values - mean) / std, 1.0) if name == "x" else (values, std)
        np.testing.assert_allclose(torch.cat(read), want[TRAIN:], rtol=1e-6, atol=1e-6 * scale, equal_nan=True)


@sizes(60, 600)
def test_numbers_are_those_that_were_meant_or_the_cell_is_named(number: int) -> None:
    for_each(number, CASES, check)
