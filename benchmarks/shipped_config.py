"""Trains a shipped config with a seed, without logs and checkpoints, and evaluates what it ends with."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from statistics import mean, stdev
from typing import Any

CONFIGS = Path(__file__).parent.parent / "configs"


def fit(name: str, root: str, seed: int, options: Sequence[str] = ()) -> Any:
    """Train a config; return the command line that holds all of it."""
    from mtl_lightning.cli import MultiTaskCLI

    with redirect_stdout(sys.stderr):  # its tables of epochs are not the benchmark's
        return MultiTaskCLI(
            args=[
                "fit", f"--config={CONFIGS / name}.yaml", f"--seed_everything={seed}", f"--data.init_args.seed={seed}",
                f"--data.init_args.root={root}", "--test_after_fit=false", "--trainer.accelerator=cpu",
                "--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false",
                "--trainer.enable_model_summary=false", *options,
            ],
            save_config_callback=None,  # which would write into the current folder
        )  # fmt: skip


def train(name: str, root: str, seed: int, options: Sequence[str] = ()) -> tuple[dict[str, float], Any]:
    """Train a config; return its metrics on validation and test rows, and the command line that holds all of it."""
    made = fit(name, root, seed, options)
    found: dict[str, float] = {}
    for evaluate in (made.trainer.validate, made.trainer.test):
        (metrics,) = evaluate(made.model, datamodule=made.datamodule, verbose=False)
        found |= metrics
    print(json.dumps({"config": name, "seed": seed} | found), file=sys.stderr, flush=True)
    return found, made


def summary(values: Sequence[float], form: str = ".4f", error: str = ".4f") -> str:
    """Return mean and standard deviation over the seeds, in these formats."""
    return f"{mean(values):{form}}" + (f" +- {stdev(values):{error}}" if len(values) > 1 else "")
