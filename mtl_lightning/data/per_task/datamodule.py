"""One dataset per task, or per domain: several datamodules as one."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple, cast

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from mtl_lightning.data.per_task.loader import Mode, PerTaskLoader, check_order
from mtl_lightning.data.per_task.renaming import RenamedLoader, TargetNames
from mtl_lightning.data.per_task.sampling import Sampling
from mtl_lightning.data.saved import SavedDataModule
from mtl_lightning.nested import leaves, map_leaves
from mtl_lightning.plain import check_plain
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import ConfigurationError, InputSpec


class _Source(NamedTuple):
    """A datamodule, the first name it goes by, and its tasks' new names."""

    name: str
    data: LightningDataModule
    targets: TargetNames

    @property
    def is_renamed(self) -> bool:
        return any(new != [old] for old, new in self.targets.items())


class PerTaskData(SavedDataModule):
    """Several datamodules as one, such as a dataset for each task, or one domain of a dataset for each.

    In training a step takes a batch of each dataset, or of one of them: see
    :class:`~mtl_lightning.data.PerTaskLoader`, which says what an epoch is; the batches of a step make one update. All
    tasks' losses are means over their own labels. Validation and test go through one dataset after the other, and as
    each task is in one of them, its metrics are ``val/<metric>/<task>`` as always. ``predict`` gives every task's
    prediction for every dataset.

    The tasks are those of all datasets. They keep their names as long as no other dataset has a task of the same name;
    else they are called ``<dataset>_<task>``. ``rename`` chooses other names, or leaves a task out (null)::

        data:
          class_path: PerTaskData
          init_args:
            data:
              photos: {class_path: MyPhotos}            # task label: becomes photos_label
              sketches: {class_path: MySketches}        # task label: becomes strokes
            rename: {sketches: {label: strokes}}
            sampling: {class_path: TemperatureSampling, init_args: {temperature: 2.0}}

    In Python one datamodule may stand under several names: its rows are then read, and run through the network, once.
    ``trainer.datamodule.data[<name>]`` is a dataset's own datamodule.

    Args:
        data: datamodules by name. Each has an attribute ``tasks``; one that is no
            :class:`~mtl_lightning.data.MultiTaskDataModule` may have an ``input_spec`` too, and its loaders must have a
            length and give each process its share of the rows.
        mode: how the training batches of the datasets go together; ``"max_size_cycle"`` without a ``sampling``.
        sampling: takes a batch of one dataset per step instead.
        rename: ``{dataset: {task: new name or null}}``.
        steps_per_epoch: the length of an epoch with a ``sampling``; by default as many steps as all datasets together
            have batches.
        seed: of the sampling; each datamodule has a seed of its own.

    Raises:
        ConfigurationError: for no datasets or nested ones, options that do not go together, unknown or repeated names
            of tasks, and datasets whose inputs differ in shape or dtype.
    """

    def __init__(
        self,
        data: dict[str, LightningDataModule],
        *,
        mode: Mode | None = None,
        sampling: Sampling | None = None,
        rename: dict[str, dict[str, str | None]] | None = None,
        steps_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not data or not isinstance(data, Mapping):
            found = f"a {type(data).__name__}" if data else "none"
            raise ConfigurationError(f"PerTaskData: expected at least one datamodule by name in `data`, found {found}.")
        given: Any = rename or {}
        if not isinstance(given, Mapping) or not all(isinstance(names, Mapping) for names in given.values()):
            raise ConfigurationError(
                f"PerTaskData: expected as `rename` {{dataset: {{task: new name}}}}, found {rename!r:.100}."
            )
        if unknown := [name for name in rename or {} if name not in data]:
            raise ConfigurationError(f"PerTaskData: expected in `rename` datasets of {list(data)}, found {unknown}.")
        if nested := [name for name, part in data.items() if isinstance(part, PerTaskData)]:
            raise ConfigurationError(
                f"PerTaskData: expected datamodules of one dataset each, found several in {nested}. List their "
                "datasets here instead."
            )
        check_order(mode, sampling, steps_per_epoch)
        self.data = dict(data)
        self.mode, self.sampling, self.steps_per_epoch = mode, sampling, steps_per_epoch
        self.rename = {name: dict(names) for name, names in (rename or {}).items()}
        self.seed = seed

    # --------------------------------------------------------------------------------------------------------- schema
    @property
    def schema(self) -> dict[str, Any]:
        """The schemas of the datasets by name, plain; None of a datamodule that has none."""
        return {"datasets": {name: getattr(data, "schema", None) for name, data in self.data.items()}}

    def restore_schema(self, schema: Mapping[str, Any]) -> None:
        """Let every dataset use its saved schema, and never fit anything.

        Raises:
            ConfigurationError: if the schema was saved with other datasets, or is in use already.
        """
        check_plain(dict(schema), "schema")
        saved = schema.get("datasets")
        if not isinstance(saved, Mapping) or list(saved) != list(self.data):
            found = list(saved) if isinstance(saved, Mapping) else sorted(schema)
            raise ConfigurationError(
                f"PerTaskData: expected a schema of the datasets {list(self.data)}, found one of {found}. Name the "
                "datasets as in the training."
            )
        for source in self._distinct():
            own = saved[source]
            if own is not None:
                cast("SavedDataModule", self.data[source]).restore_schema(own)

    def accept_schema(self, schema: Mapping[str, Any]) -> None:
        """Let every dataset use a checkpoint's schema if it has read none yet, and refuse one that differs."""
        saved = schema.get("datasets", {})
        for source in self._distinct():
            accept = getattr(self.data[source], "accept_schema", None)
            if accept is not None and saved.get(source) is not None:
                accept(saved[source])

    def _distinct(self) -> list[str]:
        """The first name of each datamodule."""
        first: dict[int, str] = {}
        for name, data in self.data.items():
            first.setdefault(id(data), name)
        return list(first.values())

    # --------------------------------------------------------------------------------------------------------- tasks
    @cached_property
    def input_spec(self) -> InputSpec | None:
        """Shape and dtype of the inputs, the same of all datasets; None if one of them does not say."""
        specs = {name: getattr(data, "input_spec", None) for name, data in self.data.items()}
        first, *others = specs
        for name in others:
            if None not in (specs[first], specs[name]) and specs[name] != specs[first]:
                raise ConfigurationError(
                    f"PerTaskData: expected datasets with the same inputs, since one network reads them all, found "
                    f"{specs[first]} of {first!r} and {specs[name]} of {name!r}. Bring them to one size in the data."
                )
        return None if None in specs.values() else specs[first]

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The tasks of all datasets, by their new names; each fitted by its own dataset."""
        made: dict[str, Task] = {}
        seen: set[int] = set()
        for dataset, names in self._names.items():
            for old, new in names.items():
                task = _tasks_of(dataset, self.data[dataset])[old]
                made[new] = copy.deepcopy(task) if id(task) in seen else task
                seen.add(id(task))
        return made

    @cached_property
    def _names(self) -> dict[str, dict[str, str]]:
        """The new name of each task that is kept, by dataset and old name."""
        declared = {dataset: list(_tasks_of(dataset, data)) for dataset, data in self.data.items()}
        for dataset, changes in self.rename.items():
            if unknown := [name for name in changes if name not in declared[dataset]]:
                raise ConfigurationError(
                    f"PerTaskData: expected in `rename` of {dataset!r} tasks of {declared[dataset]}, found {unknown}."
                )
        kept = {
            dataset: [name for name in names if self.rename.get(dataset, {}).get(name, "") is not None]
            for dataset, names in declared.items()
        }
        common = Counter(self.rename.get(d, {}).get(name, name) for d, names in kept.items() for name in names)
        chosen = {
            dataset: {
                name: self.rename.get(dataset, {}).get(name) or (f"{dataset}_{name}" if common[name] > 1 else name)
                for name in names
            }
            for dataset, names in kept.items()
        }
        counts = Counter(new for names in chosen.values() for new in names.values())
        if repeated := [name for name, count in counts.items() if count > 1]:
            raise ConfigurationError(
                f"PerTaskData: expected a name of its own for every task, found {repeated} more than once. Choose "
                "others in `rename`."
            )
        if empty := [dataset for dataset, names in chosen.items() if not names]:
            raise ConfigurationError(
                f"PerTaskData: expected at least one task of every dataset, found none of {empty}."
            )
        return chosen

    @cached_property
    def _sources(self) -> list[_Source]:
        """Each datamodule once, with what becomes of its targets."""
        sources = []
        for first in self._distinct():
            data = self.data[first]
            mine = [names for dataset, names in self._names.items() if self.data[dataset] is data]
            old = _tasks_of(first, data)
            sources.append(_Source(first, data, {key: [names[key] for names in mine if key in names] for key in old}))
        return sources

    # ------------------------------------------------------------------------------------------------------- loaders
    def prepare_data(self) -> None:
        """Let every datamodule prepare its data."""
        for name in self._distinct():
            self.data[name].prepare_data()

    def setup(self, stage: str) -> None:
        """Tell every datamodule the trainer and the stage."""
        for name in self._distinct():
            self.data[name].trainer = self.trainer
            self.data[name].setup(stage)

    def teardown(self, stage: str) -> None:
        """Tell every datamodule that the stage is over."""
        for name in self._distinct():
            self.data[name].teardown(stage)

    def train_dataloader(self) -> PerTaskLoader:
        """Return the training batches of all datasets."""
        loaders, targets = {}, {}
        for source in self._sources:
            for name, loader in self._named(source.name, self._loaders_of(source, "train")):
                loaders[name] = loader
                if source.is_renamed:
                    targets[name] = source.targets
        return PerTaskLoader(
            loaders,
            self.mode,
            sampling=self.sampling,
            seed=self.seed,
            steps_per_epoch=self.steps_per_epoch,
            targets=targets,
            reshuffle=self.trainer is None or not self.trainer.overfit_batches,  # type: ignore[attr-defined]  # set outside its __init__
        )

    def val_dataloader(self) -> dict[str, Any]:
        """Return the validation batches of each dataset that has some, by its name."""
        return self._loaders("val")

    def test_dataloader(self) -> dict[str, Any]:
        """Return the test batches of each dataset that has some, by its name."""
        return self._loaders("test")

    def predict_dataloader(self) -> dict[str, Any]:
        """Return the batches to predict of each dataset that has some, by its name."""
        return self._loaders("predict", renamed=False)

    def _loaders(self, split: str, *, renamed: bool = True) -> dict[str, Any]:
        """Return what each dataset that has such a split gives, by its name: a loader, or several in lists or dicts."""
        found = {}
        for source in self._sources:
            given = self._loaders_of(source, split)
            if given is not None:
                targets = source.targets if renamed and source.is_renamed else None
                wrapped = given if targets is None else map_leaves(partial(RenamedLoader, names=targets), given)
                found[source.name] = wrapped
        return found

    def _loaders_of(self, source: _Source, split: str) -> Any:
        """Return what a dataset gives for a split; None if it has none."""
        source.data.trainer = self.trainer  # tells the loaders how many processes share out the rows
        if not is_overridden(f"{split}_dataloader", source.data, LightningDataModule):
            return None
        return getattr(source.data, f"{split}_dataloader")()

    def _named(self, name: str, given: Any) -> list[tuple[str, Any]]:
        """Return the training loaders of a dataset, each of which takes part by itself, under names of their own."""
        return [("/".join(map(str, (name, *place))), loader) for place, loader in leaves(given) if loader is not None]


def _tasks_of(name: str, data: LightningDataModule) -> Mapping[str, Task]:
    tasks = getattr(data, "tasks", None)
    if not isinstance(tasks, Mapping):
        raise ConfigurationError(
            f"PerTaskData, {name!r}: expected a datamodule with an attribute `tasks`, a dict of names to Task objects, "
            f"found {type(data).__name__} without."
        )
    return tasks
