"""What a datamodule needs to be made anew from a checkpoint: a schema, and a constructor that plain data can call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from argparse import ArgumentError
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule
from typing_extensions import Self

from mtl_lightning.checkpoint_file import read_part
from mtl_lightning.describe import Described
from mtl_lightning.types import ConfigurationError

_Data = TypeVar("_Data", bound=LightningDataModule)


class SavedDataModule(Described, LightningDataModule, ABC):
    """A datamodule that checkpoints describe: what it was made with, and its schema, which is fitted once."""

    @property
    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """What has been fitted on the training split, as plain data."""

    @abstractmethod
    def restore_schema(self, schema: Mapping[str, Any]) -> None:
        """Use a saved schema, and never fit anything."""

    @classmethod
    def from_checkpoint(cls, path: str | Path, /, **changes: Any) -> Self:
        """Make the datamodule that a checkpoint was trained with, its schema restored.

        Args:
            path: a checkpoint of a :class:`~mtl_lightning.MultiTaskModule` trained with a datamodule.
            changes: arguments to use in place of the saved ones, such as ``root`` or ``batch_size``.

        Raises:
            ConfigurationError: if the checkpoint does not say how to make the datamodule.
        """
        saved = read_part(path)
        made, schema = saved.get("data"), saved.get("schema")
        if made is None or schema is None:
            raise ConfigurationError(
                f"{path}: expected a checkpoint that describes its datamodule and holds its schema, found "
                f"{sorted(key for key, value in saved.items() if value is not None) or 'neither'}. Make the datamodule "
                "in code instead; `restore_schema` takes the schema, if you have it."
            )
        data = _rebuilt(cls, made["class_path"], {**made.get("init_args", {}), **changes}, path)
        data.restore_schema(schema)
        return data


def _rebuilt(cls: type[_Data], class_path: str, arguments: dict[str, Any], path: str | Path) -> _Data:
    """Make a datamodule of plain data, as YAML would."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(cls, "data", fail_untyped=False)
    try:
        config = parser.parse_object({"data": {"class_path": class_path, "init_args": arguments}})
    except ArgumentError as error:
        raise ConfigurationError(
            f"{path}: expected to make a {cls.__name__}, found {class_path} with arguments {arguments}, which cannot "
            f"be one: {error}"
        ) from error
    return cast("_Data", parser.instantiate(config).data)
