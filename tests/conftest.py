"""Settings of the whole suite.

The process that hands the tests out to others runs none: nothing here imports torch before tests are collected.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

LONG = (
    "tests/study/test_compare.py",
    "tests/conformance/test_every_balancer.py",
    "tests/study/test_search.py",
    "tests/test_notebooks.py",
    "tests/test_toy_problem.py",
)
"""Files whose few tests take more than ten seconds; none that measures time, since the first minutes are busy."""
_numbers = count()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer to run everything, other processes too, without the ways that are there for speed alone."""
    parser.addoption("--plain", action="store_true", help="switch all fast paths off")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--plain"):
        from mtl_lightning.core.network.fast_paths import VARIABLE

        os.environ[VARIABLE] = "0"


@pytest.fixture(autouse=True)
def _one_thread_one_seed_and_logs() -> Iterator[None]:
    """Small networks run faster on one thread; every test starts from the same state of torch, and hears Lightning."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.getLogger("lightning.pytorch").propagate = True  # else `caplog` is empty, if Lightning came before handlers
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


@pytest.hookimpl(trylast=True)  # without what is deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, then those of most tests: no process waits for another one's at the end."""
    numbers = Counter(item.location[0] for item in items)
    items.sort(key=lambda item: (item.location[0] not in LONG, -numbers[item.location[0]]))


def pytest_collection_finish() -> None:
    """Keep the garbage collector from looking through thousands of collected tests again and again."""
    import torch

    from tests import programs  # noqa: F401  # what it changes in Lightning holds for every test

    torch.set_num_threads(1)  # a module's fixtures are made before those of its first test
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    if "tests.programs" in sys.modules:
        sys.modules["tests.programs"].stop()
