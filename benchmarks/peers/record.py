"""What a run cost and reached, as one line of JSON; all scripts beside it print theirs by :func:`run`."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import sys
import time
import tokenize
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

TASKS = ["income", "never_married"]
LOADING, TRAINING, TEST = "loading", "training", "test"
"""The phases of a job: reading, splitting, encoding and building; the epochs with their validations; the test."""


def run(
    job: Callable[[argparse.Namespace, Callable[[str], None]], dict[str, float]],
    peer: str,
    packages: list[str],
    options: tuple[tuple[str, list[str]], ...] = (),
    lines_of: str = "",
) -> None:
    """Run a peer's job and print its record.

    Args:
        job: loads, trains two epochs and tests; returns the AUC of each task on the test rows. It is given the
            options and a function to call where training and the test begin, with :data:`TRAINING` and :data:`TEST`.
        peer: its name in the table.
        packages: distributions whose versions are told.
        options: what else the command line takes: names and choices, the first of which is meant by default.
        lines_of: the file whose lines a user writes; the script itself by default.
    """
    parser = argparse.ArgumentParser(description=peer)
    parser.add_argument("--root", default="data/census", help="the folder with census-income.data and .test, or .gz")
    parser.add_argument("--seed", type=int, default=0)
    for name, choices in options:
        parser.add_argument(f"--{name}", choices=choices, default=choices[0])
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    imports, before, clock = _cpu(), _peak(), time.perf_counter()
    begun = {LOADING: imports}

    def phase(name: str) -> None:
        begun.setdefault(name, _cpu())

    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is not the record
    found = job(given, phase)
    sys.stdout = out
    ends = [*begun.values(), _cpu()]
    record = {
        "peer": peer,
        "options": {name: getattr(given, name) for name, _ in options},
        "seed": given.seed,
        "versions": {name: version(name) for name in ["torch", *packages]} | {"python": platform.python_version()},
        "auc": {task: round(found[task], 5) for task in TASKS},
        "cpu_s": round(ends[-1] - imports, 2),
        "phases_cpu_s": {name: round(end - start, 2) for name, start, end in zip(begun, ends, ends[1:], strict=False)},
        "imports_cpu_s": round(imports, 2),
        "seconds": round(time.perf_counter() - clock, 2),
        "peak_mb": round(_peak()),
        "peak_after_imports_mb": round(before),
        "lines": lines(Path(lines_of or sys.argv[0])),
    }
    print(json.dumps(record), flush=True)


def lines(path: Path) -> int:
    """Return how many lines of a file of Python or YAML hold code: no comments, docstrings and empty ones."""
    if path.suffix != ".py":
        texts = [line.strip() for line in path.read_text().splitlines()]
        return sum(bool(text) and not text.startswith("#") for text in texts)
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    held: set[int] = set()
    start = True
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in skipped:
            start = start or token.type == tokenize.NEWLINE
            continue
        if not (start and token.type == tokenize.STRING):
            held.update(range(token.start[0], token.end[0] + 1))
        start = False
    return len(held)


def _cpu() -> float:
    """Return the CPU seconds of this process and of those that it has waited for, user and system."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _peak() -> float:
    """Return the largest resident set, in MB (Linux: ru_maxrss is in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
