"""Loggers that keep each metric in a file of its name get names that can all be files; the others get ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, Logger

from tests.helpers import fit, make_batches, make_module

BATCHES = make_batches(3)


class StoreError(Exception):
    """What a store may make of the system's error."""


class Store(Logger):
    """Writes each metric's values into a file of its name, as the file store of MLflow does."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    @property
    def name(self) -> str:
        return "store"

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing to do."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(f"{step} {float(value)}\n")

    def read(self) -> dict[str, list[tuple[int, float]]]:
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        lines = {str(path.relative_to(self.folder)): path.read_text().split() for path in files}
        return {n: list(zip(map(int, w[::2]), map(float, w[1::2]), strict=True)) for n, w in lines.items()}


class Tracking(Store):
    """One whose errors are its own, and which says where it tracks."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._tracking_uri = f"file:{folder}"

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        try:
            super().log_metrics(metrics, step)
        except OSError as error:
            raise StoreError(str(error)) from error


def trained(*loggers: Logger) -> dict[str, float]:
    """Train and validate, twice with the same loggers; return the names that are monitored."""
    module = make_module()
    for _ in range(2):
        trainer = fit(module, BATCHES, BATCHES, logger=list(loggers), log_every_n_steps=1, num_sanity_val_steps=0)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("cls", [Store, Tracking], ids=["found out", "known"])
def test_a_store_of_files_gets_other_names(cls: type[Store], tmp_path: Path) -> None:
    store, plain = cls(tmp_path / "store"), CSVLogger(tmp_path)
    final = trained(store, plain)
    found = store.read()
    assert {"train/loss", "train/loss.kind", "val/loss", "val/loss.kind", "val/labels.kind"} <= {*found}
    assert found["val/loss"][-1][1] == pytest.approx(final["val/loss"])
    assert found["val/loss.kind"][-1][1] == pytest.approx(final["val/loss/kind"])
    assert {step for step, _ in found["train/loss.kind"]} == {*range(len(BATCHES))}
    (metrics,) = tmp_path.rglob("metrics.csv")
    names = metrics.read_text().splitlines()[0].split(",")
    assert {"train/loss", "train/loss/kind", "val/loss", "val/loss/kind"} <= {*names}
    assert not [name for name in names if "." in name]


def test_a_store_elsewhere_gets_our_names(tmp_path: Path) -> None:
    class Elsewhere(Store):
        _tracking_uri = "https://tracking.example.org"

        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            names.update(metrics)

    names: set[str] = set()
    trained(Elsewhere(tmp_path))
    assert {"train/loss", "train/loss/kind"} <= names
    assert not [name for name in names if "." in name]


def test_without_other_names_such_a_store_fails(tmp_path: Path) -> None:
    """So that the tests above are about something."""
    with pytest.raises(OSError, match="train/loss"):
        Store(tmp_path).log_metrics({"train/loss": 1.0, "train/loss/kind": 1.0}, step=0)
