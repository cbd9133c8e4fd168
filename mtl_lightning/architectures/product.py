"""Probabilities that are products of others: an event that needs an earlier one, as a purchase needs a click."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from mtl_lightning.architectures.base import (
    Architecture,
    ArchitectureArgument,
    Gating,
    HeadFactory,
    Linear,
    build_architecture,
)
from mtl_lightning.architectures.shared_bottom import SharedBottom
from mtl_lightning.names import nearest
from mtl_lightning.types import ConfigurationError, Features, InputSpec


class Product(Architecture):
    """Yes-or-no tasks whose probability is the product of the probabilities of others.

    `Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion Rate
    <https://arxiv.org/abs/1804.07931>`_ (Ma et al. 2018), equation 1: p(click and buy | x) = p(click | x) p(buy | x,
    click). Click and purchase have labels on every row; the conversion rate, which has none of its own where nobody
    clicked, is learned through the product, on all rows. Here ``purchase: [click, conversion]``.

    A factor is a task, which then has its own labels (or none at all, and is still predicted: list it in
    ``allow_unlabelled`` of the module), or a name that is no task: a hidden factor, which only products see. A factor
    may be a product itself. By default the tasks are a funnel, of as many stages as there are tasks: each is the
    product of the one before and a hidden factor ``<task>_given_<the one before>``, unless ``products`` or ``mixtures``
    are given.

    Where a stage is reached in several ways, its probability is a mixture, ``p(c) p(a) + (1 - p(c)) p(b)``, written
    ``mixtures: {name: [c, a, b]}``: `Entire Space Multi-Task Modeling via Post-Click Behavior Decomposition for
    Conversion Rate Prediction <https://arxiv.org/abs/1910.07099>`_ (Wen et al. 2020), its rates y1 to y4: after a click
    something may be put into the cart, which makes a purchase likelier, or not::

        products:
          cart: [click, cart_given_click]
          purchase: [click, purchase_given_click]
        mixtures:
          purchase_given_click: [cart_given_click, purchase_given_cart, purchase_given_no_cart]

    A conditional rate may be a task with labels where its condition holds alone (``only_where: {conversion: {click:
    1}}`` of a table), and a factor too. Departure: the paper has no such task.

    This architecture returns final outputs, one logit (B, 1) per task: it has the heads itself, and ``heads`` and
    ``reads`` of the module stay empty. Products are taken of logits, see :func:`product_logit`.

    Roles: what only one task depends on is its own, for instance a funnel's last factor. What a factor of several
    tasks has for itself serves them all, and is shared.

    Args:
        spec: the input's spec; None where the inner architecture can do without.
        tasks: the tasks' names; each has one yes-or-no label a row.
        architecture: how the factors share, as for the module; made for the factors instead of the tasks.
        products: ``{task: [factor, ...]}``, two factors or more; other tasks have a head of their own. A hidden factor
            of a mixture may be a product, too.
        mixtures: ``{task or factor: [condition, factor if it holds, factor if not]}``.
        head: makes the head of each factor from (feature size without B, 1).

    Raises:
        ConfigurationError: for a product that is no task, with fewer than two factors or of itself, for a mixture of
            other than three, for a hidden factor that looks like a misspelt task, and for an inner architecture without
            features.
    """

    final = True

    def __init__(
        self,
        spec: InputSpec | None,
        tasks: Sequence[str],
        *,
        architecture: ArchitectureArgument = SharedBottom,
        products: dict[str, list[str]] | None = None,
        mixtures: dict[str, list[str]] | None = None,
        head: HeadFactory = Linear,
    ) -> None:
        super().__init__()
        given = _funnel(tasks) if products is None and not mixtures else products or {}
        self.products = {task: list(names) for task, names in given.items()}
        self.mixtures = {name: list(names) for name, names in (mixtures or {}).items()}
        self.tasks = list(tasks)
        self._check()
        self.factors = {task: self._single(task) for task in tasks}
        singles = list(dict.fromkeys(name for names in self.factors.values() for name in names))
        self.architecture = build_architecture(architecture, spec, singles)
        if self.architecture.final:
            raise ConfigurationError(
                f"Product: expected an architecture that gives features, found {type(self.architecture).__name__}, "
                "whose outputs are final."
            )
        sizes = self.architecture.feature_sizes
        self.heads = nn.ModuleDict({name: head(sizes[name], 1) for name in singles})
        self.feature_sizes = {}

    def _check(self) -> None:
        used = {name for names in self.mixtures.values() for name in names}
        if unknown := [task for task in self.products if task not in self.tasks and task not in used]:
            raise ConfigurationError(f"Product: expected products of tasks, {self.tasks}, found {unknown}.")
        made = {*self.products, *self.mixtures}
        of_products = {name for names in self.products.values() for name in names}
        if idle := [name for name in self.mixtures if name not in self.tasks and name not in used | of_products]:
            raise ConfigurationError(
                f"Product: expected mixtures that are tasks, {self.tasks}, or factors of one, found {idle}."
            )
        if both := [name for name in self.mixtures if name in self.products]:
            raise ConfigurationError(f"Product: expected products or mixtures, found {both} among both.")
        if odd := {name: names for name, names in self.mixtures.items() if len(names) != 3}:
            raise ConfigurationError(
                "Product: expected of a mixture a condition, the factor where it holds and the factor where not, found "
                f"{odd}."
            )
        names = [*made, *of_products, *used]
        if wrong := [name for name in names if not name or "." in name or hasattr(nn.ModuleDict, name)]:
            raise ConfigurationError(
                f"Product: expected names without '.' that are no attributes of `torch.nn.ModuleDict`, found {wrong}. "
                "Rename these factors."
            )
        for name in sorted((of_products | used) - {*self.tasks, *made}):
            near = nearest(name, [task for task in self.tasks if not _numbered(name, task)], cutoff=0.8)
            if near is not None and near not in name:
                raise ConfigurationError(
                    f"Product: expected as factors tasks, {self.tasks}, or for hidden ones names that are not like a "
                    f"task's, found {name!r}. Did you mean {near!r}?"
                )
        if short := {task: names for task, names in self.products.items() if len(names) < 2}:
            raise ConfigurationError(f"Product: expected at least 2 factors of each product, found {short}.")

    def _single(self, name: str, above: tuple[str, ...] = ()) -> list[str]:
        """Return the factors that a task or a factor comes down to, none of which is a product or a mixture."""
        if name in above:
            raise ConfigurationError(
                f"Product: expected products of other tasks, found a cycle: {' of '.join([*above, name])}."
            )
        parts = self.products.get(name) or self.mixtures.get(name)
        if parts is None:
            return [name]
        return [single for factor in parts for single in self._single(factor, (*above, name))]

    def _logit(self, name: str, logits: Mapping[str, Tensor]) -> Tensor:
        """Return the logit (B, 1) of a task or a factor, of those of its factors that are neither."""
        if name in self.mixtures:
            return mixture_logit(*(self._logit(part, logits) for part in self.mixtures[name]))
        return product_logit([logits[n] if n in logits else self._logit(n, logits) for n in self._multiplied(name)])

    def _multiplied(self, name: str) -> list[str]:
        """Return what the products within a name multiply, none of which is a product."""
        return [n for part in self.products[name] for n in self._multiplied(part)] if name in self.products else [name]

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Map inputs to the logits (B, 1) of ``tasks``."""
        needed = list(dict.fromkeys(name for task in tasks for name in self.factors[task]))
        features = self.architecture(inputs, needed)
        logits = {name: self.heads[name](features.per_task[name]) for name in needed}
        aux = {**features.aux, **self.architecture.output_losses(logits)}
        return Features({t: self._logit(t, logits) for t in tasks}, aux)

    def last_shared(self) -> Sequence[nn.Module]:
        """Return what is so of the inner architecture."""
        return self.architecture.last_shared()

    def gating(self) -> dict[str, Gating]:
        """Return the gates of the inner architecture, whose tasks are the factors."""
        return {
            name: gate._replace(tasks=[task for task, names in self.factors.items() if {*names} & {*gate.tasks}])
            for name, gate in self.architecture.gating().items()
        }

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return what belongs to factors that a single task depends on, by that task."""
        inner = self.architecture.task_parameters()
        declared: dict[str, list[nn.Parameter]] = {}
        for name, module in self.heads.items():
            served = [task for task, names in self.factors.items() if name in names]
            if len(served) == 1:
                declared.setdefault(served[0], []).extend([*inner.get(name, []), *module.parameters()])
        return declared


def product_logit(logits: Sequence[Tensor]) -> Tensor:
    """Return the logit of the product of probabilities that are given as logits, all of one shape.

    The odds of p q are 1 / ((1 + e^-a)(1 + e^-b) - 1), so its logit is -log(e^-a + e^-b + e^-(a + b)): exact and
    finite for probabilities so near to 0 or 1 that they, and their logarithms, are 0 or 1 in floating point. In float32
    or better.
    """
    first, *others = (logit.float() if logit.dtype.itemsize < 4 else logit for logit in logits)
    for other in others:
        first = -torch.logsumexp(torch.stack([-first, -other, -(first + other)]), dim=0)
    return first


def mixture_logit(condition: Tensor, so: Tensor, otherwise: Tensor) -> Tensor:
    """Return the logit of ``p(c) p(a) + (1 - p(c)) p(b)`` of three probabilities given as logits, all of one shape.

    Exact and finite at extremes, in float32 or better: the difference of the logarithms of this probability and of its
    complement, which is the same mixture of the complements of a and b.
    """
    c, a, b = (logit.float() if logit.dtype.itemsize < 4 else logit for logit in (condition, so, otherwise))
    holds, not_so = logsigmoid(c), logsigmoid(-c)
    yes = torch.logaddexp(holds + logsigmoid(a), not_so + logsigmoid(b))
    return yes - torch.logaddexp(holds + logsigmoid(-a), not_so + logsigmoid(-b))


def _numbered(name: str, other: str) -> bool:
    """Whether two names differ in a number or a letter behind the last underscore alone, as on purpose."""
    ends = [part.rstrip("0123456789").rpartition("_") for part in (name, other)]
    short = all(len(end) <= 1 for _, _, end in ends)
    return ends[0] == ends[1] or (short and ends[0][0] == ends[1][0] != "")


def _funnel(tasks: Sequence[str]) -> Mapping[str, list[str]]:
    return {after: [before, f"{after}_given_{before}"] for before, after in pairwise(tasks)}
