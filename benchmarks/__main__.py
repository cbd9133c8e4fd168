"""The benchmarks, from one entry point.

``python -m benchmarks`` lists them; ``python -m benchmarks NAME [its options]`` runs one; ``python -m benchmarks all
[--quick] [--json FILE] [--data FOLDER] [--only NAME ...] [--without NAME ...]`` runs one after the other, each in a
process of its own, says what was skipped and why, and ends with a table of all goals. The file is written anew after
each benchmark.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import benchmarks
from benchmarks import machine
from benchmarks.command import Benchmark, write
from benchmarks.records import Table
from benchmarks.timing import silence_lightning

ALL = "all"
Launch = Callable[[str, Sequence[str]], int]


@dataclass
class Outcome:
    """What became of a run of several benchmarks.

    Attributes:
        found: by benchmark, what it wrote.
        skipped: by benchmark, why it did not run.
        failed: by benchmark, how its process ended.
    """

    found: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    def data(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """Return plain data."""
        return {"machine": known, "benchmarks": self.found, "skipped": self.skipped, "failed": self.failed}

    def tables(self) -> list[Table]:
        """Return all goals, and what has none to show."""
        goals = [
            [name, f"{table['title'].partition(':')[0]}: {goal['what']}", _number(goal["found"]),
             f"{'>=' if goal['at_least'] else '<='} {goal['limit']:,g}", goal["unit"],
             "met" if goal["met"] else "missed"]
            for name, found in self.found.items()
            for table in found["tables"]
            for goal in table["goals"]
        ]  # fmt: skip
        missed = sum(row[-1] == "missed" for row in goals)
        columns = {"benchmark": "", "what": "", "found": ",.4g", "goal": "", "unit": "", "": ""}
        ended = {
            **{name: f"skipped: {reason}" for name, reason in self.skipped.items()},
            **{name: f"failed with status {status}" for name, status in self.failed.items()},
        }
        return [
            Table(f"Goals: {len(goals) - missed} met, {missed} missed", columns, goals),
            Table("Not measured", {"benchmark": "", "why": ""}, [*map(list, ended.items())]),
        ][: 2 if ended else 1]


def _number(found: Any) -> float:
    return float(found["median"] if isinstance(found, dict) else found)


def discover() -> tuple[dict[str, Benchmark], dict[str, str]]:
    """Return the benchmarks of this folder by name, and why others cannot be imported."""
    found: dict[str, Benchmark] = {}
    broken: dict[str, str] = {}
    for module in sorted(pkgutil.iter_modules(benchmarks.__path__), key=lambda module: module.name):
        if module.name == "__main__":
            continue
        try:
            imported = importlib.import_module(f"benchmarks.{module.name}")
        except ImportError as error:  # an extra that is not installed
            broken[module.name] = str(error)
            continue
        if hasattr(imported, "BENCHMARK"):
            found[module.name] = imported.BENCHMARK
        elif hasattr(imported, "main"):
            found[module.name] = printing(module.name, imported.__doc__, imported.main)
    return found, broken


def printing(name: str, doc: str | None, own: Callable[[Sequence[str]], Any]) -> Benchmark:
    """Return a benchmark of a module that has only a ``main``: what it prints is seen, and in no file."""

    def tables(options: argparse.Namespace) -> Iterator[Table]:
        own(options.others)
        yield from ()

    return Benchmark(name, doc, lambda _: None, tables, passes_on=True)


def launch(name: str, arguments: Sequence[str]) -> int:
    """Run a benchmark in a process of its own; return its status."""
    return subprocess.run([sys.executable, "-m", "benchmarks", name, *arguments], check=False).returncode


def arguments(benchmark: Benchmark, *, quick: bool, data: str | None) -> list[str]:
    """Return what ``all`` runs a benchmark with."""
    root = [f"--root={Path(data) / benchmark.data}"] if data is not None and benchmark.data is not None else []
    return [*(benchmark.quick if quick else ()), *root]


def run_all(argv: Sequence[str], start: Launch = launch) -> Outcome:
    """Read the options and run all that can run."""
    found, broken = discover()
    parser = argparse.ArgumentParser(prog="python -m benchmarks all", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rounds of the smallest cases: some minutes for all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found into a file, too")
    parser.add_argument("--data", metavar="FOLDER", help="the folder with census, flights, qm9 (data)")
    parser.add_argument("--only", nargs="+", default=[], choices=[*found, *broken], metavar="NAME", help="run these")
    parser.add_argument("--without", nargs="+", default=[], choices=[*found, *broken], metavar="NAME", help="not these")
    options = parser.parse_args(argv)
    known = machine.describe()
    outcome = Outcome(skipped={name: reason for name, reason in broken.items() if name in (options.only or broken)})
    names = [name for name in options.only or found if name in found and name not in options.without]
    for name in names:
        benchmark = found[name]
        given = arguments(benchmark, quick=options.quick, data=options.data)
        if reason := benchmark.why_not(given):
            outcome.skipped[name] = reason
            continue
        print(f"\n## {name}: {benchmark.summary}\n\n`python -m benchmarks {name} {' '.join(given)}`\n", flush=True)
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "found.json"
            status = start(name, [*given, f"--json={file}"])
            if status == 0:
                outcome.found[name] = {**json.loads(file.read_text()), "seconds": round(time.perf_counter() - begun, 1)}
            else:
                outcome.failed[name] = status
        if options.json is not None:
            write(options.json, outcome.data(known))
    if options.json is not None:
        write(options.json, outcome.data(known))
    for table in outcome.tables():
        for line in table.markdown():
            print(line, flush=True)
    return outcome


def main(argv: Sequence[str] | None = None) -> int:
    """List the benchmarks, or run one or all; return the status of the program."""
    argv = [*(sys.argv[1:] if argv is None else argv)]
    if argv[:1] == [ALL]:
        return 1 if run_all(argv[1:]).failed else 0
    found, broken = discover()
    if not argv or argv[0] in ("-h", "--help"):
        print((__doc__ or "").strip() + "\n")
        for name, benchmark in found.items():
            print(f"{name:20s} {benchmark.summary}")
        for name, reason in broken.items():
            print(f"{name:20s} cannot be imported: {reason}")
        return 0
    name = argv[0]
    if name not in found:
        reason = f"{name} cannot be imported: {broken[name]}" if name in broken else f"found {name!r}"
        print(f"Expected {ALL} or one of {', '.join(found)}; {reason}.", file=sys.stderr)
        return 2
    found[name].main(argv[1:])
    return 0


if __name__ == "__main__":
    discover()  # imports Lightning, which sets up its logger
    silence_lightning()
    sys.exit(main())
