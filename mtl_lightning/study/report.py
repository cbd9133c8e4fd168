"""What a comparison says, in words and tables: `report.md`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtl_lightning.study.analysis import Analysis
from mtl_lightning.study.grid import SINGLE
from mtl_lightning.study.statistics import MOST_SEEDS, POWER, Difference

__all__ = ["report"]

_POOLED = [
    "- Differences between entries have one spread, pooled over all of them (a two-way layout of entries and seeds): "
    "their intervals are right only where entries vary about as much from seed to seed.",
]


def report(analysis: Analysis, figures: Mapping[str, str] | None = None) -> str:
    """Return the report as Markdown.

    Args:
        analysis: the numbers.
        figures: file names by what they show: ``delta``, ``slopes``, ``tradeoffs``.
    """
    shown = figures or {}
    parts = [
        _title(analysis),
        _answers(analysis),
        _summary(analysis, shown),
        _metrics(analysis, shown),
        _pairs(analysis),
        _transfer(analysis),
        _tuned(analysis),
        _costs(analysis),
        _failures(analysis),
        _method(analysis),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# ------------------------------------------------------------------------------------------------------------- sections
def _title(analysis: Analysis) -> str:
    settings = analysis.settings
    counts = settings["trials"]
    lines = [
        f"# Comparison: {settings['name']}",
        "",
        f"{counts['complete']} of {counts['planned']} trials ended well. All figures are of the "
        "test split, of the epoch that was the best in validation. They can be worked out again from "
        "`results.parquet`.",
    ]
    return "\n".join(lines)


def _answers(analysis: Analysis) -> str:
    lines = ["## In short", ""]
    entries = [name for name in analysis.entries if analysis.delta[name]]
    level = _percent(analysis.settings["confidence"])
    if analysis.against:
        lines += [
            f"- {one} against {other}: {_verdict(found, 'better', 'worse', 'points of Delta-m')}."
            for (one, other), found in analysis.pairs.items()
        ]
    elif len(entries) > 1:
        if analysis.winner:
            lines.append(
                f"- **{analysis.winner}** has the lowest Delta-m: its difference to each other entry excludes 0 "
                f"(together at {level})."
            )
        else:
            lines.append(
                f"- **No winner**: no entry's difference in Delta-m to each other one excludes 0 (together at {level})."
            )
    for name, found in analysis.against_single.items():
        lines.append(f"- {name} against single-task runs: {_verdict(found, 'better', 'worse')}.")
    harmed = [(name, task) for (name, task), found in analysis.transfer.items() if found.told_apart and found.mean > 0]
    for name, task in harmed:
        much = _interval(analysis.transfer[name, task])
        lines.append(f"- Negative transfer: under {name}, {task} is worse than alone, by {much} per cent.")
    if analysis.transfer and not harmed:
        lines.append("- Negative transfer: no task is told to be worse than alone.")
    if nothing := [name for name in analysis.entries if not analysis.delta[name]]:
        lines.append(f"- Without any figure, and left out of all comparisons: {', '.join(nothing)}.")
    for way, task, seed, message in analysis.failed:
        lines.append(f"- Failed: {way}{f' {task}' if task else ''}, seed {seed}: {_one_line(message)}")
    return "\n".join(lines)


def _summary(analysis: Analysis, figures: Mapping[str, str]) -> str:
    rows = []
    for way in analysis.ways:
        found = analysis.against_single.get(way)
        mean = _mean(analysis.delta[way].values()) if analysis.delta.get(way) else math.nan
        interval = _ends(found) if found is not None else ""
        delta = "0" if way == SINGLE else _number(mean)
        rank = analysis.ranks.get(way, math.nan)
        rows.append([way, str(len(analysis.values[way])), delta, interval, _number(rank)])
    what = "single-task runs of the same seed" if analysis.has_single else "the mean of all entries"
    over = "tasks" if analysis.settings["weights"] == "task" else "metrics"
    text = (
        f"Delta-m is the mean over {over} of how much worse than {what} they are, in per cent: below 0 is better. It "
        f"counts {_listed(analysis.counted)}."
    )
    head = ["", "seeds", "Delta-m, %", "interval", "mean rank"]
    if not analysis.has_single:
        head, rows = _without(3, head, rows)
    return "\n\n".join(["## Delta-m and rank", text, _table(head, rows), *_picture(figures, "delta", "Delta-m")])


def _metrics(analysis: Analysis, figures: Mapping[str, str]) -> str:
    head = ["", *(f"{metric} of {task}{_arrow(analysis, (task, metric))}" for task, metric in analysis.measured)]
    rows = [[way, *(_with_error(analysis.means[way].get(name)) for name in analysis.measured)] for way in analysis.ways]
    head, *rows = [list(line) for line in zip(head, *rows, strict=True)]
    text = "Mean and standard error over seeds; the arrow says which way is better."
    pictures = [*_picture(figures, "slopes", "Tasks"), *_picture(figures, "tradeoffs", "Trade-offs between tasks")]
    return "\n\n".join(["## Metrics", text, _table(head, rows), *pictures])


def _pairs(analysis: Analysis) -> str:
    if not analysis.pairs:
        return ""
    rows = [
        [f"{one} - {other}", _number(found.mean), _ends(found), _kind(found), _told(found)]
        for (one, other), found in analysis.pairs.items()
    ]
    text = (
        "By how much the first one's Delta-m is above the second's, in points of per cent. The intervals hold together "
        f"at {_percent(analysis.settings['confidence'])}."
    )
    return "\n\n".join(["## Differences", text, _table(["", "mean", "interval", "seeds", "verdict"], rows)])


def _transfer(analysis: Analysis) -> str:
    if not analysis.transfer:
        return ""
    rows = [
        [name, task, _number(found.mean), _ends(found), _told(found, "better than alone", "worse than alone")]
        for (name, task), found in analysis.transfer.items()
    ]
    text = (
        "How much worse each task is than alone, in per cent (the mean over its metrics that count): above 0 is "
        f"negative transfer. The intervals hold together at {_percent(analysis.settings['confidence'])}."
    )
    head = ["", "task", "mean", "interval", "verdict"]
    return "\n\n".join(["## Each task against its own network", text, _table(head, rows)])


def _costs(analysis: Analysis) -> str:
    rows = [
        [
            way,
            f"{1000 * cost.seconds_per_step:.3g}",
            f"{cost.peak_memory / 2**20:.0f}",
            cost.memory,
            f"{cost.parameters}",
        ]
        for way, cost in analysis.costs.items()
    ]
    text = "The median milliseconds of an update, the most memory of any trial, and the parameters"
    single = "; single-task runs are added up, but for memory." if analysis.has_single else "."
    return "\n\n".join(["## Costs", text + single, _table(["", "ms", "MiB", "of", "parameters"], rows)]) if rows else ""


def _tuned(analysis: Analysis) -> str:
    told: Mapping[str, Any] = analysis.settings["tuned"]
    if not told:
        return "## Tuning\n\nNothing was tuned: every entry was trained as it is declared, which may suit one better."
    keys = list(dict.fromkeys(key for found in told.values() for key in found["drawn"]))
    rows = [
        [
            name,
            f"{found['well']} of {found['trials']}",
            "" if found["value"] is None else f"{found['value']:.4g}",
            *(_drawn(found["drawn"].get(key)) for key in keys),
        ]
        for name, found in told.items()
    ]
    objective = next(iter(told.values()))["objective"]
    text = "Each was tuned first, in validation, with as many trials; with the values that did best it was compared."
    return "\n\n".join(["## Tuning", text, _table(["", "trials", objective, *keys], rows)])


def _failures(analysis: Analysis) -> str:
    if not analysis.failed:
        return ""
    rows = [[way, task, str(seed), _one_line(message)] for way, task, seed, message in analysis.failed]
    return "\n\n".join(["## Failed trials", _table(["", "task", "seed", "message"], rows)])


def _method(analysis: Analysis) -> str:
    settings = analysis.settings
    level = _percent(settings["confidence"])
    won = "" if analysis.against else "A winner is named only if it is told apart from each other entry. "
    lines = [
        "## How to read it",
        "",
        "- Intervals are Student's t, of differences paired by seed where two ways have at least two seeds in common, "
        f"else Welch's. Those of one table hold together at {level} (Bonferroni over its lines).",
        *(_POOLED if settings.get("spread") == "pooled" else []),
        f"- Two ways are told apart where the interval of their difference excludes 0. {won}Where they are not, the "
        "number of seeds is named with which an interval would exclude 0 with a probability of about "
        f"{POWER:g}, if mean and spread are what they seem.",
        "- Epochs were chosen in validation, by the metric that the entry's checkpoints monitor "
        "(`val/loss_normalised` unless it says otherwise).",
        *(f"- {note}" for note in analysis.notes),
    ]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------- words
def _verdict(found: Difference, below: str, above: str, units: str = "per cent") -> str:
    """Say which way a difference is, or what would tell."""
    if found.told_apart:
        return f"**{below if found.mean < 0 else above}**, by {_interval(found)} {units}"
    return _told(found)


def _told(found: Difference, below: str = "the first is better", above: str = "the second is better") -> str:
    if found.told_apart:
        return below if found.mean < 0 else above
    if found.seeds < 2:
        return "not told apart; one seed tells nothing" if found.seeds else "not told apart; no seed of both"
    if not found.mean:
        return "not told apart; no difference at all"
    if found.low == found.high:
        return "not told apart; every seed gives the same"
    seeds = f"about {found.needed} seeds" if found.needed else f"more than {MOST_SEEDS} seeds"
    return f"not told apart; {seeds} would"


def _interval(found: Difference) -> str:
    ends = sorted((abs(found.low), abs(found.high)))
    return f"{abs(found.mean):.3g} ({ends[0]:.3g} to {ends[1]:.3g})"


def _ends(found: Difference) -> str:
    return f"{_number(found.low)} to {_number(found.high)}" if not math.isnan(found.low) else "none"


def _kind(found: Difference) -> str:
    return f"{found.seeds}, {'paired' if found.paired else 'unpaired'}"


def _listed(names: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{metric} of {task}" for task, metric in names) or "nothing"


def _arrow(analysis: Analysis, name: tuple[str, str]) -> str:
    way = analysis.higher.get(name)
    return "" if way is None else " ↑" if way else " ↓"


def _with_error(found: tuple[float, float] | None) -> str:
    if found is None:
        return ""
    return f"{found[0]:.4g} ± {found[1]:.2g}" if not math.isnan(found[1]) else f"{found[0]:.4g}"


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else math.nan


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.0f}"


def _drawn(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def _percent(level: float) -> str:
    return f"{100 * level:g} %"


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _picture(figures: Mapping[str, str], name: str, title: str) -> list[str]:
    return [f"![{title}]({figures[name]})"] if name in figures else []


def _without(column: int, head: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    return [*head[:column], *head[column + 1 :]], [[*row[:column], *row[column + 1 :]] for row in rows]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
