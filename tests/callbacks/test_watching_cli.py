"""The command line watches every run, and each diagnosis is switched off by its own key."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtl_lightning.types import MtlLightningWarning
from tests.cli import CONFIGS, only, run

SWITCHES = {
    "dead_units.every_n_steps": "dead_units",
    "update_ratio.every_n_steps": "update_ratio",
    "conflict.every_n_steps": "cosine",
    "learning_speed.every_n_steps": "learned",
    "overfitting.patience": "overfit",
    "unsettled_sigma.every_n_steps": "sigma_off",
}
DIGITS = ("--config", str(CONFIGS / "multidigit.yaml"), "--data.init_args.sizes=[256,64,64]", "--test_after_fit=false")
SHORT = ("--data.init_args.batch_size=4", "--trainer.max_epochs=1", "--trainer.accelerator=cpu")


def watched(folder: Path) -> set[str]:
    """The kinds of `watch/<kind>/...` in the one event file below a folder."""
    events = EventAccumulator(str(only(folder, "version_0/events.out.*").parent))
    events.Reload()
    return {tag.split("/")[1] for tag in events.Tags()["scalars"] if tag.startswith("watch/")}


@pytest.mark.parametrize("off", [False, True])
def test_each_is_on_and_switched_off_by_its_key(off: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switches = [f"--{key}=0" for key in SWITCHES] if off else []
    run(monkeypatch, "fit", *DIGITS, *SHORT, *switches)
    assert watched(tmp_path) & {*SWITCHES.values()} == (set() if off else {*SWITCHES.values()})


def test_gates_likewise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ("--config", str(CONFIGS / "correlated_mmoe.yaml"), "--test_after_fit=false")
    with warnings.catch_warnings():
        warnings.simplefilter("error", MtlLightningWarning)  # a shipped config has none of these faults
        run(monkeypatch, "fit", *config, "--trainer.max_epochs=3", "--trainer.accelerator=cpu")
    assert {"experts_used", "expert_use", "cosine", "learned", "overfit"} <= watched(tmp_path)
