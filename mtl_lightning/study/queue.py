"""The trials of a grid, taken one by one by as many processes and machines as there are."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mtl_lightning.study.grid import Cell
from mtl_lightning.study.process import FailedError, LostError

__all__ = ["Queue"]

CELL, BEGUN, RESULT, MESSAGE, LOSSES = "cell", "begun", "result", "message", "losses"
"""What a trial of the study knows of itself: the key of its cell, that it has a heartbeat, what it found, why it
failed, and how often its process was killed.
"""
_UNDER_WAY = ("WAITING", "RUNNING")
_LIVES = 3  # processes that may be killed over one cell while the one that waits for them lives
_WAIT = 1.0  # seconds between looks at what other processes do


class Queue:
    """Runs each cell of a grid once, whoever else runs cells of the same grid.

    Each cell is a trial of the study. To take one is to turn its state from waiting to running, which the database lets
    one process do. Two processes that put a cell in at the same time make two trials of it: whoever takes the later one
    drops it. A process that is killed leaves its trial running without a heartbeat: any other, or the same command
    started again, finds that out and puts the cell in again.

    Args:
        study: of Optuna.
        cells: the grid.
        run: runs a cell; is told the trial, and a function to be called with the process. Returns plain data, with
            ``values`` for the study, none if the trial was given up, and ``told``, what to say of it.
        say: is told of each trial that ends.
        patience: seconds for which a trial may run without having begun.
    """

    def __init__(
        self,
        study: Any,
        cells: Sequence[Cell],
        run: Callable[[Cell, Any, Callable[[Any], None]], Mapping[str, Any]],
        say: Callable[[str], None],
        patience: float = 30.0,
    ) -> None:
        self.study = study
        self.cells = {cell.key: cell for cell in cells}
        self.run, self.say, self.patience = run, say, patience
        self._stopped = threading.Event()
        self._processes: set[Any] = set()
        self._born: dict[int, float] = {}

    def settled(self) -> dict[str, Any]:
        """Return the trials that have ended, well or with a message, by the keys of their cells."""
        last: dict[str, Any] = {}
        for trial in self._trials():  # in the order of their numbers
            key = trial.user_attrs.get(CELL)
            dropped = trial.state.name == "PRUNED" and not trial.user_attrs.get(RESULT)
            if key in self.cells and not dropped and not _is_done(last.get(key)):
                last[key] = trial
        return {key: trial for key, trial in last.items() if _is_settled(trial)}

    def forget_failures(self) -> None:
        """Let cells that have failed be run again."""
        for key, trial in self.settled().items():
            if not _is_done(trial):
                self._enqueue(key, 0)

    def work(self, workers: int) -> dict[str, Any]:
        """Run cells, so many at a time, until all have ended, here or elsewhere; return the trials by their keys."""
        self._enqueue_missing(list(self.cells))
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(self._work) for _ in range(workers)]
            try:
                while not all(future.done() for future in futures):
                    time.sleep(0.05)
            finally:
                self._stopped.set()
                for process in list(self._processes):
                    process.kill()
            for future in futures:
                future.result()
        return self.settled()

    def _work(self) -> None:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.storages import fail_stale_trials

        while not self._stopped.is_set():
            ended = self.settled()
            if len(ended) == len(self.cells):
                return
            fail_stale_trials(self.study)
            self._fail_unborn()
            left = [key for key in self.cells if key not in ended]
            self._enqueue_missing(left)
            if any(trial.state.name == "WAITING" and trial.user_attrs.get(CELL) in left for trial in self._trials()):
                with contextlib.suppress(UpdateFinishedTrialError, ValueError):  # it was taken for lost meanwhile
                    self.study.optimize(self._objective, n_trials=1, catch=(Exception,), callbacks=[self._ended])
            else:
                self._stopped.wait(_WAIT)

    def _fail_unborn(self) -> None:
        """Fail trials whose process was killed between taking them and the first heartbeat, which Optuna waits for."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        for trial in self._trials():
            if trial.state.name != "RUNNING" or trial.user_attrs.get(BEGUN) == trial.number:
                continue
            seen = self._born.setdefault(trial.number, time.monotonic())
            if time.monotonic() - seen > self.patience:
                with contextlib.suppress(UpdateFinishedTrialError, ValueError):  # another process was faster
                    self.study.tell(trial.number, state=TrialState.FAIL)

    def _trials(self) -> list[Any]:
        trials: list[Any] = self.study.get_trials(deepcopy=False)
        return trials

    def _enqueue_missing(self, keys: Sequence[str]) -> None:
        """Put cells in that no trial is for."""
        under_way = {trial.user_attrs.get(CELL) for trial in self._trials() if trial.state.name in _UNDER_WAY}
        known = {*under_way, *self.settled()}
        for key in keys:
            if key not in known:
                self._enqueue(key, 0)

    def _enqueue(self, key: str, losses: int) -> None:
        cell = self.cells[key]
        named = {"entry": cell.entry, "task": cell.task, "seed": cell.seed}
        self.study.enqueue_trial(dict(cell.params), user_attrs={CELL: key, LOSSES: losses, **named})

    def _objective(self, trial: Any) -> Sequence[float]:
        from optuna import TrialPruned

        for name, value in (
            (BEGUN, trial.number),
            (MESSAGE, ""),
            (RESULT, None),
        ):  # a trial that is run again brings the first one's
            trial.set_user_attr(name, value)
        key = trial.user_attrs.get(CELL)
        if key not in self.cells or self._is_taken(key, trial.number):
            raise TrialPruned
        try:
            result = self.run(self.cells[key], trial, self._watch)
        except LostError as lost:
            losses = int(trial.user_attrs.get(LOSSES, 0)) + (not self._stopped.is_set())
            if losses < _LIVES:
                self._enqueue(key, losses)
            else:
                trial.set_user_attr(MESSAGE, f"{lost}, {losses} times")
            raise
        except FailedError as failed:
            trial.set_user_attr(MESSAGE, str(failed))
            raise
        trial.set_user_attr(RESULT, dict(result))
        if not result["values"]:
            raise TrialPruned
        return [float(value) for value in result["values"]]

    def _is_taken(self, key: str, number: int) -> bool:
        """Whether another trial is the one of a cell."""
        return any(
            trial.user_attrs.get(CELL) == key
            and trial.number != number
            and (_is_done(trial) or (trial.number < number and trial.state.name in _UNDER_WAY))
            for trial in self._trials()
        )

    def _watch(self, process: Any) -> None:
        self._processes.add(process)
        if self._stopped.is_set():
            process.kill()

    def _ended(self, study: Any, trial: Any) -> None:
        """Tell of a trial, once its end is in the database."""
        key = trial.user_attrs.get(CELL)
        if key not in self.cells or not _is_settled(trial):
            return
        result = trial.user_attrs.get(RESULT)
        what = f"failed: {trial.user_attrs[MESSAGE]}" if not result else result["told"]
        seconds = trial.duration.total_seconds() if trial.duration else 0.0
        self.say(f"[{len(self.settled())}/{len(self.cells)}] {self.cells[key].title}: {what}, {seconds:.0f} s")


def _is_done(trial: Any) -> bool:
    return trial is not None and trial.state.name in ("COMPLETE", "PRUNED") and bool(trial.user_attrs.get(RESULT))


def _is_settled(trial: Any) -> bool:
    return _is_done(trial) or (trial.state.name == "FAIL" and bool(trial.user_attrs.get(MESSAGE)))
