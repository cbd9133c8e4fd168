from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import BasePredictionWriter, ModelCheckpoint
from torch.utils.data import RandomSampler

from mtl_lightning.data import EpochSampler, ResumableLoader, TensorRows
from mtl_lightning.data.rows import PADDING
from mtl_lightning.types import ConfigurationError
from tests.data.tiny import NoisyRows, Witness, quiet_trainer

ROWS, BATCH = 11, 3  # 4 batches an epoch, the last one of 2 rows


def table(rows: int = ROWS) -> TensorRows:
    numbers = torch.arange(float(rows))
    return TensorRows(numbers[:, None], {"number": numbers, "parity": torch.arange(rows) % 2})


def rows_of(loader: ResumableLoader) -> list[list[int]]:
    return [batch["inputs"][:, 0].int().tolist() for batch in loader]


# ------------------------------------------------------------------------------------------------------------- sampler
def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(range(50), shuffle=True, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert sorted(order(3, 4)) == list(range(50))
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    before = torch.get_rng_state()
    order(0, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_without_shuffling_the_order_is_the_datasets() -> None:
    sampler = EpochSampler(range(5))
    sampler.set_epoch(3)
    assert list(sampler) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("rows", [1, 2, 11, 12, 13, 24])
@pytest.mark.parametrize(("world", "batch"), [(2, 3), (3, 2), (4, 1), (2, 6)])
def test_the_ranks_batches_together_are_the_batches_of_one_process(rows: int, world: int, batch: int) -> None:
    def loader(batch_size: int, rank: int, processes: int) -> ResumableLoader:
        return ResumableLoader(
            table(rows), batch_size=batch_size, shuffle=True, seed=5, num_replicas=processes, rank=rank
        )

    alone = loader(batch * world, 0, 1)
    ranks = [loader(batch, rank, world) for rank in range(world)]
    assert [len(rank) for rank in ranks] == [math.ceil(rows / (batch * world))] * world == [len(alone)] * world
    for whole, *shares in zip(alone, *ranks, strict=True):
        assert len({len(share["inputs"]) for share in shares}) == 1  # equal rows on every rank
        numbers = torch.cat([share["targets"]["number"] for share in shares])
        parities = torch.cat([share["targets"]["parity"] for share in shares])
        labelled = ~numbers.isnan()
        assert numbers[labelled].sort().values.equal(whole["targets"]["number"].sort().values)
        assert torch.equal(labelled, parities != -100)  # padding has no label of any task


def test_a_short_rank_ends_with_padding_and_without_it_in_predict() -> None:
    last = EpochSampler(range(7), num_replicas=4, rank=3)
    assert list(last) == [3, PADDING]
    assert len(last) == 2
    predict = EpochSampler(range(7), pad=False, num_replicas=4, rank=3)
    assert list(predict) == [3]
    assert len(predict) == 1


def test_rank_and_processes_go_together() -> None:
    with pytest.raises(ConfigurationError, match="Expected `num_replicas` and `rank` together, found num_replicas=2"):
        EpochSampler(range(3), num_replicas=2)


def test_a_rank_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="Invalid rank 2"):
        EpochSampler(range(3), num_replicas=2, rank=2)


# ------------------------------------------------------------------------------------------------ the loader by itself
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_every_row_once_and_the_length_is_exact(workers: int) -> None:
    loader = ResumableLoader(NoisyRows(ROWS), batch_size=BATCH, shuffle=True, num_workers=workers)
    found = rows_of(loader)
    assert len(found) == len(loader) == 4
    assert sorted(row for batch in found for row in batch) == list(range(ROWS))


@pytest.mark.parametrize("dataset", [table(), NoisyRows(ROWS)], ids=["tensors", "map dataset"])
def test_iterating_leaves_the_global_random_states_alone(dataset: Any) -> None:
    def states() -> tuple[Any, ...]:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()

    before = states()
    rows_of(ResumableLoader(dataset, batch_size=BATCH, shuffle=True))
    assert states() == before


def with_noise(loader: ResumableLoader, epochs: int) -> list[Any]:
    found = []
    for epoch in range(epochs):
        loader.order.set_epoch(epoch)
        found += [(batch["inputs"].tolist(), batch["noise"].tolist()) for batch in loader]
    return found


def test_random_numbers_do_not_depend_on_the_workers() -> None:
    alone = with_noise(ResumableLoader(NoisyRows(ROWS), batch_size=BATCH, shuffle=True), 3)
    fresh = ResumableLoader(NoisyRows(ROWS), batch_size=BATCH, shuffle=True, num_workers=2)
    lasting = ResumableLoader(NoisyRows(ROWS), batch_size=BATCH, shuffle=True, num_workers=1, persistent_workers=True)
    assert with_noise(fresh, 3) == alone
    assert with_noise(lasting, 3) == alone
    assert len({str(noise) for _, noise in alone}) == 12


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", range(4))
def test_a_saved_state_continues_with_the_next_batch(taken: int, workers: int) -> None:
    def make() -> ResumableLoader:
        made = ResumableLoader(table(), batch_size=BATCH, shuffle=True, num_workers=workers)
        made.order.set_epoch(2)
        return made

    whole = rows_of(make())
    interrupted = make()
    batches = iter(interrupted)
    for _ in range(taken):
        next(batches)
    state = interrupted.state_dict()
    assert state["batches"] == taken  # what workers have read ahead does not count

    resumed = ResumableLoader(table(), batch_size=BATCH, shuffle=True, num_workers=workers)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert len(resumed) == 4
    if taken == 0:  # nothing was handed out, so the state does not know of the epoch
        resumed.order.set_epoch(2)
    assert rows_of(resumed) == whole[taken:]
    assert resumed.state_dict()["batches"] == 4


def test_a_complete_epoch_is_followed_by_the_next() -> None:
    loader = ResumableLoader(table(), batch_size=BATCH, shuffle=True)
    loader.order.set_epoch(1)
    first = rows_of(loader)
    loader.load_state_dict(loader.state_dict())
    assert loader.order.epoch == 2
    second = rows_of(loader)
    assert len(second) == 4
    assert second != first


def test_another_epoch_than_the_saved_one_starts_at_its_beginning() -> None:
    loader = ResumableLoader(table(), batch_size=BATCH)
    next(iter(loader))
    state = loader.state_dict()
    loader.load_state_dict(state)
    loader.order.set_epoch(5)
    assert len(rows_of(loader)) == 4


def test_a_state_is_used_once() -> None:
    loader = ResumableLoader(table(), batch_size=BATCH)
    next(iter(loader))
    loader.load_state_dict(loader.state_dict())
    assert [len(rows_of(loader)), len(rows_of(loader))] == [3, 4]


def test_an_epoch_cannot_be_continued_with_other_rows_seed_or_batches() -> None:
    begun = ResumableLoader(table(), batch_size=BATCH, shuffle=True)
    next(iter(begun))
    other = ResumableLoader(table(10), batch_size=2, shuffle=True, seed=3)
    other.load_state_dict(begun.state_dict())
    message = "after its first 1 batches.*rows 10 instead of 11, seed 3 instead of 0, .*processes 2 instead of 3"
    with pytest.raises(ConfigurationError, match=message):
        next(iter(other))


def test_an_epoch_is_continued_by_another_number_of_processes_with_the_same_batch() -> None:
    alone = ResumableLoader(table(), batch_size=4, shuffle=True)
    next(batches := iter(alone))
    state, rest = alone.state_dict(), [batch["targets"]["number"] for batch in batches]
    ranks = [ResumableLoader(table(), batch_size=2, shuffle=True, num_replicas=2, rank=rank) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(state)
    for whole, *shares in zip(rest, *ranks, strict=True):
        together = torch.cat([share["targets"]["number"] for share in shares])
        assert together[~together.isnan()].sort().values.equal(whole.sort().values)


def test_another_sampler_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Expected no sampler, or an EpochSampler, found RandomSampler"):
        ResumableLoader(table(), sampler=RandomSampler(table()))


# ---------------------------------------------------------------------------------------------------- with the Trainer
OPTIONS: dict[str, dict[str, Any]] = {
    "whole epochs": {},
    "limited": {"limit_train_batches": 3},
    "reloaded": {"reload_dataloaders_every_n_epochs": 1},
    "validated twice": {"val_check_interval": 2},
}
SAVED = {
    "every step": {"every_n_train_steps": 1},
    "after validation": {"every_n_epochs": 1},
    "at the epoch's end": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
}


class Saving(ModelCheckpoint):
    """Keeps every checkpoint; the file's name counts the steps."""

    def __init__(self, folder: Path, **when: Any) -> None:
        super().__init__(folder, filename="{step}", save_top_k=-1, enable_version_counter=False, **when)


class Data(Witness):
    """A witness that makes its loaders in the hooks, as modules and datamodules do."""

    def __init__(self, dataset: Any, **options: Any) -> None:
        super().__init__()
        self.dataset, self.options = dataset, options

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(self.dataset, batch_size=BATCH, shuffle=True, seed=1, **self.options)

    def val_dataloader(self) -> ResumableLoader:
        return ResumableLoader(self.dataset, batch_size=4, **self.options)


def resumed_everywhere(
    folder: Path, dataset: Any, saved: dict[str, Any], loader: dict[str, Any], **options: Any
) -> int:
    """Resume from each checkpoint of a run, compare with the run itself, and return how many there were."""
    options = {"max_epochs": 3, **options}
    whole = Data(dataset, **loader)
    quiet_trainer(folder, callbacks=[Saving(folder, **saved)], **options).fit(whole)
    assert len({batch[1] for batch in whole.trained}) > 4  # epochs differ in their order
    paths = sorted(folder.glob("*.ckpt"))
    for path in paths:
        steps = int(path.stem.removeprefix("step="))
        module = Data(dataset, **loader)
        quiet_trainer(folder, **options).fit(module, ckpt_path=path)
        assert module.trained == whole.trained[steps:], path.name
        assert torch.equal(module.map.weight, whole.map.weight)
    return len(paths)


@pytest.mark.parametrize("saved", SAVED.values(), ids=SAVED)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_resumed_training_sees_what_it_would_have_seen(
    tmp_path: Path, saved: dict[str, Any], options: dict[str, Any]
) -> None:
    assert resumed_everywhere(tmp_path, table(), saved, {}, **options) >= 2


def test_a_training_that_ends_after_a_number_of_steps_is_resumed_anywhere(tmp_path: Path) -> None:
    # Not from a checkpoint of an epoch's end: with `max_steps`, Lightning 2.6 counts that epoch twice, whatever the
    # loader, and tells the sampler one epoch too many.
    assert resumed_everywhere(tmp_path, table(), {"every_n_train_steps": 1}, {}, max_steps=11) == 11


@pytest.mark.parametrize("lasting", [False, True], ids=["fresh workers", "persistent workers"])
def test_with_workers_and_random_rows_too(tmp_path: Path, lasting: bool) -> None:
    loader = {"num_workers": 1, "persistent_workers": lasting}
    assert resumed_everywhere(tmp_path, NoisyRows(ROWS), {"every_n_train_steps": 3}, loader) == 4


def test_several_loaders_are_resumed_together(tmp_path: Path) -> None:
    class Two(Witness):
        def train_dataloader(self) -> Any:
            small, large = table(5), table(ROWS)
            return {
                "small": ResumableLoader(small, batch_size=2, shuffle=True, seed=1),
                "large": ResumableLoader(large, batch_size=2, shuffle=True, seed=2),
            }

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self.trained.append([self.noted(batch[name]) for name in ("small", "large")])
            loss: torch.Tensor = self.map(batch["large"]["inputs"] / 100).square().mean()
            return loss

    whole = Two()
    saving = Saving(tmp_path, every_n_train_steps=1)
    quiet_trainer(tmp_path, max_epochs=2, callbacks=[saving]).fit(whole)
    assert len(whole.trained) == 12
    for steps in range(1, 12):
        module = Two()
        quiet_trainer(tmp_path, max_epochs=2).fit(module, ckpt_path=tmp_path / f"step={steps}.ckpt")
        assert module.trained == whole.trained[steps:], steps


def test_the_trainer_neither_replaces_the_sampler_nor_forgets_the_epoch(tmp_path: Path) -> None:
    module = Data(table())
    trainer = quiet_trainer(tmp_path, max_epochs=3)
    trainer.fit(module)
    loader = trainer.train_dataloader
    assert isinstance(loader, ResumableLoader)
    assert isinstance(loader.sampler, EpochSampler)
    assert loader.order.epoch == 2
    orders = [tuple(batch[1] for batch in module.trained[4 * epoch : 4 * epoch + 4]) for epoch in range(3)]
    assert len(set(orders)) == 3


def test_overfitting_keeps_the_same_first_batches(tmp_path: Path) -> None:
    module = Data(table())
    trainer = quiet_trainer(tmp_path, max_epochs=3, overfit_batches=2)
    trainer.fit(module)
    assert [batch[1] for batch in module.trained] == [(0, 1, 2), (3, 4, 5)] * 3
    assert isinstance(trainer.train_dataloader, ResumableLoader)
    assert isinstance(trainer.train_dataloader.sampler, EpochSampler)


def test_a_fast_dev_run_takes_one_batch(tmp_path: Path) -> None:
    module = Data(table())
    quiet_trainer(tmp_path, fast_dev_run=True).fit(module)
    assert len(module.trained) == len(module.validated) == 1


class Indices(BasePredictionWriter):
    """Notes the row numbers that Lightning reports for each predicted batch."""

    def __init__(self) -> None:
        super().__init__("batch")
        self.found: list[int] = []

    def write_on_batch_end(self, trainer: Any, module: Any, prediction: Any, indices: Any, *rest: Any) -> None:
        self.found += indices


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("inside", [True, False], ids=["made in a hook", "passed by hand"])
def test_predict_keeps_the_order_and_reports_the_rows(tmp_path: Path, inside: bool, workers: int) -> None:
    class Predicting(Witness):
        def predict_dataloader(self) -> ResumableLoader:
            return ResumableLoader(table(), batch_size=BATCH, pad=False, num_workers=workers)

    module, writer = Predicting(), Indices()
    trainer = quiet_trainer(tmp_path, callbacks=[writer], enable_checkpointing=False)
    found = trainer.predict(module, dataloaders=None if inside else module.predict_dataloader())
    assert found is not None
    assert torch.cat([batch for batch in found if isinstance(batch, torch.Tensor)]).tolist() == list(range(ROWS))
    assert writer.found == list(range(ROWS))


def test_loaders_passed_by_hand_are_resumed_too(tmp_path: Path) -> None:
    def loader() -> ResumableLoader:
        return ResumableLoader(table(), batch_size=BATCH, shuffle=True)

    whole, resumed = Witness(), Witness()
    saving = Saving(tmp_path, every_n_train_steps=1)
    quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0, callbacks=[saving]).fit(whole, loader())
    trainer = quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0)
    trainer.fit(resumed, loader(), ckpt_path=tmp_path / "step=3.ckpt")
    assert [batch[1] for batch in whole.trained[3:]] == [batch[1] for batch in resumed.trained]


@pytest.fixture(autouse=True)
def _no_stray_warnings(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    yield
    assert not [w for w in recwarn if "not resumable" in str(w.message)]
