"""The symptom of tasks that cannot share: gradients of the shared parameters that oppose, or drown, each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from mtl_lightning.callbacks.diagnosis import Remembering, multi_task
from mtl_lightning.callbacks.picture import write_grey
from mtl_lightning.core import MultiTaskModule
from mtl_lightning.core.update.gradients.conflict import task_products, watched_parameters

Pair: TypeAlias = tuple[str, str]

_PER_TASK, _RAREST = 50, 300  # updates between two looks
_ALIVE = 0.1  # of the longest gradient that a task has had: a shorter one has come to rest by itself
_CHARTED = 8  # tasks that have a chart for each pair; of more, there is the picture


class _Look(NamedTuple):
    """The gradients of the tasks that are present in one update.

    Attributes:
        lengths: of their gradients, before the balancer weighs them.
        weighted: the same, times their weights in the update.
        losses: times these weights.
        cosines: of each pair.
    """

    lengths: dict[str, float]
    weighted: dict[str, float]
    losses: dict[str, float]
    cosines: dict[Pair, float]


class Conflict(Remembering):
    """Compares the tasks' gradients of the shared parameters, whatever the balancer is.

    Written for each pair of up to 8 tasks: ``watch/cosine/<a>/<b>``, and ``watch/magnitude/<a>/<b>``, how many times
    longer the gradient of a is than that of b, each times its weight in the update (``train/weight/<task>``). For all
    tasks: ``watch/conflicting_updates``, the share, of the updates looked at, in which two gradients are more than 90
    degrees apart; and at the end of an epoch the picture ``watch/cosines``, a row and a column per task in their order,
    white for 1, grey for 0 and black for -1: means over the epoch.

    One warning (:class:`~mtl_lightning.types.MtlLightningWarning`) per task and run:

    - *Two tasks oppose each other*: what one learns in the shared parameters the other undoes. Gradients of single
      batches are noisy: where nothing but noise is left, as in a trained network, each of two may point anywhere, and
      in a small network a cosine is near 1 or -1 by chance. So a look goes on, over the updates that follow, as long as
      a pair is below ``cosine`` in all of them, to ``confirm`` updates at most; and a pair is warned of after
      ``looks`` such looks in a row. A pair that is below in half of all updates would be so in 18 of 18 once in 260,000
      times. Near the optimum of a sum, gradients cancel out as they should, small ones: so both must have at least a
      tenth of the length that they once had.
    - *One task drowns another*: its weighted gradient is ``dominance`` times as long, in two looks in a row, while that
      of the other has not come to rest, and its weighted loss is larger as well, by the root of that or more: then it
      is their scales, not a way to the shared parameters that is closed for one of them. Steps go by the sum, in which
      the other is then less than the noise of one batch (about the length of a gradient over the root of its rows).

    A look costs a forward, and a backward through the shared parameters per task, besides those of the update. It
    leaves no trace: ``.grad``, BatchNorm's statistics and the random state are as before, and an update is the same bit
    for bit. That is at most (1 + 2 T) / 3 steps for T tasks, so that the default costs at most 1.7 % of the time up to
    6 tasks, and for more tasks the less, the more of the time their heads take. Nothing is written for tasks that are
    in different updates, for one task alone, and under FSDP, where no process has whole rows; embeddings with sparse
    gradients are left out.

    Args:
        every_n_steps: updates from one look to the next, beside the first update; by default 50 per task, at most 300.
            0 switches the callback off.
        cosine: two gradients oppose each other below it; at the default they are 120 degrees apart.
        confirm: number of updates in a row that a look takes of a pair that may be opposed.
        looks: number of looks in a row that have to find a pair opposed.
        dominance: how many times another's length a gradient may be.

    Raises:
        ConfigurationError: for options out of range; at ``setup`` for a module that is no ``MultiTaskModule``.
    """

    fresh: ClassVar[Mapping[str, Any]] = {"looks": 0, "conflicting": 0, "longest": {}, "opposed": {}, "drowned": {}}
    """Updates looked at, those with a conflict, each task's longest gradient, and each pair's looks in a row."""

    def __init__(
        self,
        every_n_steps: int | None = None,
        cosine: float = -0.5,
        confirm: int = 6,
        looks: int = 3,
        dominance: float = 1000.0,
    ) -> None:
        super().__init__(every_n_steps or 0)
        self.as_tasks_are = every_n_steps is None
        self.cosine, self.confirm, self.looks, self.dominance = cosine, confirm, looks, dominance
        self._let_go()

    def _let_go(self) -> None:
        self._every = 0  # updates from look to look
        self._products: tuple[list[str], Tensor] | None = None  # of the update under way: its tasks, and what to read
        self._suspects: list[Pair] = []  # pairs that were opposed in all updates of the look that goes on
        self._updates = 0  # of this look
        self._sums: dict[Pair, list[float]] = {}  # of this epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out how often to look, and whether there is anything to see."""
        self._let_go()
        module = multi_task(pl_module, self)
        number = len(module.tasks)
        if number < 2 or not (self.every_n_steps or self.as_tasks_are):
            return
        if not watched_parameters(module, module.runtime):
            if module.runtime.shards_parameters:
                rank_zero_info("Conflict does not watch sharded parameters, of which no process has whole gradients.")
            return
        self._every = self.every_n_steps or min(_PER_TASK * number, _RAREST)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """In a look, compare the gradients of the update under way."""
        number = trainer.global_step + 1
        begins = self._every > 0 and (number == 1 or number % self._every == 0)
        if begins:
            self._updates = 0
        if not begins and not self._suspects:
            return
        module = multi_task(pl_module, self)
        window, weights = module.updates.window, module.updates.losses.weights
        if window is None or len(window.names) < 2:
            return
        products = task_products(module, module.runtime, window)
        if products is not None:
            losses, places = module.runtime.all_sum(module.updates.losses.tasks), window.present_indices
            weights = torch.ones_like(losses) if weights is None else weights.detach()
            flat = [products.flatten(), weights[places].to(products), losses[places].to(products)]
            self._products = window.names, torch.cat(flat)
            self._updates += 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an update of a look, write and judge what it has shown."""
        if self._products is None:
            return
        module, (names, values) = multi_task(pl_module, self), self._products
        self._products = None
        look = _read(names, values.tolist())
        if look is None:  # not finite
            self._suspects = []
            return
        for name, length in look.lengths.items():
            self.seen["longest"][name] = max(length, self.seen["longest"].get(name, 0.0))
        opposed = [pair for pair, cosine in look.cosines.items() if cosine < self.cosine and self._alive(look, *pair)]
        if self._updates == 1:
            self._note(module, look)
            self._judge_lengths(module, look)
            self._suspects = [pair for pair in opposed if not self.warned.intersection(pair)]
            self._give_up([pair for pair in look.cosines if pair not in opposed])
        else:
            left = [pair for pair in self._suspects if pair in opposed]
            self._give_up([pair for pair in self._suspects if pair not in left])
            self._suspects = left
        if self._updates >= self.confirm:
            self._judge_cosines(module, look)
            self._suspects = []

    def _alive(self, look: _Look, *tasks: str) -> bool:
        """Whether the tasks' gradients have not come to rest."""
        return all(look.lengths[name] >= _ALIVE * self.seen["longest"][name] > 0 for name in tasks)

    def _give_up(self, pairs: list[Pair]) -> None:
        for pair in pairs:
            self.seen["opposed"].pop("/".join(pair), None)

    def _note(self, module: MultiTaskModule, look: _Look) -> None:
        """Write the values of the first update of a look."""
        self.seen["looks"] += 1
        self.seen["conflicting"] += min(look.cosines.values()) < 0
        values = {"watch/conflicting_updates": self.seen["conflicting"] / self.seen["looks"]}
        for (a, b), cosine in look.cosines.items():
            sums = self._sums.setdefault((a, b), [0.0, 0.0])
            sums[0] += cosine
            sums[1] += 1
            if len(module.tasks) <= _CHARTED:
                values[f"watch/cosine/{a}/{b}"] = cosine
                if look.weighted[b] > 0:
                    values[f"watch/magnitude/{a}/{b}"] = look.weighted[a] / look.weighted[b]
        self.write(module, values)

    def _judge_lengths(self, module: MultiTaskModule, look: _Look) -> None:
        """Warn of the task whose gradient drowns most of the others'."""
        drowned: dict[str, list[str]] = {}
        counts = self.seen["drowned"]
        for a, b in [*look.cosines, *((b, a) for a, b in look.cosines)]:
            longer = look.weighted[a] >= self.dominance * look.weighted[b] and self._alive(look, b)
            far = longer and look.losses[a] >= math.sqrt(self.dominance) * look.losses[b]
            counts[f"{a}/{b}"] = counts.get(f"{a}/{b}", 0) + 1 if far else 0
            if counts[f"{a}/{b}"] >= 2:
                drowned.setdefault(a, []).append(b)
        for a, others in sorted(drowned.items(), key=lambda item: -look.weighted[item[0]]):
            factor = look.weighted[a] / max(look.weighted[b] for b in others)
            self.warn_once(
                module,
                [a, *others],
                f"Task {a}: its weighted gradient of the shared parameters is {factor:.1e} times as long as that of "
                f"{' and '.join(others)}, which hardly counts there. Is the scale of its targets meant? Bring it to "
                f"that of the others (`data.init_args.tasks.{a}` with `standardize: true`, for a regression), or "
                "choose a `model.balancer` that learns weights, such as UncertaintyWeighting.",
            )

    def _judge_cosines(self, module: MultiTaskModule, look: _Look) -> None:
        """Warn of the pairs that this look, and those before it, have found opposed."""
        for pair in sorted(self._suspects, key=lambda pair: look.cosines[pair]):
            key = "/".join(pair)
            self.seen["opposed"][key] = self.seen["opposed"].get(key, 0) + 1
            if self.seen["opposed"][key] >= self.looks:
                a, b = pair
                self.warn_once(
                    module,
                    pair,
                    f"Tasks {a} and {b}: their gradients of the shared parameters oppose each other in every update "
                    f"looked at, {self.looks} times in a row (cosine now {look.cosines[pair]:.2f}): what one learns "
                    "there the other undoes. Check that both targets are what you mean (a sign, an order of "
                    "classes), share less (`model.architecture`: MMoE, PLE or SingleTaskNetworks; a larger encoder), "
                    "or let a `model.balancer` of gradients, such as PCGrad, settle it.",
                )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the mean cosines of the epoch."""
        names = list(multi_task(pl_module, self).tasks)
        if self._sums:
            picture = torch.eye(len(names))
            for (a, b), (total, number) in self._sums.items():
                i, j = names.index(a), names.index(b)
                picture[i, j] = picture[j, i] = total / number
            write_grey("watch/cosines", (1 + picture) / 2, trainer)
        self._sums = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of what only training needs."""
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go likewise."""
        self._let_go()


def _read(names: list[str], values: list[float]) -> _Look | None:
    """Read inner products (P, P), weights (P,) and losses (P,), flat; None if they are not finite."""
    size = len(names)
    if not all(map(math.isfinite, values)):
        return None
    *products, weights, losses = [values[i * size : (i + 1) * size] for i in range(size + 2)]
    lengths = [math.sqrt(max(products[i][i], 0.0)) for i in range(size)]
    cosines = {
        (names[i], names[j]): products[i][j] / (lengths[i] * lengths[j]) if lengths[i] * lengths[j] > 0 else 0.0
        for i, j in combinations(range(size), 2)
    }
    by_name = dict(zip(names, zip(lengths, weights, losses, strict=True), strict=True))
    return _Look(
        {name: length for name, (length, _, _) in by_name.items()},
        {name: abs(weight) * length for name, (length, weight, _) in by_name.items()},
        {name: abs(weight * loss) for name, (_, weight, loss) in by_name.items()},
        cosines,
    )
