"""What a datamodule needs to be made anew from a checkpoint: a schema, and a constructor that plain data can call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from typing_extensions import Self

from mtl_lightning.checkpoint_file import read_part
from mtl_lightning.describe import Described, describe
from mtl_lightning.errors import CheckpointError, MtlLightningError, NotDescribableError
from mtl_lightning.rebuild import rebuild
from mtl_lightning.trust import Trust


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
    def from_checkpoint(cls, path: str | Path, /, *, trusted: Sequence[str] = (), **changes: Any) -> Self:
        """Make the datamodule that a checkpoint was trained with, its schema restored.

        Args:
            path: a checkpoint of a :class:`~mtl_lightning.MultiTaskModule` trained with a datamodule.
            trusted: modules or packages of yours whose classes and functions the checkpoint may name; see
                :meth:`mtl_lightning.MultiTaskModule.load_from_checkpoint`.
            changes: arguments to use in place of the saved ones, such as ``root`` or ``batch_size``.

        Raises:
            CheckpointError: for a file that is no checkpoint of ours, and for one that does not say how to make the
                datamodule, or names what is not trusted.
        """
        saved = read_part(path)
        made, schema = saved.get("data"), saved.get("schema")
        if made is None or schema is None:
            raise CheckpointError(
                f"{path}: expected a checkpoint that describes its datamodule and holds its schema, found "
                f"{sorted(key for key, value in saved.items() if value is not None) or 'neither'}. Make the datamodule "
                "in code instead; `restore_schema` takes the schema, if you have it."
            )
        by_code: Mapping[str, str] = made.get("by_code") or {}
        if missing := {name: by_code[name] for name in by_code if name not in changes}:
            listed = "; ".join(f"`{name}` ({why})" for name, why in missing.items())
            raise CheckpointError(
                f"{path}: its datamodule was made with arguments that a checkpoint cannot hold: {listed} Pass them "
                f"again: from_checkpoint(path, {', '.join(f'{name}=...' for name in missing)})."
            )
        try:
            data = cls._rebuilt(made, changes, trusted)
            data.restore_schema(schema)
        except Exception as error:  # of a constructor, which meets arguments that a file or the caller gave
            kind = "" if isinstance(error, MtlLightningError) else f"{type(error).__name__}: "
            raise CheckpointError(
                f"{path}: expected to make a {cls.__name__}, found {made.get('class_path')} with arguments that cannot "
                f"be one: {kind}{(str(error).splitlines() or [''])[0]:.600} Pass again what this is about: "
                f"{cls.__name__}.from_checkpoint(path, {', '.join(f'{n}=...' for n in made.get('init_args') or {})})."
            ) from error
        return data

    @classmethod
    def _rebuilt(cls, made: Mapping[str, Any], changes: Mapping[str, Any], trusted: Sequence[str]) -> Self:
        """Make the datamodule; its class is this one, or one that is trusted and a subclass of it."""
        trust = Trust(trusted, cls)
        named = made.get("class_path")
        chosen = cls if _leads_to(named, cls) else trust.the_class(named)
        if not issubclass(chosen, cls):
            raise NotDescribableError(f"Expected a {cls.__name__}, found {named}, which is none.")
        return rebuild(chosen, made.get("init_args", {}), trust, changes)


def _leads_to(path: Any, cls: type) -> bool:
    try:
        return bool(path == describe(cls)["class_path"])
    except NotDescribableError:  # a local class, which no path leads to
        return False
