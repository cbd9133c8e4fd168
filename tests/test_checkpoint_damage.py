"""Checkpoint files that are damaged, foreign, cut short or hostile: one sentence with the file's name, and no code."""

from __future__ import annotations

import os
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from torch.optim.lr_scheduler import StepLR

from mtl_lightning import MultiTaskModule, Schedule, checkpoint_file
from mtl_lightning.cli import MultiTaskCLI
from mtl_lightning.errors import CheckpointError, MissingCheckpointError
from tests.cli import run
from tests.helpers import TinyData, assert_same, fit, make_module, weights_of

PATH = Path("saved/model.ckpt")
MODEL = ("--model.architecture=SharedBottom", "--model.architecture.encoder=MLP")


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint of ours, as bytes."""
    folder = tmp_path_factory.mktemp("made")
    fit(make_module(), TinyData(), callbacks=[ModelCheckpoint(str(folder), filename="model")], precision="32-true")
    return (folder / "model.ckpt").read_bytes()


@pytest.fixture
def saved(content: bytes) -> dict[str, Any]:
    PATH.parent.mkdir()
    PATH.write_bytes(content)
    checkpoint: dict[str, Any] = torch.load(PATH, weights_only=True)
    return checkpoint


WAYS: dict[str, Callable[[Any], Any]] = {
    "module": MultiTaskModule.load_from_checkpoint,
    "optimizers": lambda path: make_module().restore_optimizers(path),
    "data": TinyData.from_checkpoint,
    "fit": lambda path: fit(make_module(), TinyData(), ckpt_path=path, precision="32-true"),
}


def refused(path: Any, way: str = "module") -> str:
    """Return what is said, which has the file's name and is short."""
    with pytest.raises(CheckpointError) as caught:
        WAYS[way](path)
    message = str(caught.value)
    assert str(path) in message
    assert len(message.splitlines()) <= 6
    return message


# ------------------------------------------------------------------------------------------------------------- damaged
@pytest.mark.parametrize("way", ["module", "data"])
def test_files_that_were_cut_short(saved: dict[str, Any], content: bytes, way: str) -> None:
    for part in range(60):
        PATH.write_bytes(content[: len(content) * part // 60])
        assert "damaged" in refused(PATH, way)


def test_a_resumed_run_says_so_too(saved: dict[str, Any], content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    PATH.write_bytes(content[: len(content) // 2])
    assert "cut short" in refused(str(PATH), "fit")
    assert "cut short" in refused(PATH, "optimizers")
    with pytest.raises(SystemExit, match=r"model\.ckpt: expected a checkpoint file, found one that is damaged"):
        run(monkeypatch, "test", "--data=SyntheticRegression", *MODEL, f"--ckpt_path={PATH}", "--trainer.logger=false")


def test_a_bit_that_flipped_is_found_wherever_it_is(saved: dict[str, Any], content: bytes) -> None:
    whole = torch.load(PATH, weights_only=True)
    with zipfile.ZipFile(PATH) as archive:
        entries = [(e.filename, e.header_offset + 30 + len(e.filename), e.file_size) for e in archive.infolist()]
    found = 0
    for position in range(64, len(content), len(content) // 60):
        PATH.write_bytes(content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :])
        try:
            assert str(torch.load(PATH, weights_only=True)) == str(whole)  # a byte that nobody reads
            assert str(checkpoint_file.read(PATH)) == str(whole)
        except Exception:
            refused(PATH)
            found += 1
    assert found > 8
    name, start, size = max(entries, key=lambda entry: entry[2] if "/data/" in entry[0] else 0)
    middle = content.index(PATH.read_bytes()[start + 64 : start + 80], start) + size // 2
    PATH.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    assert name in refused(PATH)


@pytest.mark.parametrize("field", [20, 38], ids=["compressed size", "attributes"])
def test_a_directory_in_which_torch_would_read_zeros_is_refused(
    saved: dict[str, Any], content: bytes, field: int
) -> None:
    place = content.index(b"PK\x01\x02") + field  # of the first entry in the archive's directory
    while place > 0:
        PATH.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        refused(PATH)
        place = content.find(b"PK\x01\x02", place) + field if content.find(b"PK\x01\x02", place) > 0 else 0


def test_a_tensor_with_another_bit_is_refused_by_every_way(saved: dict[str, Any], content: bytes) -> None:
    weight = max(saved["state_dict"].values(), key=lambda value: value.numel())
    place = content.index(weight.numpy().tobytes())
    PATH.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    for way in ("module", "optimizers", "fit"):
        assert "CRC" in refused(str(PATH), way)


def test_files_without_checksums_are_read(saved: dict[str, Any]) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(saved, PATH)
    finally:
        torch.serialization.set_crc32_options(True)
    MultiTaskModule.load_from_checkpoint(PATH)


# ------------------------------------------------------------------------------------------------------ another's files
FOREIGN: dict[str, Any] = {
    "another module's": {"state_dict": {}, "epoch": 1},
    "a list": [1, 2],
    "a tensor": torch.zeros(2),
    "our key alone": {"mtl_lightning": {}},
    "a part that is none": {"mtl_lightning": 3, "state_dict": {}},
    "a part without a configuration": {"mtl_lightning": {"format": 2}, "state_dict": {}},
    "a list for a configuration": {"mtl_lightning": {"format": 2, "config": []}, "state_dict": {}},
    "a list for a state dict": {"mtl_lightning": {"config": {}, "by_code": {}}, "state_dict": []},
    "a format that is no number": {"mtl_lightning": {"format": [2]}, "state_dict": {}},
}


@pytest.mark.parametrize("found", FOREIGN)
def test_files_of_another_kind(found: str) -> None:
    PATH.parent.mkdir()
    torch.save(FOREIGN[found], PATH)
    for way in WAYS:
        refused(str(PATH), way)


@pytest.mark.parametrize("name", ["epoch", "loops", "callbacks", "optimizer_states", "state_dict"])
def test_entries_of_another_type(saved: dict[str, Any], name: str) -> None:
    torch.save({**saved, name: "text"}, PATH)
    assert f"under {name}, found str" in refused(str(PATH), "fit")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("loops", "fit_loop", "epoch_progress", "current"), 3),
        (("loops", "fit_loop", "epoch_progress", "current", "completed"), None),
        (("loops", "fit_loop"), {}),
        (("optimizer_states", 0), torch.zeros(3)),
        (("optimizer_states", 0, "param_groups", 0), {"class_path": "os.system"}),
        (("optimizer_states", 0, "state", 0), []),
    ],
)
def test_states_that_are_none(saved: dict[str, Any], place: tuple[Any, ...], value: Any) -> None:
    inside: Any = saved
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    torch.save(saved, PATH)
    assert "expected what an interrupted run goes on with" in refused(str(PATH), "fit")


@pytest.mark.parametrize("version", [None, "text", 2.5, [1], torch.zeros(2)], ids=str)
def test_a_version_of_lightning_that_is_none(saved: dict[str, Any], version: Any) -> None:
    torch.save({**saved, "pytorch-lightning_version": version}, PATH)
    assert "under pytorch-lightning_version the version of Lightning" in refused(str(PATH), "fit")
    del saved["pytorch-lightning_version"]
    torch.save(saved, PATH)
    assert "found None" in refused(str(PATH), "fit")
    MultiTaskModule.load_from_checkpoint(PATH)  # which asks nobody


class SaveAt(Callback):
    """Saves after one batch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.fit_loop.batch_idx == self.batch:
            trainer.save_checkpoint(PATH)


SCHEDULES = {"default": Schedule(partial(StepLR, step_size=1), interval="step", warmup=2)}


def begun(**options: Any) -> Trainer:
    """Eight batches, three to an update, under schedules."""
    module = make_module(schedulers=SCHEDULES)
    return fit(module, TinyData(), accumulate_grad_batches=3, precision="32-true", **options)


OPTIMIZER = ("optimizer_states", 0, "param_groups", 0)
PROCESS = ("mtl_lightning", "processes", 0)
SAMPLE = (*PROCESS, "updates", "label_sample", "number")
LOADER = ("loops", "fit_loop", "state_dict", "combined_loader")
SCHEDULER = ("lr_schedulers", 0, "shared", "scheduler")
ALTERED: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "ascent": ((*OPTIMIZER, "maximize"), True, "group 'shared' the option 'maximize' to be False"),
    "another Adam": ((*OPTIMIZER, "amsgrad"), True, "group 'shared' the option 'amsgrad' to be False"),
    "a negative rate": ((*OPTIMIZER, "lr"), -1.0, "group 'shared' as 'lr' a finite number of at least 0, found -1"),
    "another parameter": ((*OPTIMIZER, "params", 0), 7, "parameters that are not counted up"),
    "a nameless group": ((*OPTIMIZER, "name"), None, "The optimizer groups changed"),
    "a window of text": ((*PROCESS, "accumulation", "window"), "text", "`accumulation.window` is a str"),
    "a window of no batches": ((*PROCESS, "accumulation", "window"), [1, [2]], "BatchError: Expected a batch"),
    "a batch of others": ((*PROCESS, "accumulation", "window", 0, "targets"), {"x": torch.zeros(8)}, "no tasks"),
    "labels of others": ((*PROCESS, "accumulation", "window", 0, "targets", "kind"), torch.zeros(3), "Task 'kind'"),
    "inputs of another size": ((*PROCESS, "accumulation", "window", 0, "inputs"), torch.zeros(8, 3), "inputs of shape"),
    "inputs of nothing": ((*PROCESS, "accumulation", "window", 0, "inputs"), None, "inputs of shape"),
    "fewer labels": ((*PROCESS, "accumulation", "window", 0, "targets", "kind"), torch.ones(3).long(), "those of 3"),
    "a sample of parts": ((*SAMPLE, "every"), 2.5, "`sample.every` is 2.5"),
    "a sample of nothing": ((*SAMPLE, "every"), 0, "labels, found 0"),
    "a sample of text": ((*SAMPLE, "seen"), "text", "`sample.seen` is a str"),
    "a sample of other labels": ((*SAMPLE, "added", 0), torch.zeros(3), "a sample of labels"),
    "labels of nobody": ((*PROCESS, "labels", "labelled"), "text", "`labels.labelled` is a str"),
    "no part of ours": (("mtl_lightning",), torch.zeros(3), "expected a dict under 'mtl_lightning'"),
    "no format": (("mtl_lightning", "format"), ..., "the number of a format"),
    "a validation that may be due": (("mtl_lightning", "validation_is_due"), torch.zeros(3), "expected a bool under"),
    "many skipped": ((*PROCESS, "updates", "skipped"), torch.zeros(3), "`updates.skipped` is a Tensor"),
    "fewer than none": (("loops", "fit_loop", "epoch_progress", "current", "ready"), -1, "current` counts"),
    "epochs at once": (("loops", "fit_loop", "epoch_progress", "current", "ready"), 3, "current` counts"),
    "no loader": (LOADER, True, "no list of loaders' states"),
    "a loader's text": ((*LOADER, 0, "epoch"), "text", "Expected of a loader the epoch"),
    "part of a batch": ((*LOADER, 0, "batches"), 2.5, "Expected of a loader the epoch"),
    "other rows": ((*LOADER, 0, "rows"), 61, "cannot continue epoch 0"),
    "no list of schedules": (("lr_schedulers",), None, "`lr_schedulers` is no list"),
    "no schedules": (("lr_schedulers",), [], "`lr_schedulers` without the states"),
    "schedules of nobody": (SCHEDULER[:2], {}, "The scheduled groups changed"),
    "other schedules": (SCHEDULER[:2], [1], "`lr_schedulers` is no list"),
    "rates of text": ((*SCHEDULER, "_schedulers", 0, "base_lrs"), ["text"], "._schedulers.base_lrs` is a str"),
    "rates of more": ((*SCHEDULER, "_last_lr"), [0.1, 0.1], "`shared.scheduler._last_lr` has 2 entries"),
    "half an epoch": ((*SCHEDULER, "last_epoch"), 2.5, "`shared.scheduler.last_epoch` is 2.5"),
    "no schedule": (SCHEDULER[:-1], {"last_epoch": 1}, "`shared`: KeyError('scheduler')"),
    "an uncounted one": ((*SCHEDULER, "_schedulers", 1), {}, "`shared.scheduler._schedulers` without "),
    "no best": ((*SCHEDULER, "_schedulers", 1), {"last_epoch": 1, "step_size": 1, "_step_count": 1}, "without gamma"),
    "fewer schedules": (SCHEDULER, {"last_epoch": 1, "_last_lr": [0.1]}, "`shared`: KeyError('_schedulers')"),
}  # fmt: skip


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint of the middle of a window, as bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("made"))
        PATH.parent.mkdir()
        begun(callbacks=[SaveAt(4)])
        return PATH.read_bytes()


@pytest.mark.parametrize(("place", "value", "found"), ALTERED.values(), ids=ALTERED)
def test_what_no_run_goes_on_with(interrupted: bytes, place: tuple[Any, ...], value: Any, found: str) -> None:
    PATH.parent.mkdir()
    PATH.write_bytes(interrupted)
    whole = torch.load(PATH, weights_only=True)
    inside: Any = whole
    for key in place[:-1]:
        inside = inside[key]
    if value is ...:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    torch.save(whole, PATH)
    with pytest.raises(CheckpointError) as caught:
        begun(ckpt_path=str(PATH))
    message = str(caught.value)
    assert message.startswith(f"{PATH}: ")
    assert found.lower() in message.lower()
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("missing", [False, True])
def test_how_steps_are_computed_is_this_machines_to_say(interrupted: bytes, missing: bool) -> None:
    """A checkpoint of a GPU, or of an older PyTorch, goes on as one of here does."""
    PATH.parent.mkdir()
    PATH.write_bytes(interrupted)
    expected = weights_of(cast("MultiTaskModule", begun(ckpt_path=str(PATH)).lightning_module))
    whole = torch.load(PATH, weights_only=True)
    for group in whole["optimizer_states"][0]["param_groups"]:
        group.update({"foreach": True, "fused": False, "capturable": True, "differentiable": True})
        if missing:
            for name in ("foreach", "fused", "capturable", "differentiable", "amsgrad", "maximize"):
                del group[name]
            group.pop("decoupled_weight_decay", None)  # since 2.7
    torch.save(whole, PATH)
    assert_same(weights_of(cast("MultiTaskModule", begun(ckpt_path=str(PATH)).lightning_module)), expected)


def test_what_is_no_checkpoint_at_all() -> None:
    Path("text.ckpt").write_text("hello")
    Path("folder.ckpt").mkdir()
    Path("empty.ckpt").touch()
    with zipfile.ZipFile("photos.ckpt", "w") as archive:
        archive.writestr("a.txt", "a")
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), "script.ckpt")
    for name in ("text.ckpt", "folder.ckpt", "empty.ckpt", "photos.ckpt", "script.ckpt"):
        for way in WAYS:
            refused(name, way)


def test_a_file_that_is_not_there() -> None:
    for way in ("module", "optimizers", "data"):
        with pytest.raises(
            MissingCheckpointError, match=r"^nowhere/x\.ckpt: expected a checkpoint file, found no such"
        ):
            WAYS[way]("nowhere/x.ckpt")
    with pytest.raises(FileNotFoundError):
        WAYS["module"]("memory://nowhere/x.ckpt")


def test_weights_of_another_module_are_told_apart(saved: dict[str, Any]) -> None:
    first, second, *_ = saved["state_dict"]
    saved["state_dict"]["more"] = saved["state_dict"].pop(first)
    saved["state_dict"][second] = torch.zeros(7, 7, 7)
    torch.save(saved, PATH)
    for way in ("module", "fit"):
        with pytest.raises(
            CheckpointError, match=r"model\.ckpt: .*Missing key.*unexpected key: more; other shape: .* \(7, 7, 7\) for"
        ):
            WAYS[way](str(PATH))


def test_a_compressed_file_could_fill_the_memory(saved: dict[str, Any]) -> None:
    with zipfile.ZipFile(PATH) as archive, zipfile.ZipFile("bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in archive.infolist():
            packed.writestr(entry.filename, archive.read(entry))
    assert "parts are compressed" in refused("bomb.ckpt")


# ----------------------------------------------------------------------------------------------------------- elsewhere
class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("PROOF",)


@pytest.fixture
def address() -> Iterator[str]:
    """Serve this folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=os.getcwd()))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_checkpoints_of_the_web_are_data_too(saved: dict[str, Any], address: str) -> None:
    torch.save({**saved, "x": Evil()}, "evil.ckpt")
    for where in ("evil.ckpt", f"{address}/evil.ckpt"):
        for way in WAYS:
            assert "may run code" in refused(where, way)
    with pytest.raises(CheckpointError, match="may run code"):
        fit(make_module(), TinyData(), ckpt_path=f"{address}/evil.ckpt", plugins=[AsyncCheckpointIO()])
    assert not Path("PROOF").exists()
    with pytest.raises(CheckpointError, match=r"404"):
        MultiTaskModule.load_from_checkpoint(f"{address}/nothing.ckpt")


def test_hyperparameters_in_a_checkpoint_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's command line would put them over the configuration, and make what they name."""
    monkeypatch.setattr(sys, "argv", ["mtl-lightning"])
    options = ["--data=SyntheticRegression", *MODEL, "--trainer.logger=false", "--trainer.accelerator=cpu"]
    MultiTaskCLI(args=["fit", *options, "--trainer.max_steps=1", "--trainer.limit_val_batches=1"])
    evil = {"class_path": "os.mkdir", "init_args": {"path": "PROOF"}}
    for given in ({"compile": {"mode": evil}}, {"on_nonfinite": "skip"}):
        whole = torch.load("checkpoints/last.ckpt", weights_only=True)
        torch.save({**whole, "hyper_parameters": given}, "evil.ckpt")
        made = MultiTaskCLI(args=["test", *options, "--ckpt_path=evil.ckpt"])
        assert made.model.updates.on_nonfinite == "raise"
        assert not made.model.compile_options
    assert not Path("PROOF").exists()


def test_addresses_are_read(saved: dict[str, Any], content: bytes, address: str) -> None:
    import fsspec  # type: ignore[import-untyped]  # it ships no types

    with fsspec.open("memory://runs/model.ckpt", "wb") as file:
        file.write(content)
    expected = MultiTaskModule.load_from_checkpoint(PATH).state_dict()
    for where in (f"{address}/{PATH}", "memory://runs/model.ckpt", f"file://{PATH.resolve()}"):
        loaded = MultiTaskModule.load_from_checkpoint(where).state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in expected.items())
        assert TinyData.from_checkpoint(where).schema == TinyData().schema
    fit(make_module(), TinyData(), ckpt_path=f"{address}/{PATH}", precision="32-true", max_epochs=3)
    refused("nosuch://runs/model.ckpt")


def test_weights_only_may_not_be_denied_at_a_resume(saved: dict[str, Any]) -> None:
    from tests.helpers import make_trainer

    with pytest.raises(ValueError, match="expected no `weights_only=False`"):
        make_trainer().fit(make_module(), TinyData(), ckpt_path=str(PATH), weights_only=False)
