"""``mtl-lightning compare`` on a small problem: what it runs, writes and says, and what it refuses."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import yaml  # type: ignore[import-untyped]  # it ships no types
from scipy import stats  # type: ignore[import-untyped]  # it ships no types

from mtl_lightning.cli import main
from mtl_lightning.cli.compare import compare, write
from tests import programs
from tests.cli import CONFIGS, only, run

Rows = list[dict[str, Any]]
BASE: dict[str, Any] = {
    "data": {
        "class_path": "SyntheticRegression",
        "init_args": {"n": 60, "n_val": 20, "n_test": 40, "batch_size": 20, "noise": [0.3, 0.1]},
    },
    "model": {
        "architecture": {
            "class_path": "SharedBottom",
            "init_args": {"encoder": {"class_path": "MLP", "init_args": {"hidden": [4]}}},
        },
        "optimizers": {"default": {"class_path": "Adam", "init_args": {"lr": 0.1}}},
    },
    "trainer": {"max_epochs": 2, "accelerator": "cpu", "logger": False},
}
ENTRIES: dict[str, Any] = {
    "plain": {},
    "slow": {"model.optimizers.default.lr": 0.003},
    "far|off": {"model.optimizers.default": {"class_path": "SGD", "init_args": {"lr": 1e30}}},  # is not finite
}
SETTINGS: dict[str, Any] = {
    "base": BASE,
    "entries": ENTRIES,
    "seeds": 2,
    "seed_keys": ["seed_everything", "data.seed"],
    "heartbeat": 1,
}


def rows_of(folder: Path) -> Rows:
    rows: Rows = pq.read_table(folder / "results.parquet").to_pylist()
    return rows


def write_config(folder: Path, settings: dict[str, Any]) -> None:
    (folder / "compare.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison by one worker."""
    folder = tmp_path_factory.mktemp("compared")
    compare(**SETTINGS, folder=str(folder))
    return folder


def table(report: str, title: str) -> list[list[str]]:
    """The cells of the table under a title, without its rule."""
    section = report.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [cells[0], *cells[2:]]


# ------------------------------------------------------------------------------------------------------ what is written
def test_each_entry_and_each_task_alone_is_run_with_each_seed(compared: Path) -> None:
    rows = rows_of(compared)
    trials = {(row["entry"], row["single_task"], row["seed"], row["state"]) for row in rows}
    alone = {("single-task", task, seed, "complete") for task in ("y1", "y2") for seed in (0, 1)}
    entries = {(name, None, seed, "complete") for name in ("plain", "slow") for seed in (0, 1)}
    assert trials == alone | entries | {("far|off", None, seed, "failed") for seed in (0, 1)}
    assert {row["task"] for row in rows if row["single_task"] == "y2"} == {"y2"}
    assert {row["split"] for row in rows if row["state"] == "complete"} == {"val", "test"}
    assert pa_csv.read_csv(compared / "results.csv").num_rows == len(rows)
    for name in ("delta_m", "slopes", "tradeoffs"):
        assert (compared / f"{name}.png").stat().st_size > 5_000
        assert f"({name}.png)" in (compared / "report.md").read_text()
    assert not list(compared.rglob("*.ckpt"))


def test_a_trial_that_fails_is_in_the_report_with_its_message(compared: Path) -> None:
    report = (compared / "report.md").read_text()
    _, *lines = table(report, "Failed trials")
    assert [line[:3] for line in lines] == [["far|off", "", "0"], ["far|off", "", "1"]]
    assert all("finite" in line[3] for line in lines)
    assert "8 of 10 trials ended well" in report


def test_the_epoch_is_the_best_of_validation(compared: Path, tmp_path: Path) -> None:
    """By hand: a run of the same configuration whose validations are all looked at."""
    (config,) = (path for path in (compared / "trials").glob("slow-0-*/config.yaml"))
    last = {"trainer": {"max_epochs": 1}}  # its first epoch alone
    settings = {**SETTINGS, "base": [yaml.safe_load(config.read_text()), last], "entries": {"first": {}}, "seeds": [0]}
    compare(**settings, folder=str(tmp_path), baselines=False)
    (first, whole) = (
        {
            (row["split"], row["task"], row["metric"]): (row["value"], row["epoch"])
            for row in rows_of(folder)
            if (row["entry"], row["seed"]) == (name, 0)
        }
        for folder, name in ((tmp_path, "first"), (compared, "slow"))
    )
    assert {epoch for _, epoch in first.values()} == {0}
    assert {epoch for _, epoch in whole.values()} == {1}  # a slow rate is better after two epochs
    assert first["val", "y2", "loss"][0] > whole["val", "y2", "loss"][0]


def expected_differences(rows: Rows) -> dict[str, dict[int, float]]:
    """Delta-m by entry and seed, worked out again."""
    names = [(task, metric) for task in ("y1", "y2") for metric in ("mae", "rmse")]
    value = {(r["entry"], r["seed"], r["task"], r["metric"]): r["value"] for r in rows if r["split"] == "test"}
    return {
        entry: {
            seed: mean(
                100 * (value[entry, seed, n[0], n[1]] / value["single-task", seed, n[0], n[1]] - 1) for n in names
            )
            for seed in (0, 1)
        }
        for entry in ("plain", "slow")
    }


def interval(values: list[float], comparisons: int) -> tuple[float, float]:
    found = stats.ttest_1samp(values, 0).confidence_interval(1 - 0.05 / comparisons)
    return float(found.low), float(found.high)


def ends(values: list[float], comparisons: int) -> str:
    low, high = interval(values, comparisons)
    return f"{low:.3g} to {high:.3g}"


def test_every_number_of_the_report_is_worked_out_again_from_the_table(compared: Path) -> None:
    rows, report = rows_of(compared), (compared / "report.md").read_text()
    test = [row for row in rows if row["split"] == "test"]
    delta = expected_differences(rows)
    # Delta-m and rank
    _, *lines = table(report, "Delta-m and rank")
    means = {
        (entry, task, metric): mean(
            r["value"] for r in test if (r["entry"], r["task"], r["metric"]) == (entry, task, metric)
        )
        for entry in ("single-task", "plain", "slow")
        for task in ("y1", "y2")
        for metric in ("mae", "rmse")
    }
    ranks = {
        way: mean(
            sum(
                means[other, name[0], name[1]] <= means[way, name[0], name[1]]
                for other in ("single-task", "plain", "slow")
            )
            for name in [(t, m) for t in ("y1", "y2") for m in ("mae", "rmse")]
        )
        for way in ("single-task", "plain", "slow")
    }
    assert lines[0] == ["single-task", "2", "0", "", f"{ranks['single-task']:.3g}"]
    for line, entry in zip(lines[1:], ("plain", "slow"), strict=False):
        values = [*delta[entry].values()]
        assert line == [entry, "2", f"{mean(values):.3g}", ends(values, 2), f"{ranks[entry]:.3g}"]
    assert lines[3][:2] == ["far|off", "0"]
    # metrics
    head, *lines = table(report, "Metrics")
    assert head == ["", "single-task", "plain", "slow", "far|off"]
    assert len(lines) == 6
    for name, *cells in lines:
        metric, task = re.fullmatch(r"(\w+) of (\w+) ↓", name).groups()  # type: ignore[union-attr]  # or it fails
        for cell, way in zip(cells, ("single-task", "plain", "slow"), strict=False):
            found = [r["value"] for r in test if (r["entry"], r["task"], r["metric"]) == (way, task, metric)]
            assert cell == f"{mean(found):.4g} ± {stdev(found) / math.sqrt(2):.2g}"
    # differences
    _, *lines = table(report, "Differences")
    assert [line[0] for line in lines] == ["plain - slow"]
    between = [delta["plain"][seed] - delta["slow"][seed] for seed in (0, 1)]
    assert lines[0][1:4] == [f"{mean(between):.3g}", ends(between, 1), "2, paired"]
    # each task
    _, *lines = table(report, "Each task against its own network")
    value = {(r["entry"], r["seed"], r["task"], r["metric"]): r["value"] for r in test}
    for entry, task, *cells in lines:
        of_task = [
            mean(100 * (value[entry, seed, task, m] / value["single-task", seed, task, m] - 1) for m in ("mae", "rmse"))
            for seed in (0, 1)
        ]
        assert cells[:2] == [f"{mean(of_task):.3g}", ends(of_task, 4)]
    # costs
    _, *lines = table(report, "Costs")
    trials = {(r["entry"], r["single_task"], r["seed"]): r for r in rows if r["state"] == "complete"}
    for way, seconds, memory, _, parameters in lines:
        own = {key: row for key, row in trials.items() if key[0] == way}
        by_seed = [sum(row["seconds_per_step"] for key, row in own.items() if key[2] == seed) for seed in (0, 1)]
        assert seconds == f"{1000 * median(by_seed):.3g}"
        assert memory == f"{max(row['peak_memory'] for row in own.values()) / 2**20:.0f}"
        assert int(parameters) == sum(row["parameters"] for key, row in own.items() if key[2] == 0)


def test_the_verdicts_follow_from_the_intervals(compared: Path) -> None:
    rows, report = rows_of(compared), (compared / "report.md").read_text()
    delta = expected_differences(rows)
    for entry in ("plain", "slow"):
        low, high = interval([*delta[entry].values()], 2)
        (line,) = re.findall(rf"- {entry} against single-task runs: (.*)", report)
        assert ("not told apart" in line) == (low <= 0 <= high)
    low, high = interval([delta["plain"][seed] - delta["slow"][seed] for seed in (0, 1)], 1)
    assert ("**No winner**" in report) == (low <= 0 <= high)
    assert "left out of all comparisons: far|off." in report


def test_differences_from_one_entry_with_a_pooled_spread(compared: Path, tmp_path: Path) -> None:
    """Three entries; the third is the first's, a little worse in one seed."""
    table_of, rows = pq.read_table(compared / "results.parquet"), rows_of(compared)
    third = [{**row, "entry": "third"} for row in rows if row["entry"] == "plain"]
    for row in third:
        row["value"] *= 1.05 if row["seed"] else 1.01
    settings = json.loads(table_of.schema.metadata[b"mtl_lightning"])
    settings |= {"against": "slow", "spread": "pooled", "entries": [*settings["entries"], "third"]}
    schema = table_of.schema.with_metadata({b"mtl_lightning": json.dumps(settings)})
    report = write(tmp_path, pa.Table.from_pylist([*rows, *third], schema=schema)).read_text()
    _, *lines = table(report, "Differences")
    assert [line[0] for line in lines] == ["plain - slow", "third - slow"]
    delta = expected_differences(rows)
    delta["third"] = expected_differences([*rows, *({**row, "entry": "plain"} for row in third)])["plain"]
    values = np.array([[delta[name][seed] for seed in (0, 1)] for name in ("plain", "slow", "third")])
    left = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    width = stats.t.ppf(1 - 0.05 / 4, 2) * math.sqrt((left**2).sum() / 2)
    for line, (first, second) in zip(lines, [(0, 1), (2, 1)], strict=True):
        mean_of = (values[first] - values[second]).mean()
        assert line[1:3] == [f"{mean_of:.3g}", f"{mean_of - width:.3g} to {mean_of + width:.3g}"]
    assert "No winner" not in report
    assert re.search(r"- plain against slow: (not told apart|\*\*better)", report)
    assert "pooled over all of them" in report


def test_the_report_in_the_docs_is_that_of_its_table(tmp_path: Path) -> None:
    docs = CONFIGS.parent / "docs" / "compare_multidigit"
    write(tmp_path, pq.read_table(docs / "results.parquet"))
    assert (tmp_path / "report.md").read_text() == (docs / "report.md").read_text()


# ---------------------------------------------------------------------------------------------- several workers, reruns
def without_costs(folder: Path) -> tuple[Rows, str]:
    """All that must not depend on who ran what when."""
    gone = ("trial", "seconds", "seconds_per_step", "peak_memory")
    rows = [{name: value for name, value in row.items() if name not in gone} for row in rows_of(folder)]
    report = (folder / "report.md").read_text()
    costs = report.partition("## Costs\n")[2].partition("\n## ")[0]
    return rows, report.replace(costs, "")


@pytest.mark.slow
def test_two_workers_give_the_same_report_and_a_rerun_runs_nothing(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "compare.yaml").write_text(
        yaml.safe_dump({**SETTINGS, "name": compared.name, "folder": "two"}, sort_keys=False)
    )
    monkeypatch.setattr("sys.argv", ["mtl-lightning", "compare", "--config", "compare.yaml", "--workers", "2"])
    main()
    assert capsys.readouterr().out.count("\n") == 11  # ten trials, and where the report is
    assert without_costs(tmp_path / "two") == without_costs(compared)
    before = (tmp_path / "two" / "report.md").read_text()
    main()
    assert capsys.readouterr().out.splitlines() == ["The report is two/report.md"]
    assert (tmp_path / "two" / "report.md").read_text() == before


@pytest.mark.slow  # of a trial that was killed, test_queue.py
def test_a_killed_command_is_taken_up_where_it_was(tmp_path: Path) -> None:
    entries = {"plain": {}, "slow": {"model.optimizers.default.lr": 0.003}}
    settings = {**SETTINGS, "entries": entries, "baselines": False, "folder": str(tmp_path / "out")}
    write_config(tmp_path, settings)
    (program,) = programs.start("mtl_lightning", "compare", "--config", str(tmp_path / "compare.yaml"))
    first = program.stdout.readline()
    assert first.startswith("[1/4] plain, seed 0"), program.errors()
    program.kill()
    program.wait(30)
    begun = {path: path.stat().st_mtime for path in (tmp_path / "out" / "trials").glob("plain-0-*/config.yaml")}
    assert len(begun) == 1
    compare(**settings)
    assert len({(row["entry"], row["seed"]) for row in rows_of(tmp_path / "out")}) == 4
    assert {path: path.stat().st_mtime for path in begun} == begun  # it was not run again


# ------------------------------------------------------------------------------------------------------ what is refused
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an option that is none": (
        {"entries": {"good": {}, "bad": {"model.balancr": "PCGrad"}}},
        "entry 'bad': .*'balancer'",
    ),
    "a class that is none": ({"entries": {"bad": {"model.balancer": "PCGrd"}}}, "entry 'bad': .*'PCGrad'"),
    "arguments of the class before": (
        {"entries": {"bad": {"model.optimizers.default": {"class_path": "SGD", "init_args": {"betas": [0.1, 0.2]}}}}},
        "entry 'bad': .*betas",
    ),
    "what cannot be built": ({"entries": {"bad": {"model.optimizers.lft": "Adam"}}}, "entry 'bad': .*'lft'"),
    "other tasks": ({"entries": {"good": {}, "bad": {"data.tasks": {"y2": None}}}}, "entry 'bad': expected the tasks"),
    "no base": ({"base": "nowhere.yaml"}, "`base`: expected a config in YAML at nowhere.yaml"),
    "an entry that is none": ({"against": "godo"}, "`against`: expected the name of an entry, .*'good'"),
    "several devices": ({"entries": {"bad": {"trainer.devices": 2}}}, "entry 'bad': .*trainer.devices: 1"),
    "no database": ({"storage": "results.db"}, "`storage`: expected the address of a database"),
    "baselines that cannot be built": (
        {"entries": {"good": {}}, "baselines": {"model.optimizers.y3": "Adam"}},
        "single-task runs of 'y1': (.|\n)*baselines: false",
    ),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_told_before_any_trial(
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "compare.yaml").write_text(
        yaml.safe_dump({**SETTINGS, "entries": {"good": {}}, **changes}, sort_keys=False)
    )
    monkeypatch.setattr("sys.argv", ["mtl-lightning", "compare", "--config", "compare.yaml"])
    with pytest.raises(SystemExit) as end:
        main()
    assert re.search(message, str(end.value.code))
    assert len(str(end.value.code).splitlines()) <= 6
    assert not (tmp_path / "comparison" / "trials").exists()
    assert capsys.readouterr().out == ""


def test_a_proposed_split_is_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file, which is looked for beside the comparison's, too."""
    (tmp_path / "here").mkdir()
    watched = {"callbacks": [{"class_path": "TaskAffinity", "init_args": {"every_n_steps": 1}}]}
    base = {**BASE, "trainer": {**BASE["trainer"], **watched, "default_root_dir": str(tmp_path / "here")}}
    (tmp_path / "here" / "base.yaml").write_text(yaml.safe_dump(base))
    run(monkeypatch, "fit", "--config", str(tmp_path / "here" / "base.yaml"))
    split = only(tmp_path / "here", "split.yaml").relative_to(tmp_path / "here")
    changes = yaml.safe_load((tmp_path / "here" / split).read_text())
    changes["model"]["architecture"]["init_args"]["groups"] = {"a": ["y1"], "b": ["y2"]}  # whatever it proposes
    (tmp_path / "here" / split).write_text(yaml.safe_dump(changes))
    settings = {**SETTINGS, "entries": {"one": None, "split": str(split)}, "baselines": False, "seeds": 1}
    write_config(tmp_path / "here", settings)
    run(monkeypatch, "compare", "--config", str(tmp_path / "here" / "compare.yaml"))
    parameters = {row["entry"]: row["parameters"] for row in rows_of(tmp_path / "comparison")}
    assert parameters["split"] > parameters["one"]


def test_a_misspelt_option_of_the_comparison(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "compare.yaml").write_text("base: {}\nentries: {a: {}}\nseds: 3\n")
    monkeypatch.setattr("sys.argv", ["mtl-lightning", "compare", "--config", "compare.yaml"])
    with pytest.raises(SystemExit) as end:
        main()
    assert "line 3" in str(end.value.code)
    assert "did you mean 'seeds'" in str(end.value.code).lower()


# ---------------------------------------------------------------------------------------------------------- full length
@pytest.mark.slow
def test_who_is_alike_is_seldom_told_apart_and_who_is_worse_is(tmp_path: Path) -> None:
    """Two entries that are one, on disjoint seeds, in 20 repetitions; and one with a rate 30 times too small."""
    base = {**BASE, "trainer": {**BASE["trainer"], "max_epochs": 4}}
    winners = 0
    for repetition in range(20):
        seeds = [list(range(10 * repetition + 5 * part, 10 * repetition + 5 * part + 5)) for part in (0, 1)]
        entries: dict[str, Any] = {"one": {"seeds": seeds[0]}, "other": {"seeds": seeds[1]}}
        folder = tmp_path / str(repetition)
        path = compare(base, entries, baselines=False, seed_keys=SETTINGS["seed_keys"], folder=str(folder), workers=2)
        winners += "**No winner**" not in path.read_text()
    assert winners <= 3
    entries = {"good": {}, "slow": {"model.optimizers.default.lr": 0.1 / 30}}
    path = compare(base, entries, seeds=5, folder=str(tmp_path / "worse"), workers=2)
    assert "**good** has the lowest Delta-m" in path.read_text()


@pytest.mark.slow
def test_the_shipped_comparison_takes_less_than_ten_minutes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = str(CONFIGS / "compare_multidigit.yaml")
    monkeypatch.setattr("sys.argv", ["mtl-lightning", "compare", "--config", config, "--workers", "2"])
    begun = time.monotonic()
    main()
    assert time.monotonic() - begun < 600
    assert "14 of 14 trials ended well" in (tmp_path / "compare_multidigit" / "report.md").read_text()
