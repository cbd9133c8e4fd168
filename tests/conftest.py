"""Settings of the whole suite."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

from mtl_lightning.core.network.fast_paths import VARIABLE
from tests import programs

_numbers = count()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer to run everything, other processes too, without the ways that are there for speed alone."""
    parser.addoption("--plain", action="store_true", help="switch all fast paths off")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--plain"):
        os.environ[VARIABLE] = "0"


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed() -> Iterator[None]:
    """Small networks run faster on one thread, and every test starts from the same state of torch."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)  # `Trainer(deterministic=True)` leaves it on


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder of the test's own. Pytest's fixture looks through all others first: that takes longer than a test."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    path = tmp_path_factory.getbasetemp() / f"{next(_numbers)}-{name}"
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs write their logs into the current folder."""
    monkeypatch.chdir(tmp_path)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from looking through thousands of collected tests again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    programs.stop()
