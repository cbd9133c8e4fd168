"""Reads back what a run has written and said."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtl_lightning.types import MtlLightningWarning


def scalars(logger: TensorBoardLogger, prefix: str) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) pairs of every tag under ``prefix`` in the logger's event files."""
    logger.experiment.flush()
    events = EventAccumulator(str(Path(logger.log_dir)), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith(prefix)]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


@contextmanager
def said() -> Iterator[list[str]]:
    """The texts of this library's warnings, as they come."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
        texts += [str(w.message) for w in caught if issubclass(w.category, MtlLightningWarning)]
