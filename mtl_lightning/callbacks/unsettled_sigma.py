"""The symptom of a balancer's rate too small: noise levels that are still far from where they belong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from mtl_lightning.callbacks.diagnosis import Remembering, multi_task, rate_of
from mtl_lightning.core import MultiTaskModule

_FAR = math.log(1.5)  # of sigma: a task's weight is then off by more than 2
_SAMPLES = 8  # that have to agree
_PART = 0.25  # of its way, which a noise level that learns has behind it
_UNKNOWN = 10  # times the updates so far are to come, where nobody knows


class UnsettledSigma(Remembering):
    r"""Watches for learned noise levels that do not settle: ``watch/sigma_off/<task>``, 1 where it is settled.

    It is sigma over the noise level at which the balancer's gradient is 0 for the losses as they are, with the task's
    :class:`~mtl_lightning.types.Likelihood`: :math:`\sqrt{aL/b}`, or :math:`\sqrt 2\, aL/b` for a Laplace scale. A
    sigma that is off weighs its task by the square of that too much, or too little.

    One warning (:class:`~mtl_lightning.types.MtlLightningWarning`) per run, if for some task

    - in 8 samples in a row sigma is on the same side of its place, and on (geometric) average off by a factor of 1.5:
      around a settled one the losses of batches scatter on both sides;
    - sigma has gone, to and fro, less than a quarter of what it has gone and has yet to go;
    - at the pace of these samples, it will not come half of what is left until the end of the run.

    So a sigma that follows a falling loss at some distance is none to warn of, nor one that is on its way. Only
    balancers that tell their ``sigmas()`` are watched, and of these only samples in which the gradient that the
    balancer gets points the way that is expected: some measure sigma otherwise.

    Args:
        every_n_steps: samples every update whose number this divides; 0 switches the callback off.

    Raises:
        ConfigurationError: for options out of range; at ``setup`` for a module that is no ``MultiTaskModule``.
    """

    fresh: ClassVar[Mapping[str, Any]] = {"last": {}, "gone": {}, "samples": {}}
    """Of each task: the logarithm of its last sigma, how far it has gone to and fro, and of the samples in a row the
    logarithms of sigma and of its quotient."""

    def __init__(self, every_n_steps: int = 25) -> None:
        super().__init__(every_n_steps)
        self._values: Tensor | None = None
        self._total = math.inf  # updates of the run, if known

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn how long the run is."""
        if self.every_n_steps:
            self._total = float(trainer.estimated_stepping_batches)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """On a sampled update, take the losses, the noise levels and their gradients before the step."""
        number = trainer.global_step + 1
        if not self.every_n_steps or (number > 1 and number % self.every_n_steps):
            return
        module = multi_task(pl_module, self)
        sigmas, owned, losses = module.balancer.sigmas(), module.balancer.owned(), module.updates.losses.tasks
        if sigmas is None or losses.shape != sigmas.shape:
            return
        learned = [owned.get(index, []) for index in range(len(sigmas))]
        gradients = [part[0].grad for part in learned if len(part) == 1 and part[0].grad is not None]
        known = [len(part) == 1 and part[0].grad is not None for part in learned]
        signs = iter(torch.stack([gradient.sum().sign() for gradient in gradients]) if gradients else ())
        zero = sigmas.new_zeros(())
        sign = torch.stack([next(signs).to(zero) if there else zero for there in known])
        self._values = torch.cat([module.runtime.all_sum(losses).to(sigmas), sigmas, sign])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a sampled update, write and judge what it has shown."""
        if self._values is None:
            return
        module, values = multi_task(pl_module, self), self._values.tolist()
        self._values = None
        number, off, lost = len(module.tasks), {}, []
        for index, (name, task) in enumerate(module.tasks.items()):
            loss, sigma, sign = values[index::number]
            a, b, scale = task.likelihood
            settled = math.sqrt(2) * a * loss / b if scale == "log_scale" else math.sqrt(max(a * loss / b, 0.0))
            if not (sign and 0 < settled < math.inf and 0 < sigma < math.inf):
                continue
            off[name] = sigma / settled
            if self._is_lost(name, math.log(sigma), math.log(off[name]), sign, self._to_come(trainer)):
                lost.append(name)
        self.write(module, {f"watch/sigma_off/{name}": value for name, value in off.items()})
        if lost := [name for name in lost if name not in self.known(module)]:  # whose loss may be what is wrong
            self._warn(module, lost, off)

    def _to_come(self, trainer: Trainer) -> float:
        """Return how many updates are still to come, in units of the distance of samples."""
        known = 0 < self._total < math.inf
        left = self._total - trainer.global_step if known else _UNKNOWN * trainer.global_step
        return left / self.every_n_steps

    def _is_lost(self, name: str, log_sigma: float, log_off: float, sign: float, to_come: float) -> bool:
        """Note a sample; whether those in a row say that a noise level will not get to its place."""
        gone: float = self.seen["gone"].get(name, 0.0) + abs(log_sigma - self.seen["last"].get(name, log_sigma))
        self.seen["gone"][name], self.seen["last"][name] = gone, log_sigma
        samples: list[list[float]] = self.seen["samples"].setdefault(name, [])
        if sign != math.copysign(1, log_off) or (samples and samples[-1][1] * log_off < 0):
            samples.clear()
        if sign == math.copysign(1, log_off):
            samples.append([log_sigma, log_off])
        del samples[:-_SAMPLES]
        if len(samples) < _SAMPLES:
            return False
        way = abs(sum(quotient for _, quotient in samples)) / _SAMPLES
        pace = abs(samples[-1][0] - samples[0][0]) / (_SAMPLES - 1)
        return way >= _FAR and gone < _PART * (gone + way) and pace * to_come < way / 2

    def _warn(self, module: MultiTaskModule, lost: list[str], off: Mapping[str, float]) -> None:
        group = next(
            (g for g, named in module.groups.items() if named.keys() & module.roles.balancer.keys()), "balancer"
        )
        rate = f" at learning rate {rate_of(module, group):g}" if group in module.group_optimizers else ""
        told = ", ".join(f"{off[name]:.2g} times for {name}" for name in lost)
        self.warn_once(
            module,
            [group],
            f"The noise levels that the balancer learns do not settle{rate}: after {module.trainer.global_step} "
            f"updates sigma is not what it should be ({told}), and will not get there in this run. Weights that "
            f"hardly change balance nothing: raise the rate of `optimizers.{group}` (with Adam, 1e-2 is usual).",
        )
