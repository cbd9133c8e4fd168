"""The table of test metrics."""

from __future__ import annotations

from lightning.pytorch import Trainer

from mtl_lightning.core import MultiTaskModule


def metrics_table(trainer: Trainer, module: MultiTaskModule) -> str:
    """Return the last test's metrics as a table: a row per task, a column per metric; sigmas in original units, too."""
    rows: dict[str, dict[str, str]] = {name: {} for name in module.tasks}
    for tag, value in trainer.callback_metrics.items():
        stage, *metric, task = tag.split("/")
        if stage == "test" and task in rows and metric != ["labels"]:
            rows[task]["/".join(metric)] = f"{float(value):.4g}"
    for task, sigma in module.sigmas(original_units=True).items():
        rows[task]["sigma"] = f"{sigma:.4g}"
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [["task", *columns], *([task, *(row.get(c, "") for c in columns)] for task, row in rows.items())]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns) + 1)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
