"""The pictures of a report."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any

from mtl_lightning.study.analysis import Analysis
from mtl_lightning.study.grid import SINGLE
from mtl_lightning.study.statistics import mean_and_error

__all__ = ["draw"]

_PANELS = 3  # in a row
_WORSE = "worse than the reference, %"


def draw(analysis: Analysis, folder: Path) -> dict[str, str]:
    """Draw what there are numbers for; return the files' names by what they show.

    ``delta``: Delta-m with its intervals; ``slopes``: every task under every way; ``tradeoffs``: each pair of tasks.
    """
    drawn = {}
    if any(analysis.delta.values()):
        drawn["delta"] = _save(_delta(analysis), folder / "delta_m.png")
        drawn["slopes"] = _save(_slopes(analysis), folder / "slopes.png")
        if len(analysis.tasks) > 1:
            drawn["tradeoffs"] = _save(_tradeoffs(analysis), folder / "tradeoffs.png")
    return drawn


def relative(analysis: Analysis) -> dict[str, dict[str, tuple[float, float]]]:
    """Return each task's mean per cent and its standard error over seeds, by way and task; single-task runs at 0."""
    found = {
        name: {task: mean_and_error([*by_seed.values()]) for task, by_seed in analysis.by_task[name].items()}
        for name in analysis.entries
    }
    single = {SINGLE: dict.fromkeys(analysis.tasks, (0.0, math.nan))} if analysis.has_single else {}
    return {**single, **{name: tasks for name, tasks in found.items() if tasks}}


def _delta(analysis: Analysis) -> Any:
    names = [name for name in analysis.entries if analysis.delta[name]]
    figure, axes = _figure(6.4, 1.2 + 0.45 * len(names))
    for place, name in enumerate(names):
        mean, error = mean_and_error([*analysis.delta[name].values()])
        found = analysis.against_single.get(name)
        axes.barh(place, mean, color=_color(analysis, name), alpha=0.8)
        low, high = (found.low, found.high) if found is not None else (mean - error, mean + error)
        if math.isfinite(low) and math.isfinite(high):
            axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], color="black", capsize=3)
    means = [mean_and_error([*analysis.delta[name].values()])[0] for name in names]
    reach = 4 * max(abs(mean) for mean in means) or 1.0
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -reach), min(high, reach))  # an interval of two seeds would hide the bars
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    what = (
        f"intervals, together {100 * analysis.settings['confidence']:g} %" if analysis.has_single else "standard errors"
    )
    axes.set_xlabel(f"Delta-m, % (below 0 is better); {what}")
    return figure


def _slopes(analysis: Analysis) -> Any:
    found = relative(analysis)
    figure, axes = _figure(2.0 + 1.1 * len(found), 4.0)
    for number, task in enumerate(analysis.tasks):
        points = [(place, *tasks[task]) for place, tasks in enumerate(found.values()) if task in tasks]
        if points:
            places, means, errors = zip(*points, strict=True)
            axes.errorbar(places, means, yerr=errors, marker="o", capsize=3, color=f"C{number}", label=task)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(found)), list(found), rotation=30, ha="right")
    axes.set_ylabel(_WORSE)
    axes.legend(fontsize="small")
    return figure


def _tradeoffs(analysis: Analysis) -> Any:
    found = relative(analysis)
    couples = list(combinations(analysis.tasks, 2))
    columns = min(_PANELS, len(couples))
    rows = math.ceil(len(couples) / columns)
    figure, axes = _figure(4.2 * columns, 3.8 * rows, rows, columns)
    panels = [axes] if len(couples) == 1 else list(axes)
    for panel, (one, other) in zip(panels, couples, strict=False):
        for name, tasks in found.items():
            if one in tasks and other in tasks:
                (x, x_error), (y, y_error) = tasks[one], tasks[other]
                panel.errorbar(
                    x, y, xerr=x_error, yerr=y_error, marker="o", capsize=2, color=_color(analysis, name), label=name
                )
        panel.set_xlabel(f"{one}: {_WORSE}")
        panel.set_ylabel(f"{other}: {_WORSE}")
    panels[0].legend(fontsize="small")
    for panel in panels[len(couples) :]:
        panel.set_visible(False)
    return figure


def _color(analysis: Analysis, name: str) -> str:
    return "black" if name == SINGLE else f"C{analysis.entries.index(name) % 10}"


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if rows * columns == 1:
        axes = figure.subplots()
        return figure, axes
    return figure, figure.subplots(rows, columns).flatten()


def _save(figure: Any, path: Path) -> str:
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return path.name
