"""What a run is made of, as text beside its curves: the configuration, the task graph, the groups of parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]  # it ships no types
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from mtl_lightning.callbacks.diagnosis import multi_task
from mtl_lightning.core import MultiTaskModule
from mtl_lightning.core.checkpoint.checkpoint import hyperparameters
from mtl_lightning.ranges import Ranged


class RunText(Ranged, Callback):
    """Writes three texts when training starts, for TensorBoard's page *Text*; other loggers get nothing.

    - ``run/config``: the configuration of the command line as YAML, but for what is null; of a run in Python what
      module and data were made with.
    - ``run/tasks``: a table of the tasks, with whose estimates each reads, and whether the gradient stops there.
    - ``run/groups``: a table of the groups, with their numbers of parameters, their optimizers and learning rates.

    Args:
        enabled: whether anything is written.

    Raises:
        ConfigurationError: at ``setup`` for a module that is no ``MultiTaskModule``.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules."""
        multi_task(pl_module, self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the texts."""
        module = multi_task(pl_module, self)
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not (self.enabled and trainer.is_global_zero and boards):
            return
        texts = {"config": _config(trainer, module), "tasks": _tasks(module), "groups": _groups(module)}
        for name, text in texts.items():
            for logger in boards:
                logger.experiment.add_text(f"run/{name}", text, trainer.global_step)


def _config(trainer: Trainer, module: MultiTaskModule) -> str:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set outside its __init__
    for callback in callbacks:
        if isinstance(callback, SaveConfigCallback):
            return _fenced(callback.parser.dump(callback.config, skip_none=True))
    return _fenced(yaml.safe_dump(hyperparameters(module.hparams_initial, trainer), sort_keys=False))


def _tasks(module: MultiTaskModule) -> str:
    edges = module.graph.edges
    rows = []
    for name in module.graph.order:
        task = module.tasks[name]
        reads = [
            f"{read} (gradient {'stops' if edge.stop_gradient else 'passes'})" for read, edge in edges[name].items()
        ]
        readers = [reader for reader, read in edges.items() if name in read]
        rows.append(
            [name, type(task).__name__, task.output_size, task.spec.units, ", ".join(reads), ", ".join(readers)]
        )
    arrows = [f"{read} → {name}" for name in module.graph.order for read in edges[name]]
    text = _table(["task", "kind", "outputs", "units", "reads the estimate of", "is read by"], rows)
    return text + (
        "\n\nEstimates as features: " + ", ".join(arrows) if arrows else "\n\nNo task reads another's estimate."
    )


def _groups(module: MultiTaskModule) -> str:
    optimizers, clips = module.group_optimizers, module.plan.gradient_clip
    scheduler: Any = module.lr_schedulers()
    schedules = getattr(scheduler, "schedulers", {})
    rows = []
    for name, members in module.groups.items():
        parameters = [*members.values()]
        trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        optimizer = optimizers.get(name)
        options = optimizer.param_groups if optimizer is not None else []
        rates = ", ".join(dict.fromkeys(f"{float(one.get('initial_lr', one['lr'])):g}" for one in options))
        schedule = type(schedules[name].scheduler).__name__ if name in schedules else ""
        kind = type(optimizer).__name__ if optimizer is not None else ""
        size = sum(parameter.numel() for parameter in parameters)
        rows.append([name, f"{size:,}", f"{trained:,}", kind, rates, schedule, clips.get(name, "")])
    return _table(["group", "parameters", "trained", "optimizer", "rate", "schedule", "largest gradient norm"], rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _fenced(text: str) -> str:
    return f"```yaml\n{text.rstrip()}\n```"
