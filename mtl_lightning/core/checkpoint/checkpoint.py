"""A module's own part of a checkpoint: plain data that rebuilds it, and what an interrupted run goes on with.

Everything is under one key, so that Lightning's ``hyper_parameters`` stay empty: filled ones would override the
command line at a resume. All of it loads with ``weights_only=True``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from mtl_lightning.checkpoint_file import FORMAT, KEY, read
from mtl_lightning.core.checkpoint.fine_tuning import describe_optimizers, load_what_stays
from mtl_lightning.core.checkpoint.resume import Parts, states_of_processes
from mtl_lightning.core.network.calibration import misfit
from mtl_lightning.core.network.network import Network
from mtl_lightning.core.optim.composite import CompositeOptimizer
from mtl_lightning.core.optim.plan import OptimizerPlan
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.describe import Described, constructor_arguments, describe
from mtl_lightning.errors import CheckpointError, MtlLightningError, MtlLightningWarning
from mtl_lightning.rebuild import rebuild, unbuildable
from mtl_lightning.tasks.base import Task
from mtl_lightning.trust import Trust
from mtl_lightning.types import ConfigurationError, NotDescribableError, input_spec_from_dict, input_spec_to_dict
from mtl_lightning.version import __version__

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


def prove_rebuildable(module: Described, config: dict[str, Any], by_code: dict[str, str]) -> None:
    """Move what no checkpoint could rebuild from ``config`` to ``by_code``, and warn of it; once for each module."""
    if module.is_proven:
        return
    module.is_proven = True
    found = unbuildable(type(module), config)
    for name, reason in found.items():
        del config[name]
        by_code[name] = reason
    if found:
        listed = "; ".join(f"`{name}` ({reason})" for name, reason in found.items())
        rank_zero_warn(
            f"The checkpoints of this run will not hold {listed} `load_from_checkpoint` will ask for them. Declare the "
            "types of such arguments, and keep classes in a module, and they will.",
            category=MtlLightningWarning,
        )


def data_of(data: LightningDataModule | None) -> dict[str, Any]:
    """Return what rebuilds a datamodule and its schema, as far as it is plain data.

    Arguments that are not, or could not be made again, are in the datamodule's own ``by_code``, each with the reason.
    """
    described, _ = describe_arguments({"data": type(data), "schema": getattr(data, "schema", None)})
    made = None
    made_with: Any = getattr(data, "_made_with", None)  # of a datamodule that remembers
    if "data" in described and made_with is not None:
        config, by_code = describe_arguments(constructor_arguments(type(data), *made_with))
        by_code |= unbuildable(type(data), config)
        kept = {name: value for name, value in config.items() if name not in by_code}
        made = described["data"] | {key: part for key, part in (("init_args", kept), ("by_code", by_code)) if part}
    return {"data": made, "schema": described.get("schema")}


def hyperparameters(model: Mapping[str, Any], trainer: Trainer) -> dict[str, Any]:
    """Return what made the module and its data, as far as it is plain data, nested; for loggers."""
    data = data_of(getattr(trainer, "datamodule", None))["data"] or {}
    data = {key: part for key, part in data.items() if key != "by_code"}
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
        "trivial_predictions": network.trivial_predictions,
        "calibration": network.calibration,
        "optimizers": [entry for one in composites for entry in describe_optimizers(one, plan.groups)],
        "input_spec": input_spec_to_dict(network.input_spec),
        **data_of(getattr(runtime.trainer, "datamodule", None)),
        "processes": states_of_processes(parts, runtime),
    }


def refuse_other_sources(hparams_file: Any, weights_only: bool | None) -> None:
    """Refuse what Lightning's modules may be rebuilt from: another file, and pickled objects."""
    if hparams_file is not None or weights_only is False:
        raise ConfigurationError(
            "Checkpoints hold their own configuration as plain data: expected no "
            "`hparams_file` and no `weights_only=False`."
        )


def load(
    cls: type[Module],
    path: str | Path,
    overrides: Mapping[str, Any],
    map_location: Any = None,
    *,
    strict: bool = True,
    trusted: Sequence[str] = (),
) -> Module:
    """Rebuild a module from a checkpoint and load its weights.

    Args:
        cls: the module's class; classes and functions of the file that defines it are trusted too.
        path: of the checkpoint.
        overrides: arguments to use in place of the saved ones.
        map_location: where to put the tensors.
        strict: refuse weights that do not fit.
        trusted: modules whose classes and functions the checkpoint may name, beside
            :data:`~mtl_lightning.trust.ALLOWED`.

    Raises:
        CheckpointError: for a file that is no checkpoint of ours, for arguments that must be passed again, for names
            that are not trusted, and for weights that do not fit.
    """
    checkpoint = read(path, map_location)
    saved = checkpoint[KEY]
    if missing := {name: why for name, why in saved["by_code"].items() if name not in overrides}:
        listed = "; ".join(f"`{name}` ({why})" for name, why in missing.items())
        raise CheckpointError(
            f"{path} was trained with arguments that a checkpoint cannot hold: {listed} Pass them again: "
            f"load_from_checkpoint(path, {', '.join(f'{name}=...' for name in missing)})."
        )
    try:
        given = {"input_spec": input_spec_from_dict(saved["input_spec"]), **overrides}
        module = rebuild(cls, saved["config"], Trust(trusted, cls), given)
        if not module.is_built:  # its inputs have no sizes that could be saved
            module.build(None)
        if strict:
            module.load_state_dict(checkpoint["state_dict"])
        else:
            load_what_stays(module, checkpoint["state_dict"], saved["task_names"])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # of a constructor, which meets arguments that a file or the caller gave
        asked = {name: value for name, value in saved["config"].items() if name not in overrides}
        raise CheckpointError(
            f"{path} cannot be rebuilt: {'' if isinstance(error, MtlLightningError) else f'{type(error).__name__}: '}"
            f"{_short(error)}\n{_what_to_pass(cls, asked, Trust(trusted, cls), str(error))}"
        ) from error
    module.trained_on = saved.get("schema")
    if "tasks" not in overrides:
        module.trivial_predictions = saved.get("trivial_predictions")
    if strict and ("tasks" not in overrides or "tasks" in saved["by_code"]):  # else other weights, or another target
        module.calibration = calibration_of(saved, module.tasks, path)
    return module


def put_back(network: Network, saved: Mapping[str, Any], where: str | Path) -> None:
    """Give a network what our part of a checkpoint holds of it beside its weights."""
    network.trained_on, network.trivial_predictions = saved.get("schema"), saved.get("trivial_predictions")
    network.calibration = calibration_of(saved, network.tasks, where)


def calibration_of(saved: Mapping[str, Any], tasks: Mapping[str, Task], where: str | Path) -> dict[str, Any] | None:
    """Return the calibration of these tasks in our part of a checkpoint; None if there is none.

    Raises:
        CheckpointError: for one that cannot be theirs.
    """
    if saved.get("calibration") is None:
        return None
    found = {name: known for name, known in saved["calibration"].items() if name in tasks}
    if wrong := misfit(found, tasks):
        raise CheckpointError(
            f"{where}: expected the calibration of its tasks, found {wrong}: something else has written or changed it. "
            "Calibrate it anew: mtl-lightning calibrate --help."
        )
    return found


def _what_to_pass(cls: type, config: Mapping[str, Any], trust: Trust, error: str) -> str:
    """Say which arguments to pass again: those that cannot be made, or else what a constructor may have failed at."""
    try:
        named = list(unbuildable(cls, config, trust))
    except Exception:  # whatever a file holds
        named = []
    named = named or [name for name in config if error.startswith((f"`{name}`", f"`{name}.", f"`{name}["))]
    made = [name for name, value in config.items() if isinstance(value, dict | list) and value]
    again = ", ".join(f"{name}=..." for name in named or made)
    which = "Pass again" if named or len(made) == 1 else "Pass again the one that this is about, of"
    return f"{which}: load_from_checkpoint(path, {again})."


def _short(error: Exception) -> str:
    """Return what an error says, in four lines at most."""
    lines = str(error).strip().splitlines()
    return "\n".join([*lines[:3], *(["..."] if len(lines) > 3 else [])])


def without_numpy(value: Any) -> Any:
    """Turn NumPy's numbers, such as the learning rates of a sweep, into plain ones, which load everywhere."""
    if isinstance(value, dict):
        return {key: without_numpy(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(without_numpy, value))
    return value.item() if isinstance(value, np.generic) else value
