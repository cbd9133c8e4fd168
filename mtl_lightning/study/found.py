"""What a search has found: its trials as a table, a report and a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from mtl_lightning.study.queue import MESSAGE, RESULT
from mtl_lightning.study.search import front

__all__ = ["DRAWN", "Tried", "best", "tried", "write"]

DRAWN = "drawn"
"""What a trial of the study calls the values that it drew."""
_SHOWN = 10  # trials in the report


@dataclass(frozen=True)
class Tried:
    """A trial of a search.

    Attributes:
        trial: its number in the study.
        drawn: the values by the keys of the configuration.
        values: of the objectives; none of a trial that failed or was given up.
        state: ``complete``, ``given up`` or ``failed``.
        message: why it failed.
        epoch: the one that counts.
    """

    trial: int
    drawn: Mapping[str, Any]
    values: tuple[float, ...]
    state: str
    message: str = ""
    epoch: int | None = None


def tried(trials: Sequence[Any]) -> list[Tried]:
    """Return the trials of a study in their order."""
    states = {"COMPLETE": "complete", "PRUNED": "given up", "FAIL": "failed"}
    return [
        Tried(
            one.number,
            one.user_attrs.get(DRAWN) or {},
            tuple(one.values or ()) if one.state.name == "COMPLETE" else (),
            states[one.state.name],
            one.user_attrs.get(MESSAGE) or "",
            (one.user_attrs.get(RESULT) or {}).get("epoch"),
        )
        for one in sorted(trials, key=lambda one: one.number)
    ]


def best(found: Sequence[Tried], higher_is_better: Sequence[bool]) -> list[Tried]:
    """Return the best trial, or with several objectives those that no other one beats in all."""
    complete = [one for one in found if one.state == "complete"]
    if len(higher_is_better) > 1:
        return [complete[number] for number in front([one.values for one in complete], higher_is_better)]
    return _sorted(complete, higher_is_better)[:1]


def write(
    found: Sequence[Tried], objectives: Sequence[str], higher_is_better: Sequence[bool], name: str, folder: Path
) -> Path:
    """Write ``trials.parquet``, ``trials.csv``, ``report.md`` and a picture; return the report's path."""
    table = _table_of(found, objectives)
    pq.write_table(table, folder / "trials.parquet")
    pa_csv.write_csv(table, folder / "trials.csv")
    picture = _draw(found, objectives, higher_is_better, folder)
    path = folder / "report.md"
    path.write_text(_report(found, objectives, higher_is_better, name, picture), encoding="utf-8")
    return path


def _table_of(found: Sequence[Tried], objectives: Sequence[str]) -> Any:
    keys = list(dict.fromkeys(key for one in found for key in one.drawn))
    columns: dict[str, Any] = {
        "trial": pa.array([one.trial for one in found], pa.int64()),
        "state": pa.array([one.state for one in found], pa.string()),
        "message": pa.array([one.message or None for one in found], pa.string()),
        "epoch": pa.array([one.epoch for one in found], pa.int64()),
    }
    for place, tag in enumerate(objectives):
        columns[tag] = pa.array([one.values[place] if one.values else None for one in found], pa.float64())
    for key in keys:
        values = [one.drawn.get(key) for one in found]
        numbers = all(isinstance(v, int | float | None) and not isinstance(v, bool) for v in values)
        texts = [None if v is None else v if isinstance(v, str) else json.dumps(v) for v in values]
        columns[key] = pa.array([None if v is None else float(v) for v in values]) if numbers else pa.array(texts)
    return pa.table(columns)


def _report(
    found: Sequence[Tried], objectives: Sequence[str], higher: Sequence[bool], name: str, picture: str | None
) -> str:
    states = [one.state for one in found]
    several = len(objectives) > 1
    chosen = best(found, higher)
    shown = chosen if several else _sorted([one for one in found if one.state == "complete"], higher)[:_SHOWN]
    keys = list(dict.fromkeys(key for one in found for key in one.drawn))
    arrows = ["↑" if way else "↓" for way in higher]
    head = ["trial", *(f"{tag} {arrow}" for tag, arrow in zip(objectives, arrows, strict=True)), "epoch", *keys]
    rows = [
        [
            str(one.trial),
            *(f"{value:.4g}" for value in one.values),
            str(one.epoch),
            *(_text(one.drawn[k]) for k in keys),
        ]
        for one in shown
    ]
    files = [f"`best_{n + 1}.yaml`" for n in range(len(chosen))] if several else ["`best.yaml`"] * bool(chosen)
    counts = f"{states.count('complete')} ended well, {states.count('given up')} were given up early, "
    parts = [
        f"# Search: {name}",
        f"Of {len(found)} trials {counts}{states.count('failed')} failed. All figures are of validation, of the epoch "
        "that was the best in it; the test split was left alone.",
        "## The Pareto front: no other trial is better in all objectives" if several else "## The best trials",
        "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows]),
        f"`fit` takes {'them' if several else 'the first'} as {', '.join(files)}." if files else "No trial ended well.",
        *([f"![{'Front' if several else 'Progress'}]({picture})"] if picture else []),
    ]
    if failed := [one for one in found if one.state == "failed"]:
        lines = [f"- trial {one.trial}: {' '.join(one.message.split())} ({_text(dict(one.drawn))})" for one in failed]
        parts += ["## Failed trials", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _draw(found: Sequence[Tried], objectives: Sequence[str], higher: Sequence[bool], folder: Path) -> str | None:
    from matplotlib.figure import Figure

    complete = [one for one in found if one.state == "complete"]
    if not complete:
        return None
    couples = list(combinations(range(len(objectives)), 2))
    figure = Figure(figsize=(5.0 * max(1, len(couples)), 4.0), layout="constrained")
    panels = figure.subplots(1, max(1, len(couples)), squeeze=False)[0]
    chosen = best(found, higher)
    for panel, (x, y) in zip(panels, couples, strict=False):
        for some, label in ((complete, "all"), (chosen, "front")):
            panel.plot([one.values[x] for one in some], [one.values[y] for one in some], "o", label=label)
        panel.set_xlabel(objectives[x])
        panel.set_ylabel(objectives[y])
        panel.legend(fontsize="small")
    if not couples:
        values = [one.values[0] for one in complete]
        so_far = [(max if higher[0] else min)(values[: n + 1]) for n in range(len(values))]
        panels[0].plot(values, "o", label="trial")
        panels[0].step(range(len(values)), so_far, where="post", label="the best so far")
        panels[0].set_xlabel("trials that ended well")
        panels[0].set_ylabel(objectives[0])
        panels[0].legend(fontsize="small")
    path = folder / ("front.png" if couples else "progress.png")
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return path.name


def _sorted(found: Sequence[Tried], higher: Sequence[bool]) -> list[Tried]:
    return sorted(found, key=lambda one: (-one.values[0] if higher[0] else one.values[0], one.trial))


def _text(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}"
    return (value if isinstance(value, str) else json.dumps(value)).replace("|", "\\|")
