"""Who runs which cell: every cell once, whoever is killed, on a real database."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mtl_lightning.study.grid import Cell
from mtl_lightning.study.process import FailedError, LostError, run_apart
from mtl_lightning.study.queue import Queue
from mtl_lightning.study.storage import open_study

CELLS = [Cell("entry", "", seed, {"seed": seed}) for seed in range(5)]
Run = Callable[[Cell, Any, Callable[[Any], None]], dict[str, Any]]


def queue_in(folder: Path, run: Run, patience: float = 30.0) -> Queue:
    return Queue(open_study(f"sqlite:///{folder / 'study.db'}", "s", 1), CELLS, run, print, patience)


def result(cell: Cell) -> dict[str, Any]:
    return {"values": [float(cell.seed)], "told": "well"}


def write_down(folder: Path, slow: float = 0.0) -> Run:
    def run(cell: Cell, trial: Any, watch: Callable[[Any], None]) -> dict[str, Any]:
        with (folder / "ran.txt").open("a") as file:
            file.write(f"{cell.seed}\n")
        time.sleep(slow)
        return result(cell)

    return run


def ran(folder: Path) -> Counter[int]:
    return Counter(map(int, (folder / "ran.txt").read_text().split()))


def work(folder: Path, slow: float) -> None:
    """Be another process with the same command."""
    queue_in(folder, write_down(folder, slow)).work(1)


def test_processes_that_start_at_once_share_the_grid(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    other = context.Process(target=work, args=(tmp_path, 0.1))
    other.start()
    trials = queue_in(tmp_path, write_down(tmp_path, 0.1)).work(2)
    other.join(60)
    assert other.exitcode == 0
    assert ran(tmp_path) == Counter({cell.seed: 1 for cell in CELLS})
    assert {trial.user_attrs["result"]["values"][0] for trial in trials.values()} == {float(c.seed) for c in CELLS}


def test_a_trial_is_taken_once_without_locks_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two look at its state before either of them changes it."""
    import optuna

    queue = queue_in(tmp_path, write_down(tmp_path))
    queue._enqueue_missing([CELLS[0].key])
    checks = optuna.storages.RDBStorage.check_trial_is_updatable

    def slowly(*arguments: Any) -> None:
        checks(*arguments)
        time.sleep(0.3)

    monkeypatch.setattr(optuna.storages.RDBStorage, "check_trial_is_updatable", slowly)
    with ThreadPoolExecutor(2) as pool, pytest.warns(UserWarning, match="Heartbeat"):
        taken = [future.result().number for future in [pool.submit(queue.study.ask) for _ in range(2)]]
    assert sorted(taken) == [0, 1]  # the second one is new, since there is none to be taken


def test_a_killed_process_loses_the_trial_that_it_ran_alone(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    killed = context.Process(target=work, args=(tmp_path, 0.3))
    killed.start()
    while not (tmp_path / "ran.txt").exists() or sum(ran(tmp_path).values()) < 3:
        time.sleep(0.05)
    os.kill(killed.pid or 0, signal.SIGKILL)
    killed.join()
    before = ran(tmp_path)
    assert queue_in(tmp_path, write_down(tmp_path)).work(1).keys() == {cell.key for cell in CELLS}
    again = [seed for seed, times in ran(tmp_path).items() if times > 1]
    assert len(again) <= 1  # the one under way; none if it was killed between two
    assert set(again) <= {max(before)}


def test_a_trial_that_was_taken_and_never_begun_is_run(tmp_path: Path) -> None:
    queue = queue_in(tmp_path, write_down(tmp_path), patience=0.5)
    queue._enqueue_missing([cell.key for cell in CELLS])
    with pytest.warns(UserWarning, match="Heartbeat"):  # it has none here
        taken = queue.study.ask()
    trials = queue.work(1)
    assert ran(tmp_path) == Counter({cell.seed: 1 for cell in CELLS})
    assert queue.study.trials[taken.number].state.name == "FAIL"
    assert len(trials) == len(CELLS)


def test_a_failure_is_kept_with_its_message_and_not_run_again_unless_asked(tmp_path: Path) -> None:
    calls: Counter[int] = Counter()

    def run(cell: Cell, trial: Any, watch: Callable[[Any], None]) -> dict[str, Any]:
        calls[cell.seed] += 1
        if cell.seed == 3 and calls[3] == 1:
            raise FailedError("Expected more, found less.")
        return result(cell)

    trials = queue_in(tmp_path, run).work(1)
    assert trials[CELLS[3].key].user_attrs["message"] == "Expected more, found less."
    assert trials[CELLS[3].key].state.name == "FAIL"
    queue_in(tmp_path, run).work(1)
    assert set(calls.values()) == {1}
    again = queue_in(tmp_path, run)
    again.forget_failures()
    assert again.work(1)[CELLS[3].key].state.name == "COMPLETE"
    assert calls == Counter({**dict.fromkeys(range(5), 1), 3: 2})


def test_a_trial_whose_own_process_is_killed_gets_three_lives(tmp_path: Path) -> None:
    calls: Counter[int] = Counter()

    def run(cell: Cell, trial: Any, watch: Callable[[Any], None]) -> dict[str, Any]:
        calls[cell.seed] += 1
        if cell.seed == 1 or (cell.seed == 2 and calls[2] == 1):
            raise LostError("its process ended with signal 9 and without a result")
        return result(cell)

    trials = queue_in(tmp_path, run).work(1)
    assert (calls[1], calls[2]) == (3, 2)
    assert "signal 9" in trials[CELLS[1].key].user_attrs["message"]
    assert trials[CELLS[2].key].state.name == "COMPLETE"


def test_an_interrupted_command_leaves_its_trial_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        if (tmp_path / "begun").exists():
            raise KeyboardInterrupt

    def endless(cell: Cell, trial: Any, watch: Callable[[Any], None]) -> dict[str, Any]:
        found: dict[str, Any] = run_apart(sleep, tmp_path, started=watch)
        return found

    with monkeypatch.context() as patch:
        patch.setattr("mtl_lightning.study.queue.time.sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            queue_in(tmp_path, endless).work(1)
    assert len(queue_in(tmp_path, write_down(tmp_path)).work(1)) == len(CELLS)


def sleep(folder: Path) -> None:
    (folder / "begun").touch()
    time.sleep(600)


# ------------------------------------------------------------------------------------------------- a process of its own
def count_down(start: int, ask: Callable[[Any], Any]) -> int:
    while not ask(start):
        start -= 1
    return start


def fail() -> None:
    raise ValueError("no such thing")


def vanish() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def speak(text: str) -> tuple[str, int]:
    import torch

    print(text)  # noqa: T201  # what is to be found in the file
    return text, torch.get_num_threads()


def test_a_function_in_its_own_process(tmp_path: Path) -> None:
    assert run_apart(speak, "hello", output=tmp_path / "said.txt", threads=3) == ("hello", 3)
    assert (tmp_path / "said.txt").read_text() == "hello\n"
    assert run_apart(count_down, 9, answer=lambda number: number == 4) == 4
    with pytest.raises(FailedError, match="no such thing"):
        run_apart(fail)
    with pytest.raises(LostError, match="signal 9"):
        run_apart(vanish)


def wait_in_its_own(folder: Path) -> None:
    run_apart(tick, folder)


def tick(folder: Path) -> None:
    while True:
        (folder / "alive").write_text(str(time.time()))
        time.sleep(0.05)


@pytest.mark.slow
def test_it_ends_with_whoever_waits_for_it(tmp_path: Path) -> None:
    waiting = multiprocessing.get_context("forkserver").Process(target=wait_in_its_own, args=(tmp_path,))
    waiting.start()
    while not (tmp_path / "alive").exists():
        time.sleep(0.05)
    os.kill(waiting.pid or 0, signal.SIGKILL)
    waiting.join()
    time.sleep(0.5)
    last = (tmp_path / "alive").read_text()
    time.sleep(0.3)
    assert (tmp_path / "alive").read_text() == last
