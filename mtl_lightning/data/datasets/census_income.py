"""Census-Income (KDD): the multi-task benchmark of MMoE, from the files as UCI publishes them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mtl_lightning.data.base import TaskOverrides
from mtl_lightning.data.datasets.table import TableData
from mtl_lightning.data.files import check_sha256, download, unpack
from mtl_lightning.data.table.encoder import TableEncoder
from mtl_lightning.data.table.split import SPLITS
from mtl_lightning.data.table.target_column import TargetColumn
from mtl_lightning.encoding.reader import TableFiles
from mtl_lightning.types import DataError

NUMERIC = [
    "age", "wage per hour", "capital gains", "capital losses", "dividends from stocks",
    "num persons worked for employer", "weeks worked in year",
]  # fmt: skip
WEIGHT = "instance weight"
COLUMNS = [
    "age", "class of worker", "detailed industry recode", "detailed occupation recode", "education", "wage per hour",
    "enroll in edu inst last wk", "marital stat", "major industry code", "major occupation code", "race",
    "hispanic origin", "sex", "member of a labor union", "reason for unemployment",
    "full or part time employment stat", "capital gains", "capital losses", "dividends from stocks", "tax filer stat",
    "region of previous residence", "state of previous residence", "detailed household and family stat",
    "detailed household summary in household", WEIGHT, "migration code-change in msa",
    "migration code-change in reg", "migration code-move within reg", "live in this house 1 year ago",
    "migration prev res in sunbelt", "num persons worked for employer", "family members under 18",
    "country of birth father", "country of birth mother", "country of birth self", "citizenship",
    "own business or self employed", "fill inc questionnaire for veteran's admin", "veterans benefits",
    "weeks worked in year", "year", "income",
]  # fmt: skip
LEAKING = ["detailed household and family stat", "detailed household summary in household", "tax filer stat"]
TARGETS = {
    "income": TargetColumn(column="income", positive=["50000+."]),
    "education": TargetColumn(
        column="education",
        positive=[
            "Associates degree-occup /vocational", "Associates degree-academic program", "Bachelors degree(BA AB BS)",
            "Masters degree(MA MS MEng MEd MSW MBA)", "Prof school degree (MD DDS DVM LLB JD)",
            "Doctorate degree(PhD EdD)",
        ],
    ),
    "never_married": TargetColumn(column="marital stat", positive=["Never married"]),
}  # fmt: skip
GROUPS = {
    "income": ["income", "never_married"],
    "education": ["education", "never_married"],
    "all": ["income", "education", "never_married"],
}
URL = "https://archive.ics.uci.edu/static/public/117/census+income+kdd.zip"
SHA256 = {
    "census-income.data": "3676a81db7d3528f3f8b9f3c699d0f0aa28db45e6e994fa0b8ed38327539ee86",
    "census-income.test": "98402b1ab879573d0a7f38a699a40258080e25e33d3401e7bf9c96d3fa0fab8c",
}


class CensusIncome(TableData):
    """UCI's `Census-Income (KDD) <https://doi.org/10.24432/C5N30T>`_: 199,523 people for training, 99,762 for
    validation and test, from the US censuses of 1994 and 1995 (CC BY 4.0).

    Tasks are yes-or-no, as in `Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts
    <https://dl.acm.org/doi/10.1145/3219819.3220007>`_ (Ma et al., 2018, section 6.3): ``income`` (over 50,000 dollars;
    6.2 % of the people), ``never_married`` (43 %) and ``education`` (a college degree, associate's or higher; 20 %).
    The features are that paper's 38: all columns but income, education, marital status and the instance weight, which
    UCI says is no feature. 31 are categorical; the 7 numeric ones are standardised after log(1 + x).

    The people of UCI's test file are halved at random into validation and test, always in the same way: the first half
    of ``numpy.random.default_rng(0).permutation`` is validation. The paper halves likewise, but gives no seed.

    What to know of the data:

    - Three columns on households and taxes nearly tell ``never_married``, whence AUCs above 0.99. ``strict`` leaves
      them out.
    - The paper says "at least college"; counted from the associate's degrees on, its correlation with
      ``never_married`` is nearest to the one that the paper gives (0.24).
    - The paper's tasks come in two pairs; the group ``all`` is our own.

    Args:
        root: the folder with ``census-income.data`` and ``census-income.test``, or these with ``.gz``.
        group: the tasks: ``"income"`` or ``"education"``, each with ``never_married``, or ``"all"`` three.
        strict: leave out the three columns that nearly tell ``never_married``: 28 categorical ones stay.
        embed_numbers: give the numeric columns as categories as well, so that a network can learn any function of
            them.
        min_count: a category with fewer training rows than this counts as not met in training.
        download: fetch UCI's archive if the files are not there.
        batch_size: rows of a batch of one process.
        tasks: other tasks for declared names, as functions of the ``TargetSpec``; None removes a task.
        seed: of the order of the training rows.
        num_workers: processes that read rows ahead.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Raises:
        DataError: if the files are neither there nor to be had, or are not UCI's.
    """

    def __init__(
        self,
        *,
        root: str | Path = "data/census",
        group: Literal["income", "education", "all"] = "income",
        strict: bool = False,
        embed_numbers: bool = False,
        min_count: int = 1,
        download: bool = True,
        batch_size: int = 1024,
        tasks: TaskOverrides | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        answers = {target.column for target in TARGETS.values()}
        left_out = [WEIGHT, *sorted(str(column) for column in answers), *(LEAKING if strict else [])]
        targets = {task: TARGETS[task] for task in GROUPS[group]}
        used = {target.column for target in targets.values()}
        super().__init__(
            targets=targets,
            categorical=[name for name in COLUMNS if embed_numbers or name not in NUMERIC if name not in left_out],
            numeric=NUMERIC,
            log1p=NUMERIC,
            ignore=[name for name in left_out if name not in used],
            usual_missing=False,  # "NA" is an answer of its own here
            min_count=min_count,
            header=COLUMNS,
            batch_size=batch_size,
            tasks=tasks,
            seed=seed,
            num_workers=num_workers,
            drop_last=drop_last,
        )
        self.folder, self.download = Path(root), download
        self.paths |= {"train": self._file("census-income.data"), "path": self._file("census-income.test")}
        self.root = None if self._is_there() else self.folder  # a lock, which may not be written, is for preparing

    def prepare_data(self) -> None:
        """Fetch and unpack UCI's archive where its files are not there."""
        if self._is_there():
            return
        by_hand = (
            f"Get {URL} by hand, unpack it and the census.tar.gz in it, and put census-income.data and "
            f"census-income.test into {self.folder}."
        )
        if not self.download:
            both = " and ".join(SHA256)
            raise DataError(f"{self.folder}: expected {both}, or these with .gz, found neither. {by_hand}")
        try:
            archive = download(URL, self.folder / "census+income+kdd.zip")
            unpack(archive, self.folder)
            unpack(self.folder / "census.tar.gz", self.folder / "census")
            for name, expected in SHA256.items():
                check_sha256(self.folder / "census" / name, expected)
            for name in SHA256:  # they are in place only when they are known to be right
                (self.folder / "census" / name).replace(self.folder / name)
        except DataError as error:
            raise DataError(f"{error} {by_hand}") from error

    def assign(self, files: TableFiles) -> NDArray[np.int8]:
        """Halve the rows of the test file."""
        columns = TableEncoder(self.schema, self.missing_labels).needed(targets=True)  # which are kept, to be encoded
        rows = sum(piece.rows.num_rows for piece in self._read_once.keeping("path", columns, files.pieces(columns)))
        half = rows // 2
        halves = np.full(rows, SPLITS.index("test"), dtype=np.int8)
        halves[np.random.default_rng(0).permutation(rows)[:half]] = SPLITS.index("val")
        return halves

    def _is_there(self) -> bool:
        return all(self._file(name).is_file() for name in SHA256)

    def _file(self, name: str) -> Path:
        """Return where a file is: as UCI names it, or compressed."""
        plain = self.folder / name
        compressed = plain.with_name(f"{name}.gz")
        return compressed if compressed.is_file() and not plain.is_file() else plain
