"""Helpers to run the command line inside a test, on a folder of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mtl_lightning.cli import main

CONFIGS = Path(__file__).parent.parent / "configs"
SMALL = ("--data.init_args.sizes=[512,128,128]", "--trainer.max_epochs=2", "--trainer.accelerator=cpu")
"""A short run of `configs/multidigit.yaml`: four updates."""


def run(monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    """Run ``mtl-lightning`` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["mtl-lightning", *args])
    main()


def only(folder: Path, pattern: str) -> Path:
    """Return the one file below ``folder`` that matches."""
    (found,) = folder.rglob(pattern)
    return found
