"""What is served: a checkpoint or an exported folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtl_lightning.predictor.predictor import Predictor


@dataclass(frozen=True)
class Served:
    """Where a model is, and how it is loaded; each worker does so for itself.

    Attributes:
        path: a checkpoint, or a folder that an export wrote.
        tasks: the tasks to answer, all by default.
        trusted: modules of the user's whose classes a checkpoint may name.
    """

    path: str
    tasks: Sequence[str] | None = None
    trusted: Sequence[str] = field(default_factory=tuple)

    def load(self, device: str = "cpu") -> Predictor:
        """Return its predictor; what is unlike training is told in the answers, not as warnings."""
        options: dict[str, Any] = {"device": device, "tasks": self.tasks, "on_unknown": "ignore"}
        if Path(self.path).is_dir():
            return Predictor.from_export(self.path, **options)
        return Predictor.from_checkpoint(self.path, trusted=self.trusted, **options)
