"""A training loop for the tiny problem in bare PyTorch, written without the library's tasks, balancers and optimizers.

It borrows the layers of a module, and nothing else: estimates, losses, means over labelled entries, uncertainty terms,
clipping and stepping are spelled out here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from mtl_lightning.types import Batch

Make = Callable[[list[nn.Parameter]], Optimizer]
TERMS = {"number": (0.5, 0.5), "vector": (1.0, 1.0), "kind": (1.0, 0.5)}


class HandLoop:
    """Train ``net``, of which only the layers are used: its network, ``heads`` and ``balancer.log_vars``.

    Args:
        net: a module made like the one it is compared with, whose architecture is one network for all tasks.
        optimizers: ``{prefixes of parameter names: optimizer}``, one optimizer per entry.
        reads: ``{reader: (read, stop the gradient?)}``; a read task must come before its reader in the net.
        uncertainty: weight the losses by learned uncertainties instead of summing them.
        clip_all: largest norm of the whole gradient.
        clip: largest norm of the gradient of parameters with a prefix.
    """

    def __init__(
        self,
        net: Any,
        optimizers: Mapping[tuple[str, ...], Make],
        *,
        reads: Mapping[str, tuple[str, bool]] | None = None,
        uncertainty: bool = False,
        clip_all: float | None = None,
        clip: Mapping[str, float] | None = None,
    ) -> None:
        self.net = net.double()
        (self.network,) = net.architecture.children()
        self.reads = dict(reads or {})
        self.uncertainty = uncertainty
        self.clip_all, self.clip = clip_all, dict(clip or {})
        chosen = [(self.parameters(*prefixes), make) for prefixes, make in optimizers.items()]
        self.optimizers = [make(parameters) for parameters, make in chosen if parameters]

    def parameters(self, *prefixes: str) -> list[nn.Parameter]:
        return [p for name, p in self.net.named_parameters() if name.startswith(prefixes)]

    def outputs(self, inputs: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        """The outputs (B, K) of ``tasks`` and of what they read."""
        features = self.network(inputs)
        outputs: dict[str, Tensor] = {}
        wanted = {*tasks, *(self.reads[task][0] for task in tasks if task in self.reads)}
        for task in self.net.heads:
            if task in wanted:
                seen = [features]
                if task in self.reads:
                    read, stop = self.reads[task]
                    estimate = outputs[read].softmax(1) if read == "kind" else outputs[read]
                    seen.append(estimate.detach() if stop else estimate)
                outputs[task] = self.net.heads[task](torch.cat(seen, 1))
        return outputs

    def means(self, window: Sequence[Batch]) -> dict[str, Tensor]:
        """Each labelled task's loss: the weighted mean over the labelled entries of the whole window."""
        sums: dict[str, Tensor] = {}
        sizes: dict[str, Tensor] = {}
        for batch in window:
            outputs = self.outputs(batch["inputs"], list(batch["targets"]))
            weights = batch.get("weights", torch.ones(len(batch["inputs"]), dtype=torch.float64))
            for task, target in batch["targets"].items():
                weight = weights[task] if isinstance(weights, dict) else weights
                losses, entry_weights = labelled(task, outputs[task], target, weight)
                sums[task] = sums.get(task, 0.0) + (losses * entry_weights).sum()
                sizes[task] = sizes.get(task, 0.0) + entry_weights.sum()
        return {task: sums[task] / sizes[task] for task in sums if sizes[task] > 0}

    def objective(self, means: Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for index, task in enumerate(self.net.tasks):
            if task in means and self.uncertainty:
                (s,) = self.net.balancer.log_vars[index]
                a, b = TERMS[task]
                total = total + a * torch.exp(-s) * means[task] + b * s
            elif task in means:
                total = total + means[task]
        return total

    def update(self, window: Sequence[Batch]) -> None:
        means = self.means(window)
        if not means:
            return
        for parameter in self.net.parameters():
            parameter.grad = None
        torch.autograd.backward(self.objective(means))
        for prefix, value in self.clip.items():
            clip_norm(self.parameters(prefix), value)
        if self.clip_all is not None:
            clip_norm(self.parameters(""), self.clip_all)
        self.step()

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def train(
        self,
        epochs: int,
        windows: Sequence[Sequence[Batch]],
        after_update: Callable[[], None] = lambda: None,
        after_epoch: Callable[[], None] = lambda: None,
    ) -> HandLoop:
        for _ in range(epochs):
            for window in windows:
                self.update(window)
                after_update()
            after_epoch()
        return self

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Batch]) -> Tensor:
        """The sum of the tasks' losses over a whole split."""
        return torch.stack(list(self.means(batches).values())).sum()


def labelled(task: str, output: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The losses (N,) of a batch's labelled entries, picked out one by one, and their weights (N,)."""
    if task == "number":
        rows = (~target.isnan()).nonzero()[:, 0]
        return (output[rows, 0] - target[rows]) ** 2, weight[rows]
    if task == "vector":
        rows, columns = (~target.isnan()).nonzero().unbind(1)
        return (output[rows, columns] - target[rows, columns]).abs(), weight[rows]
    rows = (target != -100).nonzero()[:, 0]
    return -F.log_softmax(output[rows], 1)[torch.arange(len(rows)), target[rows]], weight[rows]


def clip_norm(parameters: Iterable[nn.Parameter], value: float) -> None:
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([(grad**2).sum() for grad in grads]).sum().sqrt()
    if norm > value:
        for grad in grads:
            grad *= value / (norm + 1e-6)
