"""A module's own part of a checkpoint: plain data that rebuilds it, and what an interrupted run goes on with.

Everything is under one key, so that Lightning's ``hyper_parameters`` stay empty: filled ones would override the
command line at a resume. All of it loads with ``weights_only=True``.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from mtl_lightning.core import partial_restore, resume
from mtl_lightning.types import (
    ConfigurationError,
    Described,
    NotDescribableError,
    constructor_arguments,
    describe,
    input_spec_from_dict,
    input_spec_to_dict,
)

if TYPE_CHECKING:
    from mtl_lightning.core.module import MultiTaskModule

if "instantiate_subclass_spec_in_any" in signature(set_parsing_settings).parameters:  # jsonargparse 4.51 asks for it
    set_parsing_settings(instantiate_subclass_spec_in_any=True)  # users' modules may take objects without declaring so

KEY = "mtl_lightning"
Module = TypeVar("Module", bound="MultiTaskModule")


def describe_arguments(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Split constructor arguments into plain data and those that only code can give, with the reason."""
    config: dict[str, Any] = {}
    by_code: dict[str, str] = {}
    for name, value in arguments.items():
        try:
            config[name] = describe(value)
        except NotDescribableError as error:  # noqa: PERF203  # once per run
            by_code[name] = str(error)
    return config, by_code


def describe_constructor(module: Described) -> tuple[dict[str, Any], dict[str, str]]:
    """Describe the arguments that a module, or a user's subclass of it, was made with; see :func:`describe_arguments`.

    The input spec is saved by itself, because the module may find it out later.
    """
    args, kwargs = module._made_with or ((), {})
    object.__setattr__(module, "_made_with", None)
    arguments = constructor_arguments(type(module), args, kwargs)
    arguments.pop("input_spec", None)
    return describe_arguments(arguments)


def save(module: MultiTaskModule, checkpoint: dict[str, Any]) -> None:
    """Add the module's part to a checkpoint that Lightning is about to write."""
    data = getattr(module._trainer, "datamodule", None)
    described, _ = describe_arguments({"data": data, "schema": getattr(data, "schema", None)})
    checkpoint[KEY] = {
        "config": module.config,
        "by_code": module.by_code,
        "task_names": list(module.tasks),
        "optimizers": partial_restore.describe_optimizers(module),
        "input_spec": input_spec_to_dict(module.input_spec),
        "data": described.get("data"),
        "schema": described.get("schema"),
        "processes": resume.states_of_processes(module),
        "validation_is_due": resume.validation_is_due(module),
        "skipped": module.skipped,
    }
    for key in {"optimizer_states", "lr_schedulers"} & checkpoint.keys():
        checkpoint[key] = _without_numpy(checkpoint[key])


def read(path: str | Path, map_location: Any = None) -> dict[str, Any]:
    """Return a checkpoint of a module; raise a :class:`ConfigurationError` for a file that is none."""
    checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    if KEY not in checkpoint:
        raise ConfigurationError(
            f"{path}: expected a checkpoint of a MultiTaskModule, found keys {sorted(checkpoint)}."
        )
    return checkpoint


def load(cls: type[Module], path: str | Path, overrides: Mapping[str, Any], map_location: Any, strict: bool) -> Module:
    """Rebuild a module from a checkpoint and load its weights.

    Raises:
        ConfigurationError: for a file that is no checkpoint of ours, and for arguments that must be passed again.
    """
    checkpoint = read(path, map_location)
    saved = checkpoint[KEY]
    if missing := {name: why for name, why in saved["by_code"].items() if name not in overrides}:
        listed = "; ".join(f"`{name}` ({why})" for name, why in missing.items())
        raise ConfigurationError(
            f"{path} was trained with arguments that a checkpoint cannot hold: {listed} Pass them again: "
            f"load_from_checkpoint(path, {', '.join(f'{name}=...' for name in missing)})."
        )
    arguments = {**saved["config"], "input_spec": input_spec_from_dict(saved["input_spec"]), **overrides}
    try:
        module = _instantiate(cls, arguments)
    except (ArgumentError, ImportError) as error:
        raise ConfigurationError(
            f"{path} cannot be rebuilt: {error}\nPass the arguments in question to load_from_checkpoint again."
        ) from error
    if strict:
        module.load_state_dict(checkpoint["state_dict"])
    else:
        partial_restore.load_what_stays(module, checkpoint["state_dict"], saved["task_names"])
    return module


def _instantiate(cls: type[Module], arguments: Mapping[str, Any]) -> Module:
    """Make a module from plain data, as the command line would."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "module", fail_untyped=False)
    return cast("Module", parser.instantiate(parser.parse_object({"module": dict(arguments)})).module)


def _without_numpy(value: Any) -> Any:
    """Turn NumPy's numbers, such as the learning rates of a sweep, into plain ones, which load everywhere."""
    if isinstance(value, dict):
        return {key: _without_numpy(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_without_numpy, value))
    return value.item() if isinstance(value, np.generic) else value
