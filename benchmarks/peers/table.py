"""Makes the README's table of ``records/census.jsonl``, or of the file given: means over runs, and their range."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from record import LOADING, TEST, TRAINING

PHASES = (LOADING, TRAINING, TEST)
COLUMNS = (
    "AUC income", "AUC never married", "CPU s", *PHASES, "imports, CPU s", "peak, MB", "after imports, MB", "lines",
    "runs",
)  # fmt: skip
RECORDS = Path(__file__).parent / "records" / "census.jsonl"


def spread(values: list[float], form: str) -> str:
    """Return the mean, and the least and largest in brackets where there are several."""
    return f"{mean(values):{form}}" + (f" ({min(values):{form}}-{max(values):{form}})" if len(values) > 1 else "")


def table(path: Path) -> list[str]:
    """Return the lines of the table: a row for each peer with its options, in the order of their first records."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        name = " ".join([record["peer"], *(f"{key}={value}" for key, value in record["options"].items())])
        rows.setdefault(name, []).append(record)
    made = [
        f"| {' | '.join(['', *COLUMNS])} |",
        "|" + " --- |" * (len(COLUMNS) + 1),
    ]
    for name, records in rows.items():
        cells = [
            *(spread([record["auc"][task] for record in records], ".4f") for task in ("income", "never_married")),
            spread([record["cpu_s"] for record in records], ".1f"),
            *(spread([record["phases_cpu_s"].get(phase, 0.0) for record in records], ".1f") for phase in PHASES),
            spread([record["imports_cpu_s"] for record in records], ".1f"),
            spread([record["peak_mb"] for record in records], ",.0f"),
            f"{mean(record['peak_after_imports_mb'] for record in records):,.0f}",
            str(records[-1]["lines"]),
            str(len(records)),
        ]
        made.append(f"| {name} | {' | '.join(cells)} |")
    return made


if __name__ == "__main__":
    print("\n".join(table(Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDS)))
