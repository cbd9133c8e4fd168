"""The short table of a comparison: ``python -m benchmarks.results_table benchmarks/results/census``.

A line for each method: Delta-m against single-task networks with its interval, by how much that is above the plain
sum's with its interval, and the time of an update beside the plain sum's.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mtl_lightning.study import results
from mtl_lightning.study.analysis import Analysis, analyse
from mtl_lightning.study.grid import SINGLE
from mtl_lightning.study.statistics import Difference

__all__ = ["FOLDER", "analysis_of", "lines", "show"]

FOLDER = Path(__file__).parent / "results"


def analysis_of(folder: Path) -> Analysis:
    """Return the numbers of the results in a folder."""
    return analyse(*results.read(folder / "results.parquet"))


def lines(analysis: Analysis) -> list[str]:
    """Return the table's lines, as Markdown; a difference whose interval excludes 0 is bold."""
    base = analysis.against or analysis.entries[0]
    floor = analysis.costs[base].seconds_per_step
    found = [
        f"| method | Delta-m, % | its interval | above {base} | its interval | time of an update |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for way in analysis.ways:
        alone = analysis.against_single.get(way)
        other = analysis.pairs.get((way, base))
        mean = "0" if way == SINGLE else _mean(alone)
        time = f"{analysis.costs[way].seconds_per_step / floor:.2g}"
        cells = [way, mean, _ends(alone), _mean(other), _ends(other), time]
        found.append(f"| {' | '.join(cells)} |")
    return found


def _mean(found: Difference | None) -> str:
    if found is None:
        return ""
    return f"**{found.mean:.2f}**" if found.told_apart else f"{found.mean:.2f}"


def _ends(found: Difference | None) -> str:
    return "" if found is None else f"{found.low:.2f} to {found.high:.2f}"


def show(folders: list[str]) -> None:
    """Print the tables of folders."""
    for folder in folders:
        print(f"{Path(folder).name}\n\n" + "\n".join(lines(analysis_of(Path(folder)))) + "\n")


if __name__ == "__main__":
    show(sys.argv[1:])
