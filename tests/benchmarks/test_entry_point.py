"""One entry point finds every benchmark, runs what can run, and says what it skipped, what failed and what was met."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import benchmarks
from benchmarks import __main__ as entry
from benchmarks import machine
from benchmarks.command import Benchmark
from benchmarks.records import Goal, Table
from tests.programs import start

MODULES = [path.stem for path in Path(benchmarks.__path__[0]).glob("*.py") if "\ndef main(" in path.read_text()]


def made(name: str, **more: object) -> Benchmark:
    """A benchmark that measures nothing."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--root", default="nowhere")
        parser.add_argument("--found", type=float, default=2.0)

    def tables(options: argparse.Namespace) -> Iterator[Table]:
        yield Table(f"{name}: one", {"found": ".1f"}, [[options.found]], [Goal("it", options.found, 1.0)])

    return Benchmark(name, "What it does.\n\nMore.", add_options, tables, **more)  # type: ignore[arg-type]


@pytest.fixture
def _three(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        "good": made("good", quick=("--found=0.5",)),
        "bad": made("bad"),
        "absent": made("absent", missing=lambda options: f"no data in {options.root}", data="its"),
    }
    monkeypatch.setattr(entry, "discover", lambda: (known, {"broken": "No module named 'x'"}))


def here(name: str, arguments: Sequence[str]) -> int:
    """Run a benchmark in this process."""
    if name == "bad":
        return 3
    found, _ = entry.discover()
    found[name].main(arguments)
    return 0


def test_every_benchmark_is_found_and_named_after_its_module() -> None:
    found, broken = entry.discover()
    assert not broken
    assert {"step_time", "solvers", "census_cost"} <= {*found}
    assert {*MODULES} - {"__main__"} <= {*found}
    for name, benchmark in found.items():
        assert benchmark.name == name
        if name not in MODULES:
            assert importlib.import_module(f"benchmarks.{name}").main == benchmark.main
        assert benchmark.summary.endswith(".")
        benchmark.read(benchmark.quick)  # an option that it has not would end the program
        given = entry.arguments(benchmark, quick=True, data="folder")
        assert (
            (benchmark.read(given).root.startswith("folder")) if benchmark.data is not None else "--root" not in given
        )


def test_the_readme_lists_every_benchmark() -> None:
    readme = (Path(benchmarks.__path__[0]) / "README.md").read_text()
    missing = [name for name in entry.discover()[0] if f"| `{name}` | " not in readme]
    assert not missing, f"benchmarks/README.md: expected a row of its first table for {missing}"


@pytest.mark.usefixtures("_three")
def test_all_runs_what_it_can_and_writes_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found" / "all.json"
    outcome = entry.run_all(["--quick", "--json", str(file), "--data", "there"], here)
    said = capsys.readouterr().out
    written = json.loads(file.read_text())
    assert outcome.skipped == written["skipped"] == {"broken": "No module named 'x'", "absent": "no data in there/its"}
    assert outcome.failed == written["failed"] == {"bad": 3}
    assert written["benchmarks"]["good"]["tables"][0]["rows"] == [{"found": 0.5}]
    assert written["machine"]["python"] == written["benchmarks"]["good"]["machine"]["python"]
    assert "\n### Goals: 1 met, 0 missed\n" in said
    assert "| good | good: it | 0.5 | <= 1 |  | met |" in said
    assert "| absent | skipped: no data in there/its |" in said
    assert "| bad | failed with status 3 |" in said


@pytest.mark.usefixtures("_three")
def test_some_can_be_chosen_and_full_runs_have_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = entry.run_all(["--only", "good", "absent", "--without", "absent"], here)
    assert [*outcome.found] == ["good"]
    assert not outcome.skipped
    assert "| good | good: it | 2 | <= 1 |  | missed |" in capsys.readouterr().out


@pytest.mark.usefixtures("_three")
def test_one_is_run_by_name_with_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["good", "--found", "0.7", "--json", str(tmp_path / "out.json")]) == 0
    assert "- it: 0.700, goal <= 1: met" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["tables"][0]["goals"][0]["found"] == 0.7
    with pytest.raises(SystemExit, match="absent cannot run: no data in nowhere"):
        entry.main(["absent"])
    assert entry.main(["nothing"]) == entry.main(["broken"]) == 2
    complaints = capsys.readouterr().err
    assert "Expected all or one of good, bad, absent; found 'nothing'." in complaints
    assert "broken cannot be imported: No module named 'x'" in complaints
    assert entry.main([]) == 0
    listed = capsys.readouterr().out
    assert "good                 What it does." in listed
    assert "broken               cannot be imported: No module named 'x'" in listed


def test_what_only_prints_is_run_too(capsys: pytest.CaptureFixture[str]) -> None:
    entry.printing("old", "Old.", lambda argv: sys.stdout.write(" ".join(argv))).main(["3", "--rounds=2"])
    assert capsys.readouterr().out.splitlines()[1:] == ["3 --rounds=2"]


def test_the_program_runs_one_in_a_process_of_its_own(tmp_path: Path) -> None:
    (program,) = start("benchmarks", "solvers", "2", "--rounds=1", "--block=0.0001", f"--json={tmp_path / 'out.json'}")
    printed = program.stdout.read()
    assert program.wait(timeout=300) == 0, program.errors()
    assert "### 2 tasks" in printed
    assert json.loads((tmp_path / "out.json").read_text())["benchmark"] == "solvers"


def test_the_machine_is_said_in_one_line() -> None:
    known = machine.describe()
    sentence = machine.sentence(known)
    assert "\n" not in sentence
    for name in ("torch", "lightning", "torchjd"):
        assert f"{name} {known['packages'][name]}" in sentence
    assert known["cores"] >= 1
    nothing = machine.sentence(dict.fromkeys(known) | {"packages": {}, "settings": {"MTL_LIGHTNING_FAST_PATHS": "0"}})
    assert "unknown processor" in nothing
    assert "MTL_LIGHTNING_FAST_PATHS=0; commit unknown" in nothing
