"""A checkpoint file is whole or not there; what had its name before stays until then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from mtl_lightning.core.compat.atomic import AtomicCheckpointIO
from tests.helpers import TinyData, fit, make_module, make_trainer


class Unreadable:
    """Fails in the middle of being written."""

    def __reduce__(self) -> Any:
        raise OSError("no space left")


def ours(step: int) -> dict[str, Any]:
    """A checkpoint of ours, as small as it can be."""
    part: dict[str, Any] = {
        "format": 2,
        "config": {},
        "by_code": {},
        "task_names": [],
        "processes": [],
        "input_spec": None,
    }
    return {"step": step, "state_dict": {}, "pytorch-lightning_version": "2.6.0", "mtl_lightning": part}


def test_a_failed_save_leaves_the_checkpoint_before() -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint(ours(1), "folder/last.ckpt")
    with pytest.raises(OSError, match="no space left"):
        io.save_checkpoint({**ours(2), "more": Unreadable()}, "folder/last.ckpt")
    assert io.load_checkpoint("folder/last.ckpt") == ours(1)
    io.save_checkpoint(ours(3), Path("folder/last.ckpt"))
    assert io.load_checkpoint("folder/last.ckpt") == ours(3)
    assert [path.name for path in Path("folder").iterdir()] == ["last.ckpt"]


def test_options_of_another_storage_are_refused_as_by_lightning() -> None:
    with pytest.raises(TypeError, match="storage_options"):
        AtomicCheckpointIO().save_checkpoint({}, "last.ckpt", storage_options={"a": 1})


def test_a_link_is_replaced_and_what_it_points_at_stays() -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint(ours(1), "step=1.ckpt")
    Path("last.ckpt").symlink_to("step=1.ckpt")
    io.save_checkpoint(ours(2), "last.ckpt")
    assert (io.load_checkpoint("step=1.ckpt"), io.load_checkpoint("last.ckpt")) == (ours(1), ours(2))


def test_a_training_run_writes_so_unless_the_user_has_a_way() -> None:
    class Mine(TorchCheckpointIO):
        """A user's own."""

    for given, used in (([], AtomicCheckpointIO), ([Mine()], Mine)):
        data = TinyData()
        trainer = make_trainer(callbacks=[ModelCheckpoint("saved")], plugins=given)
        trainer.fit(make_module(tasks=data.tasks), data)
        assert type(trainer.strategy.checkpoint_io) is used
    assert fit(make_module(), TinyData()).global_step == 8
