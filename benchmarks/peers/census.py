"""Census-Income for every peer: the same rows, columns and halves, read with pandas; sizes of the network; the AUC.

It is imported by the scripts beside it, which run in environments of their own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from record import TASKS

NUMERIC = [
    "age", "wage per hour", "capital gains", "capital losses", "dividends from stocks",
    "num persons worked for employer", "weeks worked in year",
]  # fmt: skip
COLUMNS = [
    "age", "class of worker", "detailed industry recode", "detailed occupation recode", "education", "wage per hour",
    "enroll in edu inst last wk", "marital stat", "major industry code", "major occupation code", "race",
    "hispanic origin", "sex", "member of a labor union", "reason for unemployment",
    "full or part time employment stat", "capital gains", "capital losses", "dividends from stocks", "tax filer stat",
    "region of previous residence", "state of previous residence", "detailed household and family stat",
    "detailed household summary in household", "instance weight", "migration code-change in msa",
    "migration code-change in reg", "migration code-move within reg", "live in this house 1 year ago",
    "migration prev res in sunbelt", "num persons worked for employer", "family members under 18",
    "country of birth father", "country of birth mother", "country of birth self", "citizenship",
    "own business or self employed", "fill inc questionnaire for veteran's admin", "veterans benefits",
    "weeks worked in year", "year", "income",
]  # fmt: skip
CATEGORICAL = [
    name for name in COLUMNS if name not in {*NUMERIC, "education", "marital stat", "instance weight", "income"}
]
EPOCHS, BATCH, RATE, EMBEDDING, TRUNK, TOWER = 2, 1024, 1e-3, 8, (256, 128), 64


def read(root: str) -> dict[str, pd.DataFrame]:
    """Return the rows of ``train``, ``val`` and ``test``: 31 columns of strings, 7 of numbers as log(1 + x), 2 tasks.

    The halves of UCI's test file are those of ``mtl_lightning.data.CensusIncome``.
    """

    def file(name: str) -> pd.DataFrame:
        path = next(path for path in (Path(root, name), Path(root, f"{name}.gz")) if path.is_file())
        rows = pd.read_csv(
            path, header=None, names=COLUMNS, skipinitialspace=True, keep_default_na=False,
            dtype=dict.fromkeys(CATEGORICAL, "str"),
        )  # fmt: skip
        rows["income"] = (rows["income"] == "50000+.").astype("int64")
        rows["never_married"] = (rows["marital stat"] == "Never married").astype("int64")
        rows[NUMERIC] = np.log1p(rows[NUMERIC].astype("float64"))
        return rows[[*CATEGORICAL, *NUMERIC, *TASKS]]

    train, others = file("census-income.data"), file("census-income.test")
    order = np.random.default_rng(0).permutation(len(others))
    half = len(others) // 2
    return {"train": train, "val": others.iloc[np.sort(order[:half])], "test": others.iloc[np.sort(order[half:])]}


def codes(frames: dict[str, pd.DataFrame]) -> tuple[dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], list[int]]:
    """Return codes (0: not in training), standardised numbers and labels by split, and how many codes there are."""
    train = frames["train"]
    known = {name: pd.Index(np.sort(train[name].unique())) for name in CATEGORICAL}
    mean, scale = train[NUMERIC].mean(), train[NUMERIC].std(ddof=0)
    made = {
        split: (
            np.stack([known[name].get_indexer(rows[name]) + 1 for name in CATEGORICAL], axis=1),
            ((rows[NUMERIC] - mean) / scale).to_numpy("float32"),
            rows[TASKS].to_numpy("float32"),
        )
        for split, rows in frames.items()
    }
    return made, [len(values) + 1 for values in known.values()]


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve; ties count a half."""
    values, inverse, counts = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positive = np.asarray(labels) == 1
    pairs = positive.sum() * (~positive).sum()
    assert len(values)
    return float((ranks[positive].sum() - positive.sum() * (positive.sum() + 1) / 2) / pairs)
