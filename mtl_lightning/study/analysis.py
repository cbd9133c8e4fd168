"""What a table of results says: means, Delta-m, ranks, differences and costs. All numbers of a report are made here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median
from typing import Any

import torch

from mtl_lightning.metrics import delta_m, mean_rank
from mtl_lightning.study.grid import SINGLE
from mtl_lightning.study.statistics import Difference, difference, from_zero, mean_and_error, pooled

__all__ = ["Analysis", "Cost", "analyse"]

Named = tuple[str, str]
"""A task and a metric of it."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cost:
    """What a way takes: medians over seeds of an update's seconds, the most memory of any, the parameters.

    Single-task runs count together: their seconds and parameters are added up.
    """

    seconds_per_step: float
    peak_memory: int
    memory: str
    parameters: int


@dataclass
class Analysis:
    """The numbers of a report.

    Attributes:
        settings: of the comparison.
        ways: the names of what is compared: the entries, and the single-task runs first if there are any.
        tasks: their names.
        measured: the metrics that are shown, of test.
        counted: those of them that Delta-m and ranks count.
        higher: whether higher is better, of those of which it is known.
        values: test metrics by way, seed and metric, of complete trials.
        means: mean and standard error by way and metric.
        reference: what Delta-m is relative to, by seed and metric.
        delta: Delta-m in per cent, by entry and seed; below 0 is better.
        by_task: the mean of a task's metrics in per cent of the reference, by entry, task and seed.
        against_single: each entry's Delta-m, as a distance from 0.
        transfer: each entry's and task's difference from its reference.
        pairs: by how much the first entry's Delta-m is above the second's; the second is `against`, if that was said.
        ranks: mean ranks over all metrics that count.
        costs: by way.
        failed: (way, task, seed, message) of trials that failed.
        winner: the entry whose Delta-m is told apart from, and below, that of every other entry that has one, or None.
        notes: what was left out, and why.
    """

    settings: Mapping[str, Any]
    ways: list[str]
    tasks: list[str]
    measured: list[Named]
    counted: list[Named]
    higher: dict[Named, bool]
    values: dict[str, dict[int, dict[Named, float]]]
    means: dict[str, dict[Named, tuple[float, float]]]
    reference: dict[int, dict[Named, float]] = field(default_factory=dict)
    delta: dict[str, dict[int, float]] = field(default_factory=dict)
    by_task: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    against_single: dict[str, Difference] = field(default_factory=dict)
    transfer: dict[Named, Difference] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Difference] = field(default_factory=dict)
    ranks: dict[str, float] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    failed: list[tuple[str, str, int, str]] = field(default_factory=list)
    winner: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def entries(self) -> list[str]:
        """The entries alone."""
        return [way for way in self.ways if way != SINGLE]

    @property
    def against(self) -> str | None:
        """The entry that all others are compared with, and with nothing else; None where each is with each."""
        against: str | None = self.settings.get("against")
        return against

    @property
    def has_single(self) -> bool:
        """Whether there are single-task runs."""
        return SINGLE in self.ways


def analyse(rows: Sequence[Row], settings: Mapping[str, Any]) -> Analysis:
    """Work out what a table of results says.

    Args:
        rows: of ``results.parquet``.
        settings: its own.
    """
    confidence = float(settings["confidence"])
    ways = [*([SINGLE] if settings["baselines"] else []), *settings["entries"]]
    test = [row for row in rows if row["split"] == "test"]
    tasks = list(dict.fromkeys(row["task"] for row in test))
    measured = list(dict.fromkeys((row["task"], row["metric"]) for row in test))
    values = {way: _values(test, way, tasks) for way in ways}
    means = {
        way: {
            name: mean_and_error([found[name] for found in by_seed.values()])
            for name in measured
            if by_seed and all(name in found for found in by_seed.values())
        }
        for way, by_seed in values.items()
    }
    higher = _ways(test, settings["higher_is_better"] or {})
    counted, notes = _counted(measured, higher, settings["metrics"], values)
    analysis = Analysis(settings, ways, tasks, measured, counted, higher, values, means, notes=notes)
    analysis.failed = [
        (row["entry"], row["single_task"] or "", row["seed"], row["message"] or "")
        for row in rows
        if row["state"] == "failed"
    ]
    _set_reference(analysis)
    _set_deltas(analysis)
    rivals = [name for name in analysis.entries if analysis.delta[name]]
    if analysis.has_single:
        analysis.against_single = {name: from_zero(analysis.delta[name], confidence, len(rivals)) for name in rivals}
        of_tasks = [(name, task, found) for name in rivals for task, found in analysis.by_task[name].items()]
        analysis.transfer = {
            (name, task): from_zero(found, confidence, len(of_tasks)) for name, task, found in of_tasks
        }
    if analysis.against:
        couples = [(name, analysis.against) for name in rivals if name != analysis.against in rivals]
    else:
        couples = list(combinations(rivals, 2))
    if settings.get("spread") == "pooled":
        analysis.pairs = pooled({name: analysis.delta[name] for name in rivals}, couples, confidence)
    else:
        analysis.pairs = {
            (one, other): difference(analysis.delta[one], analysis.delta[other], confidence, len(couples))
            for one, other in couples
        }
    analysis.winner = next((name for name in rivals if _beats_all(analysis, name, rivals)), None)
    analysis.ranks = _ranks(analysis)
    analysis.costs = {way: cost for way in ways if (cost := _cost(rows, way)) is not None}
    return analysis


# ------------------------------------------------------------------------------------------------------------ its parts
def _values(test: Sequence[Row], way: str, tasks: Sequence[str]) -> dict[int, dict[Named, float]]:
    """Return a way's test metrics by seed; of single-task runs where all tasks have ended well."""
    found: dict[int, dict[Named, float]] = {}
    for row in test:
        if row["entry"] == way and row["state"] == "complete":
            found.setdefault(row["seed"], {})[row["task"], row["metric"]] = row["value"]
    return {seed: named for seed, named in sorted(found.items()) if {task for task, _ in named} == {*tasks}}


def _ways(test: Sequence[Row], said: Mapping[str, bool]) -> dict[Named, bool]:
    """Return whether higher is better, of the metrics of which it is known."""
    ways = {(row["task"], row["metric"]): said.get(row["metric"], row["higher_is_better"]) for row in test}
    return {name: bool(way) for name, way in ways.items() if way is not None}


def _counted(
    measured: Sequence[Named],
    higher: Mapping[Named, bool],
    chosen: Sequence[str] | None,
    values: Mapping[str, Mapping[int, Mapping[Named, float]]],
) -> tuple[list[Named], list[str]]:
    """Return the metrics that Delta-m and ranks count, and what had to be left out."""
    wanted = [
        (task, metric)
        for task, metric in measured
        if "/" not in metric and (metric != "loss" if chosen is None else metric in chosen)
    ]
    runs = [found for by_seed in values.values() for found in by_seed.values()]
    unsaid = [name for name in wanted if name not in higher]
    missing = [name for name in wanted if not all(name in found for found in runs)]
    notes = []
    for left_out, why in ((unsaid, "Which way is better is not known of"), (missing, "Not every run has")):
        if left_out:
            listed = ", ".join(f"{metric} of {task}" for task, metric in left_out)
            notes.append(f"{why} {listed}: left out of Delta-m and ranks.")
    return [name for name in wanted if name not in {*unsaid, *missing}], notes


def _set_reference(analysis: Analysis) -> None:
    """Find what Delta-m is relative to: the single-task runs of the seed, or else the mean of all entries."""
    if analysis.has_single:
        analysis.reference = {seed: dict(found) for seed, found in analysis.values[SINGLE].items()}
    else:
        seeds = {seed for found in analysis.values.values() for seed in found}
        complete = [found for found in analysis.means.values() if all(name in found for name in analysis.counted)]
        mean = {
            name: sum(found[name][0] for found in complete) / len(complete) for name in analysis.counted if complete
        }
        analysis.reference = {seed: mean for seed in sorted(seeds) if mean}
    bad = {
        name
        for name in analysis.counted
        for found in analysis.reference.values()
        if not found.get(name, math.nan) or not math.isfinite(found[name])
    }
    if bad:
        listed = ", ".join(sorted(f"{metric} of {task}" for task, metric in bad))
        analysis.notes.append(f"The reference of {listed} is 0 or no number with some seed: left out of Delta-m.")
        analysis.counted = [name for name in analysis.counted if name not in bad]


def _set_deltas(analysis: Analysis) -> None:
    for name in analysis.entries:
        analysis.delta[name] = {}
        analysis.by_task[name] = {task: {} for task in analysis.tasks}
        for seed, found in analysis.values[name].items():
            if seed not in analysis.reference or not analysis.counted:
                continue
            analysis.delta[name][seed] = _delta(analysis, found, seed, analysis.counted)
            for task in analysis.tasks:
                if own := [named for named in analysis.counted if named[0] == task]:
                    analysis.by_task[name][task][seed] = _delta(analysis, found, seed, own)
        analysis.by_task[name] = {task: by_seed for task, by_seed in analysis.by_task[name].items() if by_seed}


def _delta(analysis: Analysis, found: Mapping[Named, float], seed: int, names: Sequence[Named]) -> float:
    reference = analysis.reference[seed]
    values, baselines = (
        torch.tensor([some[name] for name in names], dtype=torch.float64) for some in (found, reference)
    )
    ways = [analysis.higher[name] for name in names]
    weights = analysis.settings["weights"]
    return float(delta_m(values, baselines, ways, tasks=[task for task, _ in names], weights=weights))


def _beats_all(analysis: Analysis, name: str, rivals: Sequence[str]) -> bool:
    """Whether an entry's Delta-m is told apart from, and below, that of every rival."""
    others = [other for other in rivals if other != name]
    if analysis.against:  # who is not compared with each other one cannot have won
        return False

    def beats(other: str) -> bool:
        if (name, other) in analysis.pairs:
            found = analysis.pairs[name, other]
            return found.told_apart and found.mean < 0
        found = analysis.pairs[other, name]
        return found.told_apart and found.mean > 0

    return bool(others) and all(beats(other) for other in others)


def _ranks(analysis: Analysis) -> dict[str, float]:
    ranked = [way for way in analysis.ways if all(name in analysis.means[way] for name in analysis.counted)]
    if not ranked or not analysis.counted:
        return {}
    table = [[analysis.means[way][name][0] for name in analysis.counted] for way in ranked]
    ranks = mean_rank(torch.tensor(table, dtype=torch.float64), [analysis.higher[name] for name in analysis.counted])
    return dict(zip(ranked, ranks.tolist(), strict=True))


def _cost(rows: Sequence[Row], way: str) -> Cost | None:
    trials = {(row["seed"], row["single_task"]): row for row in rows if row["entry"] == way and row["task"]}
    if not trials:
        return None
    by_seed: dict[int, list[Row]] = {}
    for (seed, _), row in trials.items():
        by_seed.setdefault(seed, []).append(row)
    complete = [found for found in by_seed.values() if len(found) == max(map(len, by_seed.values()))]
    every = [row for found in complete for row in found]
    return Cost(
        median(sum(row["seconds_per_step"] for row in found) for found in complete),
        max(row["peak_memory"] for row in every),
        every[0]["memory"],
        sum(row["parameters"] for row in complete[0]),
    )
