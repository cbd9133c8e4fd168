"""Auto-lambda: loss weights learned by how they would change other data's losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.lookahead import Lookahead
from mtl_lightning.balancing.tools.adam import TaskAdam
from mtl_lightning.types import ConfigurationError, Likelihood, state_dtype

TRAINING, VALIDATION = 0, 1  # the parts of the window


class AutoLambda(Balancer):
    r"""`Auto-Lambda: Disentangling Dynamic Task Relationships <https://arxiv.org/abs/2202.03091>`_ (Liu, James, Davison
    and Johns, 2022), equations 3 to 6.

    .. math:: \min_\lambda \sum_{k \in \text{primary}} L_k^\text{val}(\theta'), \qquad
        \theta' = \theta - \eta \nabla_\theta \sum_k \lambda_k L_k(\theta)

    The losses are weighed with :math:`\lambda`. Before each update a step is tried: with v the gradient of the primary
    tasks' losses on validation data at :math:`\theta'`, the derivative of these losses by :math:`\lambda_k` is
    :math:`-\eta\, v^\top \nabla_\theta L_k(\theta)`, which is found without a second gradient, by central differences

    .. math:: -\eta \frac{L_k(\theta + \epsilon v) - L_k(\theta - \epsilon v)}{2 \epsilon}, \qquad
        \epsilon = \frac{0.01}{\lVert v \rVert}

    on training data; then :math:`\lambda` makes one step of its own Adam, and the network its update. That takes two
    backward passes and four forwards more than a plain sum does, each over half of the window.

    What to know before using it:

    - The authors draw validation batches from the training data in an order of its own. Here a window is split in two
      equal parts instead (``parts``): the step that is tried is that of the first, the training batch, and it is
      judged on the second, the validation batch. The update itself is made with the whole window.
    - :math:`\lambda` is free, as in the paper: it is no softmax, and may become negative, with which a task is
      unlearned. ``floor=0.0`` forbids that.
    - It starts small, at 0.1: with SGD the network's learning rate is in effect a tenth, with Adam it is not.
    - Groups may have learning rates of their own: :math:`\eta v` is taken parameter by parameter. Optimizers other than
      SGD try plain steps, without momentum and weight decay; the authors' code (github.com/lorenmt/auto-lambda,
      bdba636, ``auto_lambda.py``) adds the weight decay of any optimizer to them.
    - Without a primary task in the window nothing is learned; absent tasks' :math:`\lambda` stay as they are.
    - In a bare PyTorch loop, :meth:`before_update` is called with a lookahead of your own, see
      :class:`~mtl_lightning.balancing.lookahead.Lookahead`; without these calls the weights stay as they start.

    LibMTL's variant, the softmax of :math:`\lambda` learned at a rate of 1e-3, is not offered.

    Args:
        num_tasks: T.
        primary: the tasks that count, by name or index; all by default.
        init: where every :math:`\lambda_k` starts.
        lr: its learning rate; the paper has 1e-4 for NYUv2, 3e-5 for Cityscapes and 3e-4 for CIFAR, each lambda moving
            by about that per update whatever the losses' scale.
        floor: smallest :math:`\lambda_k`; without one by default.

    Attributes:
        lambdas: (T,) :math:`\lambda`, never below float32.

    Raises:
        ConfigurationError: for options out of range.
    """

    affine = True
    parts = 2
    distance = 0.01  # of the network's weights, between the differences' middle and their ends
    lambdas: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        primary: Sequence[str | int] | None = None,
        init: float = 0.1,
        lr: float = 1e-4,
        floor: float | None = None,
    ) -> None:
        super().__init__(num_tasks)
        if floor is not None and floor > init:
            raise ConfigurationError(
                f"AutoLambda: expected an `init` that is not below the `floor`, found {init} and {floor}."
            )
        self.floor = floor
        self.primary = list(range(num_tasks)) if primary is None else list(primary)
        if not self.primary or any(isinstance(p, int) and not 0 <= p < num_tasks for p in self.primary):
            raise ConfigurationError(
                f"AutoLambda: expected as `primary` names of tasks, or indices from 0 to {num_tasks - 1}, found "
                f"{self.primary}."
            )
        self.adam = TaskAdam(num_tasks, lr=lr)
        dtype = state_dtype()
        self.register_buffer("lambdas", torch.full((num_tasks,), float(init), dtype=dtype))

    def bind(self, likelihoods: Mapping[str, Likelihood]) -> None:
        """Look up the primary tasks.

        Raises:
            ConfigurationError: if a name is no task.
        """
        super().bind(likelihoods)
        names = list(likelihoods)
        if unknown := [p for p in self.primary if isinstance(p, str) and p not in names]:
            raise ConfigurationError(
                f"AutoLambda: expected `primary` to be some of the tasks {names}, found {unknown} among them."
            )
        self.primary = [names.index(p) if isinstance(p, str) else p for p in self.primary]

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,) and present (T,) bool to their weighted sum ()."""
        return (self.lambdas * torch.where(present, losses, 0.0)).sum()

    @torch.no_grad()
    def before_update(self, lookahead: Lookahead, present: Tensor) -> None:
        """Try the update's step, and learn from where it leads.

        Args:
            lookahead: the network beside its weights.
            present: (T,) bool.
        """
        chosen = self._primary(present)
        gradient = lookahead.gradient_of(torch.where(present, self.lambdas, 0.0), TRAINING)
        shift = lookahead.step(gradient)
        wanted = lookahead.gradient_of(chosen.to(self.lambdas.dtype), VALIDATION, shift)
        # eta times v, which with one rate is the paper's direction; its length cancels
        direction = [rate * part for rate, part in zip(lookahead.rates(), wanted, strict=True)]
        length = torch.stack([part.square().sum() for part in direction]).sum().sqrt()
        known = (length > 0) & length.isfinite()
        epsilon = self.distance / torch.where(known, length, 1.0)
        ahead, behind = (
            lookahead.losses_at([sign * epsilon * part for part in direction], TRAINING) for sign in (1.0, -1.0)
        )
        slope = torch.where(known, -(ahead - behind) / (2 * epsilon), 0.0)
        self.learn(slope, present & chosen.any() & slope.isfinite())

    def _primary(self, present: Tensor) -> Tensor:
        """Return which of the tasks in ``present`` (T,) bool are primary ones, (T,) bool."""
        indices = [p for p in self.primary if isinstance(p, int)]
        if len(indices) < len(self.primary):
            raise ConfigurationError(
                f"AutoLambda: expected `bind` to tell which tasks {self.primary} are, found it not called. Call it, or "
                "give `primary` as indices."
            )
        chosen = torch.tensor([index in indices for index in range(self.num_tasks)], device=present.device)
        return chosen & present

    @torch.no_grad()
    def learn(self, gradients: Tensor, present: Tensor | None = None) -> None:
        """Make one step of Adam with gradients (T,) by the lambdas of the tasks in ``present`` (T,) bool, or of all."""
        moved = torch.ones_like(gradients, dtype=torch.bool) if present is None else present
        new = self.lambdas + self.adam.step(torch.where(moved, gradients, 0.0), moved)
        new = new if self.floor is None else new.clamp(min=self.floor)
        self.lambdas.copy_(torch.where(moved, new, self.lambdas))
