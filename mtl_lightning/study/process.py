"""A function in a process of its own, which ends with the process that waits for it, however that one ends."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

__all__ = ["FailedError", "LostError", "run_apart"]

_PRELOADED = ["mtl_lightning.cli"]
_START = threading.Lock()


class FailedError(Exception):
    """The function raised; the message says what."""


class LostError(Exception):
    """The process ended without a word: it was killed, or ran out of memory."""


def run_apart(
    function: Callable[..., Any],
    *arguments: Any,
    output: Path | None = None,
    threads: int = 1,
    started: Callable[[Any], None] | None = None,
    answer: Callable[[Any], Any] | None = None,
) -> Any:
    """Call a function in a process of its own, and return what it returns.

    The process is forked from a server that has imported this library (where there is none, as on Windows, a fresh one
    is started): it has neither memory nor random state of earlier calls. It ends by itself if the caller is killed.

    Args:
        function: of a module, as are all arguments: they are pickled.
        arguments: what it is called with.
        output: a file for what it prints; by default it is lost.
        threads: of PyTorch's.
        started: is told the process.
        answer: answers what the function asks: it gets ``ask``, a function, as its last argument.

    Raises:
        FailedError: if it raises.
        LostError: if its process is killed.
    """
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    with _START:  # the server is one for all threads
        if "forkserver" in methods:
            context.set_forkserver_preload(_PRELOADED)
        result, child_result = context.Pipe()
        child_life, life = context.Pipe(duplex=False)
        process = context.Process(
            target=_child,
            args=(child_result, child_life, output, threads, function, arguments, answer is not None),
            daemon=False,
        )
        process.start()
        child_result.close()
        child_life.close()
    if started is not None:
        started(process)
    try:
        while (told := result.recv())[0] == "asked":
            result.send(None if answer is None else answer(told[1]))
    except (EOFError, OSError):
        process.join()
        code = process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"status {code}"
        raise LostError(f"its process ended with {how} and without a result") from None
    finally:
        life.close()
        result.close()
    process.join()
    if told[0] == "failed":
        raise FailedError(told[1])
    return told[1]


def _child(
    result: Connection,
    life: Connection,
    output: Path | None,
    threads: int,
    function: Callable[..., Any],
    arguments: Sequence[Any],
    asks: bool,
) -> None:
    """Be the process."""
    import torch

    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    with open(os.devnull if output is None else output, "ab", buffering=0) as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
    torch.set_num_threads(threads)

    def ask(question: Any) -> Any:
        result.send(("asked", question))
        return result.recv()

    try:
        told = ("done", function(*arguments, ask) if asks else function(*arguments))
    except Exception as error:
        import traceback

        traceback.print_exc()
        told = ("failed", str(error) or type(error).__name__)
    result.send(told)
    result.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # what a trial leaves running (loaders' workers, loggers' threads) must not hold it up


def _end_with(life: Connection) -> None:
    """Wait for the caller's end; then end."""
    try:
        life.recv()
    except (EOFError, OSError):
        os._exit(1)
