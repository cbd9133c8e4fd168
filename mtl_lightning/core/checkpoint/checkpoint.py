"""A module's own part of a checkpoint: plain data that rebuilds it, and what an interrupted run goes on with.

Everything is under one key, so that Lightning's ``hyper_parameters`` stay empty: filled ones would override the
command line at a resume. All of it loads with ``weights_only=True``.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings
from lightning.pytorch import LightningDataModule, Trainer

from mtl_lightning.checkpoint_file import FORMAT, KEY, read
from mtl_lightning.core.checkpoint.fine_tuning import describe_optimizers, load_what_stays
from mtl_lightning.core.checkpoint.resume import Parts, states_of_processes
from mtl_lightning.core.network.network import Network
from mtl_lightning.core.optim.composite import CompositeOptimizer
from mtl_lightning.core.optim.plan import OptimizerPlan
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.describe import Described, constructor_arguments, describe
from mtl_lightning.types import (
    ConfigurationError,
    NotDescribableError,
    input_spec_from_dict,
    input_spec_to_dict,
)
from mtl_lightning.version import __version__

if "instantiate_subclass_spec_in_any" in signature(set_parsing_settings).parameters:  # jsonargparse 4.51 asks for it
    set_parsing_settings(instantiate_subclass_spec_in_any=True)  # users' modules may take objects without declaring so

Module = TypeVar("Module", bound=Network)


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


def data_of(data: LightningDataModule | None) -> dict[str, Any]:
    """Return what rebuilds a datamodule and its schema, as far as it is plain data."""
    described, _ = describe_arguments({"data": data, "schema": getattr(data, "schema", None)})
    return {"data": described.get("data"), "schema": described.get("schema")}


def hyperparameters(model: Mapping[str, Any], trainer: Trainer) -> dict[str, Any]:
    """Return what made the module and its data, as far as it is plain data, nested; for loggers."""
    data = data_of(getattr(trainer, "datamodule", None))["data"]
    return {"model": dict(model), **({"data": data} if data else {})}


def our_part(
    network: Network, runtime: Runtime, plan: OptimizerPlan, parts: Parts, described: Mapping[str, Any]
) -> dict[str, Any]:
    """Return our part of a checkpoint that Lightning is about to write; to be called on all processes.

    Args:
        network: the network.
        runtime: where it runs.
        plan: its groups.
        parts: the owners of what an interrupted run goes on with.
        described: what rebuilds the module: ``config`` and ``by_code``, and ``validation_is_due``.
    """
    composites = [o for o in runtime.trainer.optimizers if isinstance(o, CompositeOptimizer)]
    return {
        "format": FORMAT,
        "version": __version__,
        **described,
        "task_names": list(network.tasks),
        "optimizers": [entry for one in composites for entry in describe_optimizers(one, plan.groups)],
        "input_spec": input_spec_to_dict(network.input_spec),
        **data_of(getattr(runtime.trainer, "datamodule", None)),
        "processes": states_of_processes(parts, runtime),
    }


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
    module.trained_on = saved.get("schema")
    if strict:
        module.load_state_dict(checkpoint["state_dict"])
    else:
        load_what_stays(module, checkpoint["state_dict"], saved["task_names"])
    return module


def _instantiate(cls: type[Module], arguments: Mapping[str, Any]) -> Module:
    """Make a module from plain data, as the command line would."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "module", fail_untyped=False)
    return cast("Module", parser.instantiate(parser.parse_object({"module": dict(arguments)})).module)


def without_numpy(value: Any) -> Any:
    """Turn NumPy's numbers, such as the learning rates of a sweep, into plain ones, which load everywhere."""
    if isinstance(value, dict):
        return {key: without_numpy(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(without_numpy, value))
    return value.item() if isinstance(value, np.generic) else value
