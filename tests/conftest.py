"""Settings of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests import programs


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed() -> Iterator[None]:
    """Small networks run faster on one thread, and every test starts from the same state of torch."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)  # `Trainer(deterministic=True)` leaves it on


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs write their logs into the current folder."""
    monkeypatch.chdir(str(tmp_path))


def pytest_sessionfinish() -> None:
    programs.stop()
