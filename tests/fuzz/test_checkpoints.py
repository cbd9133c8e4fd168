"""Checkpoints with a byte changed, an end cut off, or something else written somewhere: what was saved, or a word."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer
from torch.optim.lr_scheduler import StepLR

from mtl_lightning import MultiTaskModule, Schedule
from mtl_lightning.errors import CheckpointError
from mtl_lightning.types import MtlLightningError
from tests.fuzz.cases import MOST_LINES, for_each, sizes
from tests.helpers import TinyData, fit, make_module

FILE = Path("model.ckpt")
FLIPPED = object()
"""What is true where that was false, and another number where that was one; the same elsewhere."""
CALIBRATION = {
    "kind": {"method": "temperature", "temperature": 1.5},
    "number": {"method": "conformal", "coverage": 0.9, "half_width": [2.0], "by": "city", "groups": {"Bern": [1.0]}},
}
VALUES: list[Any] = [
    FLIPPED, None, True, -1, 0, 2**70, float("nan"), "", "text", "os.mkdir", "tests.fuzz.canary.Canary", [], {},
    [1, [2]],
    {"class_path": "tests.fuzz.canary.Canary"}, {"class_path": "os.mkdir", "init_args": {"path": "PROOF"}},
    {"class_path": "torch.hub.load", "init_args": {}}, {"class_path": 3}, {1: 2}, torch.zeros(3),
]  # fmt: skip


def make() -> MultiTaskModule:
    """A module with schedules."""
    return make_module(schedulers={"default": Schedule(partial(StepLR, step_size=2), interval="step", warmup=2)})


def train(path: str | None = None, callbacks: tuple[Callback, ...] = ()) -> Trainer:
    """Train an epoch of eight batches, three to an update, or go on with it."""
    options = {"accumulate_grad_batches": 3, "precision": "32-true", "callbacks": [*callbacks]}
    return fit(make(), TinyData(), ckpt_path=path, **options)


class SavedInTheMiddle(Callback):
    """Saves after the fifth batch, in the middle of a window."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.fit_loop.batch_idx == 4:
            module: Any = trainer.lightning_module
            module.calibration = CALIBRATION
            trainer.save_checkpoint(FILE)


WAYS: dict[str, Callable[[str], Any]] = {
    "module": MultiTaskModule.load_from_checkpoint,
    "data": TinyData.from_checkpoint,
    "optimizers": lambda path: make().restore_optimizers(path),
    "fit": train,
}


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint of ours, as bytes, of the middle of a window."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("made"))
        train(callbacks=(SavedInTheMiddle(),))
        return FILE.read_bytes()


def answer(way: str) -> Any:
    """Return what comes of the file: None where it is refused in a few lines that name it."""
    found: Any = None
    refusal: MtlLightningError | None = None
    try:
        found = WAYS[way](str(FILE))
    except MtlLightningError as error:
        refusal = error
    assert not Path("PROOF").exists()
    assert "tests.fuzz.canary" not in sys.modules
    if refusal is not None:
        message = str(refusal)
        assert len(message.splitlines()) <= MOST_LINES, message
        if isinstance(refusal, CheckpointError):
            assert str(FILE) in message, message
    return found


# ------------------------------------------------------------------------------------------------------------- damaged
@dataclass(frozen=True)
class Damage:
    """Bytes of a file that changed: where, as a share of the whole, and how."""

    start: float
    flips: int
    length: int
    cut: bool

    def __call__(self, content: bytes) -> bytes:
        """Damage a file's content."""
        place = int(self.start * (len(content) - 1))
        if self.cut:
            return content[:place]
        changed = bytes(byte ^ self.flips for byte in content[place : place + self.length])
        return content[:place] + changed + content[place + len(changed) :]


DAMAGES = st.builds(
    Damage,
    start=st.floats(0, 1),
    flips=st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128, 255]),
    length=st.sampled_from([1, 1, 4, 64]),
    cut=st.sampled_from([False, False, True]),
)


@sizes(60, 500)
def test_a_damaged_file_is_refused_or_holds_what_was_saved(number: int, content: bytes) -> None:
    FILE.write_bytes(content)
    saved = MultiTaskModule.load_from_checkpoint(FILE).state_dict()

    def check(damage: Damage) -> None:
        FILE.write_bytes(damage(content))
        found = answer("module")
        if found is not None:
            for name, value in found.state_dict().items():
                torch.testing.assert_close(value, saved[name], rtol=0, atol=0, msg=f"{name} changed without a word")

    for_each(number, DAMAGES, check)


# ----------------------------------------------------------------------------------------------------- something else
def places(inside: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all places in nested data."""
    items = inside.items() if isinstance(inside, dict) else enumerate(inside) if isinstance(inside, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(whole: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy with something else at one place; nothing at all for ``...``."""
    made = copy.deepcopy(whole)
    inside = made
    for key in path[:-1]:
        inside = inside[key]
    if value is ...:
        del inside[path[-1]]
    elif value is FLIPPED:
        was = inside[path[-1]]
        inside[path[-1]] = not was if isinstance(was, bool) else was + 1 if isinstance(was, int | float) else was
    else:
        inside[path[-1]] = value
    return made


@pytest.mark.parametrize("way", WAYS)
@sizes(12, 150)
def test_other_data_is_refused_or_taken_but_never_run(way: str, number: int, content: bytes) -> None:
    FILE.write_bytes(content)
    whole = torch.load(FILE, weights_only=True)
    case = st.tuples(st.sampled_from(list(places(whole))), st.sampled_from([..., *VALUES]))

    def check(drawn: tuple[tuple[Any, ...], Any]) -> None:
        torch.save(changed(whole, *drawn), FILE)
        answer(way)

    for_each(number, case, check)
