"""By what a group's rate is judged: the losses of the tasks that it serves, or the balancer's objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mtl_lightning.core.evaluation import spread, trivial_outputs
from mtl_lightning.core.network.network import Network, at_least_float32
from mtl_lightning.core.network.roles import Named
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.update.batches import targets_of, weight_of
from mtl_lightning.core.update.window import Window

OBJECTIVE = "the balancer's objective"


@dataclass(frozen=True)
class Judge:
    """What a group's rate is judged by.

    Attributes:
        tasks: the places, among all tasks, of those whose losses count; empty if the balancer's objective does.
        name: what to call it.
        turn: 0, 1 or 2; sweeps of a lower one come first.
    """

    tasks: tuple[int, ...]
    name: str
    turn: int = 0

    @classmethod
    def of(cls, network: Network, members: Named) -> Judge:
        """Return what judges a group: the tasks that own its parameters, all tasks if it holds shared ones.

        Learned weights of losses are judged by the balancer's objective, which is what their gradient lowers.
        """
        names, roles = list(network.tasks), network.roles
        if members and members.keys() <= roles.balancer.keys() and network.balancer.owned():
            return cls((), OBJECTIVE, turn=2)
        served = [task for task in names if members.keys() & roles.tasks[task].keys()]
        owned = {name for task in served for name in roles.tasks[task]}
        shared = not served or not members.keys() <= owned
        if shared:
            served = names
        what = served[0] if len(served) == 1 else "all tasks" if served == names else ", ".join(served)
        return cls(tuple(names.index(task) for task in served), f"the loss of {what}", turn=int(shared))

    def value(self, losses: Sequence[float], scales: Sequence[float], objective: float) -> float:
        """Return a number to be low: the mean of the tasks' losses (T,), each over its scale; or the objective.

        nan if one of the tasks has no label, and so no loss.
        """
        if not self.tasks:
            return objective
        return sum(losses[task] / scales[task] for task in self.tasks) / len(self.tasks)


def gains(values: Sequence[float], reference: Sequence[float], ratio: bool) -> list[float]:
    """Return how far values (N,) are above those of the reference, whose updates were on the same batches.

    Args:
        values: with the group's rate.
        reference: with the group at rest.
        ratio: as the logarithm of their ratio, if all of them are above 0; else as the difference.
    """
    pairs = list(zip(values, reference, strict=False))
    known = [pair for pair in pairs if not any(map(math.isnan, pair))]
    if ratio and all(min(pair) > 0 for pair in known):
        return [math.log(value) - math.log(other) for value, other in pairs]
    return [value - other for value, other in pairs]


@torch.no_grad()
def trivial_losses(network: Network, runtime: Runtime, windows: Sequence[Window]) -> list[float]:
    """Return the mean losses (T,) of the trivial predictors over some windows; nan of a task without a label.

    As ``val/loss_normalised`` takes them: the constants that fit the training labels best.
    """
    constants = trivial_outputs(network, runtime.device)
    dtype = torch.float32 if runtime.device.type == "mps" else torch.float64
    totals = torch.zeros(2, len(network.tasks), dtype=dtype, device=runtime.device)
    for batch in (batch for window in windows for batch in window.batches):
        targets = targets_of(batch)
        outputs, _ = network.run(batch["inputs"], list(targets))
        with runtime.full_precision():
            for index, (name, task) in enumerate(network.tasks.items()):
                if name in targets and name in constants:
                    output = spread(constants[name], at_least_float32(outputs[name]))
                    target, weight = targets[name], weight_of(batch, name)
                    totals[0, index] += task.loss(output, target, weight)
                    totals[1, index] += task.count(target, weight)
    found: list[float] = (totals[0] / totals[1]).tolist()
    return found
