"""The data contract: splits, tasks and sizes that can be read before training, and a schema that is saved with it."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.utils.data import Dataset

from mtl_lightning.data.differences import in_words
from mtl_lightning.data.loader import ResumableLoader
from mtl_lightning.data.saved import SavedDataModule
from mtl_lightning.errors import CheckpointError
from mtl_lightning.names import did_you_mean, known_arguments
from mtl_lightning.plain import check_plain, is_plain
from mtl_lightning.tasks.base import Task
from mtl_lightning.tasks.rows import MISSING
from mtl_lightning.types import ConfigurationError, InputSpec, TargetSpec, input_spec_from_dict

Split: TypeAlias = Literal["train", "val", "test"]
TaskFactory: TypeAlias = Callable[[TargetSpec], Task]
# `Literal[None]` rather than None, and first: jsonargparse 4.53 tries None last, and writes a null that stands for a
# callable in a dict as the text "Unable to serialize instance None", so that the saved config would not run.
TaskOverrides: TypeAlias = dict[str, Literal[None] | Callable[[TargetSpec], Task]]


class MultiTaskDataModule(SavedDataModule):
    """Three splits of one dataset and the tasks it declares. Subclasses give :meth:`read_schema`,
    :meth:`declared_tasks` and :meth:`rows`; and :meth:`prepare_data` where something must be downloaded.

    :attr:`tasks` and :attr:`input_spec` may be read before ``setup``, so that a module can take its sizes from them.
    What they rest on is the :attr:`schema`: plain data, fitted on the training split, saved in the checkpoint and
    restored from it, so that a model always meets data that is encoded as in its training.

    Args:
        batch_size: rows of a batch of one process.
        tasks: other tasks for declared names, as functions of the ``TargetSpec``; None removes a task.
        seed: of whatever the data draws: splits, made rows, the order of the training rows.
        num_workers: processes that read rows ahead; 0 reads them in the training process.
        drop_last: leave out the last batch of a training epoch where it would be short.
    """

    loader_type: type[ResumableLoader] = ResumableLoader  # that suits what `rows` returns
    root: Path | None = None  # where a subclass keeps files; the schema is then read under a lock in it

    def __init__(
        self,
        *,
        batch_size: int,
        tasks: TaskOverrides | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(tasks or {}, Mapping):
            raise ConfigurationError(
                f"`tasks`: expected {{name: a task's class, or a function of a TargetSpec}}, found {tasks!r:.100}."
            )
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.drop_last = drop_last
        self._overrides = dict(tasks or {})
        self._schema: dict[str, Any] | None = None
        self._restored = False
        self._prepared = False
        self._splits: dict[str, Dataset[Any]] = {}

    # ------------------------------------------------------------------------------------------ what a subclass gives
    def prepare_data(self) -> None:
        """Put into :attr:`root` what is missing there; nothing by default.

        The trainer calls it too, without the lock: make the folder, and write each file under another name first.
        """

    @abstractmethod
    def read_schema(self) -> dict[str, Any]:
        """Return what has been fitted on the training split, as plain data: str, numbers, None, lists and dicts.

        Its ``"input_spec"`` is the input spec by :func:`~mtl_lightning.types.input_spec_to_dict`; the rest is the
        subclass's own: column names, vocabularies, scalers, class names.
        """

    @abstractmethod
    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        """Return what the data knows of each target, and the task that fits it; may read :attr:`schema`."""

    @abstractmethod
    def rows(self, split: Split) -> Dataset[Any]:
        """Return the rows of a split: a map dataset of ``{"inputs": ..., "targets": {task: ...}}``.

        Rows in memory are :class:`~mtl_lightning.data.rows.TensorRows`. Called once per split; may read
        :attr:`schema` and :attr:`missing_labels`.
        """

    # -------------------------------------------------------------------------------------------------------- schema
    @property
    def schema(self) -> dict[str, Any]:
        """What is known of the data, plain; read on first use, on any rank, then never again."""
        if self._schema is None:
            with self._lock():
                self._prepare()
                schema = self.read_schema()
            check_plain(schema, "schema")
            self._schema = schema
        return self._schema

    def restore_schema(self, schema: Mapping[str, Any]) -> None:
        """Use a saved schema, and never fit anything: the tasks' statistics come with the module's checkpoint.

        Raises:
            ConfigurationError: if the schema has been read already, because parts of the model may rest on it.
        """
        if self._schema is not None:
            raise ConfigurationError(
                f"{type(self).__name__}: expected the schema to be restored before it is first used, found it in use. "
                "Restore it right after making the datamodule, before reading `tasks` or `input_spec`."
            )
        check_plain(dict(schema), "schema")
        self._schema, self._restored = dict(schema), True

    def accept_schema(self, schema: Mapping[str, Any]) -> None:
        """Use a checkpoint's schema if none has been read yet; refuse it if another is in use.

        Raises:
            CheckpointError: that names the differences, or for a schema that is no plain data.
        """
        if not is_plain(schema):
            raise CheckpointError(f"Expected the schema of {type(self).__name__} as plain data, found something else.")
        if self._schema is None:
            self.restore_schema(schema)
        elif differ := in_words(self.what_matters(schema), self.what_matters(self._schema)):
            raise CheckpointError(
                f"{type(self).__name__}: expected the data that the checkpoint was trained on, found another schema: "
                f"{differ}. Make the datamodule by `{type(self).__name__}.from_checkpoint(path)`, or call "
                "`restore_schema` before its tasks are read; to train on other data, load the weights alone."
            )

    def what_matters(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the part of a schema that rows are encoded by, and in which two of them must agree."""
        return schema

    def _prepare(self) -> None:
        """Prepare the data, once; a notebook may ask for rows without a trainer that has done so."""
        if not self._prepared:
            self.prepare_data()
            self._prepared = True

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Let one process of a machine at a time prepare and read what is in ``root``."""
        if self.root is None or (self.root.is_dir() and not os.access(self.root, os.W_OK)):
            yield  # where nothing can be written, nothing can be prepared
            return
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".mtl_lightning.lock"):
            yield

    # --------------------------------------------------------------------------------------------------------- tasks
    @cached_property
    def input_spec(self) -> InputSpec | None:
        """Shape and dtype of the inputs."""
        return input_spec_from_dict(self.schema["input_spec"])

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The tasks by name: the declared ones, changed as asked for, fitted on the training split where needed."""
        if not self._restored:
            for name, task in self._made.items():
                if not task.fitted:
                    task.fit_target(self.train_target(name))
        return self._made

    @cached_property
    def missing_labels(self) -> dict[str, int]:
        """What stands for a missing label in each task's integer target (a missing float label is always nan)."""
        return {name: getattr(task, "ignore_index", MISSING) for name, task in self._made.items()}

    def train_target(self, task: str) -> Tensor:
        """Return the target (N, *) of the whole training split, to fit a task's statistics on.

        Reads every row once; a dataset whose rows are costly to read had better give the targets another way.
        """
        place: dict[str, Any] = {"num_replicas": 1, "rank": 0}  # each process reads all rows, so that all fit the same
        rows = self.loader_type(self._split("train"), batch_size=4096, num_workers=self.num_workers, **place)
        targets = [batch.get("targets", {}).get(task) for batch in rows]
        if any(target is None for target in targets):
            raise ConfigurationError(
                f"{type(self).__name__}: expected a target {task!r} in every training row, to fit the task on, found "
                "rows without. Give them a missing label instead: nan, or -100 in an integer target."
            )
        return torch.cat(targets)

    @cached_property
    def _made(self) -> dict[str, Task]:
        """The declared tasks with the overrides merged in, not yet fitted."""
        _ = self.schema  # from here on the model rests on it, so it can no longer be restored
        chosen = self.declared_tasks()
        if unknown := [name for name in self._overrides if name not in chosen]:
            raise ConfigurationError(_unknown_task(type(self).__name__, unknown[0], list(chosen)))
        made = {}
        for name, (spec, declared) in chosen.items():
            factory = self._overrides.get(name, declared)
            if factory is not None:
                made[name] = _make_task(name, spec, factory)
        if not made:
            raise ConfigurationError(f"{type(self).__name__}: expected at least one task, found all of them removed.")
        return made

    # ------------------------------------------------------------------------------------------------------- loaders
    def train_dataloader(self) -> ResumableLoader:
        """Return the training rows, in a new order each epoch."""
        loader = self._loader("train", shuffle=True, drop_last=self.drop_last)
        if self.drop_last and not len(loader):
            raise ConfigurationError(
                f"{type(self).__name__}: expected at least one full batch of batch_size={self.batch_size} for each "
                f"process, since `drop_last` leaves out short ones, found {len(loader.order)} training rows. Use a "
                "smaller `batch_size`, or no `drop_last`."
            )
        return loader

    def val_dataloader(self) -> ResumableLoader:
        """Return the validation rows, in order."""
        return self._loader("val")

    def test_dataloader(self) -> ResumableLoader:
        """Return the test rows, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> ResumableLoader:
        """Return the test rows, in order, none of them made up; several processes share them out in turn."""
        return self._loader("test", pad=False)

    def _loader(
        self, split: Split, *, shuffle: bool = False, pad: bool = True, drop_last: bool = False
    ) -> ResumableLoader:
        # The trainer knows better than torch.distributed which processes share a model and need the same rows.
        place = None if self.trainer is None else self.trainer.distributed_sampler_kwargs
        rows, replicas = len(cast("Sized", self._split(split))), (place or {}).get("num_replicas", 1)
        if not pad and rows < replicas:  # on all processes alike; one alone would leave the others waiting
            raise ConfigurationError(
                f"{type(self).__name__}: expected at least one row to predict for each of the {replicas} processes, "
                f"found {rows} rows. Use fewer processes (`trainer.devices`)."
            )
        return self.loader_type(
            self._split(split),
            batch_size=self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            missing=self.missing_labels,
            pad=pad,
            drop_last=drop_last,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **(place or {}),
        )

    def _split(self, split: Split) -> Dataset[Any]:
        if split not in self._splits:
            with self._lock():
                self._prepare()
            self._splits[split] = self.rows(split)
        return self._splits[split]


def _make_task(name: str, spec: TargetSpec, factory: TaskFactory) -> Task:
    known_arguments(factory)
    task = factory(spec) if callable(factory) and not isinstance(factory, nn.Module) else None
    if not isinstance(task, Task):
        raise ConfigurationError(
            f"Task {name!r}: expected a task's class, or a function of a TargetSpec that makes one, found {factory!r}."
        )
    return task


def _unknown_task(owner: str, name: str, declared: list[str]) -> str:
    return (
        f"{owner}: expected tasks among the declared ones {declared}, found {name!r} in `tasks`."
        f"{did_you_mean(name, declared)}"
    )
