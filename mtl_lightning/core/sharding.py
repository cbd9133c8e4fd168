"""Sharded parameters: FSDP2 for balancers of losses, and a clear refusal where a strategy cannot be right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mtl_lightning.core.network.network import Network
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.types import ConfigurationError, Features

_OF_WHOLE_PARAMETERS = (
    *(BaseFinetuning, StochasticWeightAveraging, WeightAveraging),  # keep copies or lists of them
    *(LearningRateFinder, BatchSizeFinder),  # restore a checkpoint from before the first update, which lacks states
)


def refuse_unsupported(network: Network, trainer: Trainer) -> None:
    """Raise a :class:`ConfigurationError` for combinations that cannot be right, before the first batch."""
    strategy, accumulate = trainer.strategy, trainer.accumulate_grad_batches
    if isinstance(strategy, DeepSpeedStrategy):
        raise ConfigurationError(
            "DeepSpeed steps one optimizer of its own: expected a strategy that leaves the groups' optimizers to the "
            "module. Use `strategy: ddp`, or ModelParallelStrategy to shard the parameters."
        )
    if isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
        _refuse_sharded(network, accumulate, type(strategy).__name__)
    static = isinstance(strategy, DDPStrategy) and strategy._ddp_kwargs.get("static_graph", False)
    if static and (accumulate > 1 or network.balancer.wants_rows(accumulate)):
        raise ConfigurationError(
            "`static_graph` expects one backward per update, which DDP sums: found "
            f"{type(network.balancer).__name__} with `accumulate_grad_batches: {accumulate}`, which sums gradients in "
            "its own way. Leave `static_graph` out."
        )


def _refuse_sharded(network: Network, accumulate: int, strategy: str) -> None:
    if network.balancer.wants_rows(accumulate):
        raise ConfigurationError(
            f"{type(network.balancer).__name__} needs one gradient per task, which sharded parameters do not give: "
            f"expected DDP or a single process, found {strategy}. Use `strategy: ddp`, or a balancer of losses such "
            "as UncertaintyWeighting (with `accumulate_grad_batches: 1` unless it is affine)."
        )
    if following := [name for name, task in network.tasks.items() if task.rescales]:
        raise ConfigurationError(
            f"The tasks {following} rewrite the last layer of their heads during training (`popart`), which sharded "
            f"parameters do not allow: expected DDP or a single process, found {strategy}. Use `strategy: ddp`, or "
            "`standardize`."
        )


def shard(network: Network, trainer: Trainer) -> None:
    """Shard the architecture and the heads over the data-parallel processes of a ``ModelParallelStrategy`` (FSDP2).

    The balancer's few parameters stay whole. A network whose ``configure_model`` has sharded its parts already, or has
    parallelised their tensors, is left as it is.

    Raises:
        ConfigurationError: for callbacks that would lose the parameters, and where there is nobody to share them with.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, ModelParallelStrategy) or are_sharded(network.parameters()):
        return
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set outside its __init__
    if found := [type(callback).__name__ for callback in callbacks if isinstance(callback, _OF_WHOLE_PARAMETERS)]:
        raise ConfigurationError(
            f"{found} cannot follow sharded parameters, which are others before, in and after a forward: expected "
            "DDP or a single process, found ModelParallelStrategy. Use `strategy: ddp`, or leave the callback out."
        )
    mesh = strategy.device_mesh["data_parallel"]
    if mesh.size() == 1 and trainer.world_size > 1:
        raise ConfigurationError(
            "ModelParallelStrategy shares the parameters out over its data-parallel processes: expected several, found "
            f"1 of {trainer.world_size} processes. Set `data_parallel_size: {trainer.world_size}` and "
            "`tensor_parallel_size: 1`, or parallelise the tensors in `configure_model` of a module of your own."
        )
    if mesh.size() > 1:
        _open_features()
        for part in [network.architecture, *network.heads.children()]:
            if any(True for _ in part.parameters()):
                fully_shard(part, mesh=mesh, reshard_after_forward=True)  # others hold on to the sharded ones


@cache
def _open_features() -> None:
    """Let FSDP2 find the tensors in what an architecture returns: their backward is when it gathers parameters again.

    Newer versions of PyTorch look into any dataclass; 2.10 looks into those that it was told of.
    """
    torch.export.register_dataclass(Features)


def are_sharded(parameters: Iterable[Tensor]) -> bool:
    """Whether any of some parameters is shared out over processes."""
    return any(isinstance(parameter, DTensor) for parameter in parameters)


def average_whole_gradients(network: Network, runtime: Runtime) -> None:
    """Average the gradients that the strategy leaves as each process computed them.

    These are, under FSDP2, those of parameters that are not sharded; under DDP, those of parameters that were frozen
    when it wrapped the module (as finetuning callbacks do), which it never looks at again.
    """
    if runtime.world_size == 1:
        return
    forgotten = runtime.left_out_by_ddp
    if runtime.shards_parameters:
        forgotten = [parameter for parameter in network.parameters() if not are_sharded([parameter])]
    for parameter in forgotten:
        if parameter.grad is not None:
            parameter.grad = runtime.all_sum(parameter.grad) / runtime.world_size


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the norms (N,) of N tensors, each over all processes for sharded ones."""
    kinds = {(type(tensor), tensor.device, tensor.dtype) for tensor in tensors}
    if len(kinds) == 1 and not any(issubclass(kind, DTensor) for kind, *_ in kinds):
        return torch.stack(torch._foreach_norm([*tensors]))
    parts = [torch.linalg.vector_norm(tensor).float() for tensor in tensors]
    return torch.stack([part.full_tensor() if isinstance(part, DTensor) else part for part in parts])


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the norm () of all entries of some tensors, over all processes for sharded ones."""
    norm: Tensor = torch.linalg.vector_norm(norms(tensors)) if tensors else torch.zeros(())
    return norm
