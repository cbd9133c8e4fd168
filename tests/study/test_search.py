"""Ranges, fronts, ``mtl-lightning tune``, and what ``compare`` tunes first."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml  # type: ignore[import-untyped]  # it ships no types

from mtl_lightning.cli import MultiTaskCLI, trial
from mtl_lightning.cli.entries import checked, read_base, single_task
from mtl_lightning.cli.search import check_ranges
from mtl_lightning.cli.tune import tune
from mtl_lightning.study.grid import read_entries
from mtl_lightning.study.search import front, read_ranges
from mtl_lightning.types import ConfigurationError
from tests.cli import CONFIGS, run
from tests.study.test_compare import BASE, table

LR = "model.optimizers.default.lr"
RANGES: dict[str, Any] = {
    LR: {"low": 1e-4, "high": 0.3, "log": True},
    "model.architecture.encoder.hidden": [[2], [4]],
    "trainer.max_epochs": {"low": 1, "high": 2},
}


# --------------------------------------------------------------------------------------------------------------- ranges
class Draws:
    """Takes the place of Optuna's trial: what is drawn is known."""

    def suggest_float(self, name: str, low: float, high: float, log: bool, step: float | None) -> Any:
        return ("float", low, high, log, step)

    def suggest_int(self, name: str, low: int, high: int, log: bool, step: int) -> Any:
        return ("int", low, high, log, step)

    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        return choices[-1]


def test_what_ranges_mean() -> None:
    ranges = read_ranges({**RANGES, "x": {"low": 0, "high": 1.0, "step": 0.25}, "balancer": ["A", None, {"a": 1}]})
    drawn = {key: one.draw(Draws(), key) for key, one in ranges.items()}
    assert drawn == {
        LR: ("float", 1e-4, 0.3, True, None),
        "model.architecture.encoder.hidden": [4],
        "trainer.max_epochs": ("int", 1, 2, False, 1),
        "x": ("float", 0, 1.0, False, 0.25),
        "balancer": {"a": 1},
    }


WRONG_RANGES: list[Any] = [
    {},
    {"x": 3},
    {"x": {"low": 1}},
    {"x": {"low": 2, "high": 1}},
    {"x": {"low": 0, "high": 1, "log": True}},
    {"x": {"low": 1, "high": 2, "stp": 1}},
    {"x": {"low": 1, "high": 4, "step": 0.5}},
    {"x": {"low": 1, "high": 4, "step": 2, "log": True}},
    {"x": {"low": 1, "high": float("inf")}},
    {"x": []},
    {"x": {"choices": [1], "low": 1}},
]


@pytest.mark.parametrize("ranges", WRONG_RANGES, ids=str)
def test_ranges_that_are_none(ranges: Any) -> None:
    with pytest.raises(ConfigurationError, match="`ranges"):
        read_ranges(ranges)


def test_the_front_is_what_nothing_beats() -> None:
    values = [[0.9, 1.0], [0.8, 0.5], [0.7, 0.6], [0.9, 1.0], [0.95, 3.0]]
    assert front(values, [True, False]) == [0, 1, 3, 4]
    assert front(values, [False, False]) == [1, 2]


# ----------------------------------------------------------------------------------------------------------------- tune
@pytest.mark.slow
def test_a_search_is_resumed_and_writes_a_config_that_fit_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"base": BASE, "ranges": RANGES, "trials": 3, "heartbeat": 1}
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    run(monkeypatch, "tune", "--config", "tune.yaml", "--seed", "2")
    assert len(capsys.readouterr().out.splitlines()) == 4
    first = pq.read_table("search/trials.parquet").to_pylist()
    run(monkeypatch, "tune", "--config", "tune.yaml", "--seed", "2", "--trials", "5", "--workers", "2")
    assert len(capsys.readouterr().out.splitlines()) == 3  # two more, and where the report is
    rows = pq.read_table("search/trials.parquet").to_pylist()
    assert rows[:3] == first
    assert len(rows) == len({row[LR] for row in rows}) == 5
    assert all(1e-4 <= row[LR] <= 0.3 and row["trainer.max_epochs"] in (1, 2) for row in rows)
    best = min((row for row in rows if row["state"] == "complete"), key=lambda row: row["val/loss_normalised"])
    config = yaml.safe_load(Path("search/best.yaml").read_text())
    assert config["model"]["optimizers"]["default"]["init_args"]["lr"] == best[LR]
    encoder = config["model"]["architecture"]["init_args"]["encoder"]
    assert encoder["init_args"]["hidden"] == json.loads(best["model.architecture.encoder.hidden"])
    report = Path("search/report.md").read_text()
    assert f"| {best['trial']} | {best['val/loss_normalised']:.4g} |" in report
    assert Path("search/progress.png").stat().st_size > 5_000
    again = trial.try_out(MultiTaskCLI, config, tmp_path / "again", ["val/loss_normalised"])
    assert again["values"] == [best["val/loss_normalised"]]
    run(monkeypatch, "fit", "--config", "search/best.yaml")


@pytest.mark.slow
def test_an_objective_for_each_task_gives_a_front(tmp_path: Path) -> None:
    ranges = {LR: RANGES[LR], "data.tasks": [{}, {"y1": "NoSuchTask"}]}
    with pytest.raises(ConfigurationError, match=r"base with data\.tasks: .*NoSuchTask"):
        tune(BASE, ranges, objective="each_task", folder=str(tmp_path))
    path = tune(BASE, {LR: RANGES[LR]}, objective="each_task", trials=3, folder=str(tmp_path))
    rows = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    on_front = front([[row["val/loss/y1"], row["val/loss/y2"]] for row in rows], [False, False])
    assert len(list(tmp_path.glob("best_*.yaml"))) == len(on_front)
    assert all(f"| {rows[number]['trial']} | " in path.read_text() for number in on_front)
    assert (tmp_path / "front.png").stat().st_size > 5_000


@pytest.mark.slow
def test_a_trial_that_is_worse_than_the_others_is_given_up(tmp_path: Path) -> None:
    """After five trials that have ended: the median's startup. Rates of 1e-9 learn nothing."""
    base = {**BASE, "trainer": {**BASE["trainer"], "max_epochs": 3}}
    rates = [0.1, 0.05, 0.2, 1e-9]
    tune(base, {LR: rates}, trials=8, seed=1, folder=str(tmp_path))
    rows = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [float(row[LR]) for row in rows[:4]] == rates  # each once, before any is drawn again
    assert {float(row[LR]) for row in rows[4:]} <= {*rates}
    given_up = [float(row[LR]) for row in rows if row["state"] == "given up"]
    assert given_up == [0.05, 1e-9]  # each was worse than the median when it was tried first, which was not known yet
    first = [row["val/loss_normalised"] for row in rows[:4]]
    assert min(first[1], first[3]) > max(first[0], first[2])
    assert rows[7]["val/loss_normalised"] is None
    assert "6 ended well, 2 were given up early, 0 failed" in (tmp_path / "report.md").read_text()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a metric that is none": ({"objective": "val/acuracy/y1"}, "`objective`: expected a metric of validation"),
    "a metric of test": ({"objective": "test/mae/y1"}, "`objective`: .*Did you mean 'val/mae/y1'"),
    "a key that is none": ({"ranges": {"model.balancr": ["PCGrad"]}}, "base with model.balancr: PCGrad: .*'balancer'"),
    "an end that cannot be": ({"ranges": {"data.batch_size": {"low": 0, "high": 8}}}, "base with data.batch_size: 0: "),
    "a base that cannot be": ({"base": {**BASE, "trainr": {}}}, "`base`: .*'trainr'"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_told_before_any_trial(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"base": BASE, "ranges": {LR: RANGES[LR]}, **changes}
    with pytest.raises(ConfigurationError) as error:
        tune(**settings, folder=str(tmp_path))
    assert re.search(message, str(error.value))
    assert not (tmp_path / "trials").exists()


# ------------------------------------------------------------------------------------------------- tuned, then compared
@pytest.mark.slow
def test_every_entry_is_tuned_first_with_an_equal_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file, as users write it."""
    ranges = {LR: [1e-9, 0.1], "model.optimizers.balancer.lr": {"low": 0.01, "high": 0.1}}
    base = {**BASE, "model": {**BASE["model"], "balancer": "UncertaintyWeighting"}}
    base["model"]["optimizers"] = {**BASE["model"]["optimizers"], "balancer": {"class_path": "Adam"}}
    entries: dict[str, Any] = {"learned": {}, "narrow": {"ranges": {LR: [0.05], "model.optimizers.balancer.lr": None}}}
    settings = {"base": base, "entries": entries, "seeds": [5], "tune": {"trials": 1, "ranges": ranges, "seed": 3}}
    (tmp_path / "tuned.yaml").write_text(yaml.safe_dump({**settings, "folder": str(tmp_path)}, sort_keys=False))
    run(monkeypatch, "compare", "--config", str(tmp_path / "tuned.yaml"), "--workers", "2")
    path = tmp_path / "report.md"
    lines = {name: cells for name, *cells in table(path.read_text(), "Tuning")[1:]}
    assert [*lines] == ["single-task y1", "single-task y2", "learned", "narrow"]
    assert all(cells[0] == "1 of 1" for cells in lines.values())
    assert lines["narrow"][2] == "0.05"
    assert lines["single-task y1"][3] == ""  # there is no balancer
    assert 0.01 <= float(lines["learned"][3]) <= 0.1
    (config,) = (tmp_path / "trials").glob("narrow-5-*/config.yaml")
    assert yaml.safe_load(config.read_text())["model"]["optimizers"]["default"]["init_args"]["lr"] == 0.05


# ---------------------------------------------------------------------------------------------------------- what ships
def test_the_shipped_files_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that they declare can be built; `tests/study/test_compare.py` runs the comparison at full length."""
    monkeypatch.chdir(CONFIGS)
    search = yaml.safe_load((CONFIGS / "tune_multidigit.yaml").read_text())
    config, files = read_base(search["base"])
    assert config["data"]["init_args"]["sizes"] == [4000, 1000, 2000]
    check_ranges("base", config, read_ranges(search["ranges"]), MultiTaskCLI)
    comparison = yaml.safe_load((CONFIGS / "compare_multidigit.yaml").read_text())
    entries = read_entries(comparison["base"], comparison["entries"], [0])
    assert checked(entries, MultiTaskCLI, files) == ["left", "right"]
    assert len(single_task(comparison["base"], {}, ["left", "right"], [0], MultiTaskCLI)) == 2
