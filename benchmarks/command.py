"""A benchmark as a command: its options, what it prints, what it writes, and when it cannot run.

A module of this folder that has a ``BENCHMARK`` is one::

    BENCHMARK = Benchmark("step_time", __doc__, add_options, tables, quick=("W1_T8", "--rounds=3"))
    main = BENCHMARK.main

    if __name__ == "__main__":
        main()

``python -m benchmarks`` lists it and ``python -m benchmarks all`` runs it, without another line elsewhere.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.records import Table


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Args:
        name: of its module.
        doc: its module's docstring; the first line is its description.
        add_options: adds its options to a parser.
        tables: measures with the options that were read, and yields what it found as soon as it is known.
        quick: arguments for a run of a minute or so.
        missing: says why it cannot run with these options, in a sentence; nothing if it can.
        data: the folder of its data in the folder that ``all --data`` names; it then has an option ``--root``.
        passes_on: options that it does not know are not refused but kept as ``others``.
    """

    name: str
    doc: str | None
    add_options: Callable[[argparse.ArgumentParser], object]
    tables: Callable[[argparse.Namespace], Iterable[Table]]
    quick: Sequence[str] = ()
    missing: Callable[[argparse.Namespace], str] = lambda _options: ""
    data: str | None = None
    passes_on: bool = False

    @property
    def summary(self) -> str:
        """What it measures, in a line."""
        return (self.doc or "").strip().split("\n")[0]

    def read(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Read the command line."""
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{self.name}", description=self.summary)
        self.add_options(parser)
        parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found into a file, too")
        options, others = parser.parse_known_args(argv)
        if others and not self.passes_on:
            parser.error(f"unrecognized arguments: {' '.join(others)}")
        options.others = others
        options.error = parser.error
        return options

    def why_not(self, argv: Sequence[str]) -> str:
        """Say why it cannot run with these arguments; nothing if it can."""
        return self.missing(self.read(argv))

    def main(self, argv: Sequence[str] | None = None) -> None:
        """Read the options, measure, print; write JSON if that is asked for."""
        options = self.read(argv)
        if reason := self.missing(options):
            raise SystemExit(f"{self.name} cannot run: {reason}")
        known = machine.describe()
        print(machine.sentence(known), flush=True)
        found: list[Table] = []
        for table in self.tables(options):
            found.append(table)
            for line in table.markdown():
                print(line, flush=True)
        known["load_at_the_end"] = machine.load()
        if options.json is not None:
            write(options.json, {"benchmark": self.name, "machine": known, "tables": [each.data() for each in found]})


def write(path: Path, data: Any) -> None:
    """Write JSON, in lines that can be compared."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")


def chosen(options: argparse.Namespace, given: Sequence[str], known: Iterable[str], kind: str) -> list[str]:
    """Return what was asked for, or all; end the program where something is not known."""
    known = [*known]
    if unknown := [name for name in given if name not in known]:
        options.error(f"expected {kind} among {', '.join(known)}, found {', '.join(unknown)}")
    return [*given] or known
