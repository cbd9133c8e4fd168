"""The symptom of a mixture that is none: experts that no gate uses, and gates that use one alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mtl_lightning.architectures.base import Gating
from mtl_lightning.callbacks.diagnosis import Remembering, multi_task, take_off
from mtl_lightning.core import MultiTaskModule

_MORE = 4  # times the samples, of an expert that has been alive


class GateUse(Remembering):
    """Watches how gates use experts: ``watch/experts_used/<gate>`` and ``watch/expert_use/<expert>``.

    The first is the number of experts that a gate uses, exp(H) with the entropy H of its mean weights: E if all weigh
    the same, 1 if there is one alone. The second is an expert's largest mean weight in any gate, in units of a fair
    share 1/E. Means are over the rows of all training batches of the sampled update, on all processes.

    Warnings (:class:`~mtl_lightning.types.MtlLightningWarning`), one per gate and one for experts in a run, after
    ``samples`` samples in a row:

    - *A gate is stuck* if its mean weight of the same expert has been ``stuck`` or more in every sample since the first
      update: it has chosen nothing. A softmax there has hardly any gradient left that could bring it back. A gate that
      comes to use one expert while it learns is none to warn of: a task may well do best with an expert of its own.
    - *Experts are dead* if their mean weight is below ``dead`` of a fair share in every gate: their gradient is as
      small. One that was alive once gets four times as many samples to come back in. Gates that are made to choose, as
      DSelectK's are, have a right to that: of theirs only experts are dead that were so in every sample. If a gate that
      could use an expert is stuck, that alone is said.

    Only architectures that tell their :meth:`~mtl_lightning.architectures.Architecture.gating` are watched, and not
    within a network compiled by ``torch.compile``, where hooks do not reliably run.

    Args:
        every_n_steps: samples every update whose number this divides, and the first; 0 switches the callback off.
        samples: number of samples in a row that have to agree. What a sample is a mean over is hundreds of rows, so
            that these are against fluctuations of training, not of a mean.
        stuck: mean weight from which on a gate uses one expert alone.
        dead: share of the fair share 1/E, below which an expert is dead.

    Raises:
        ConfigurationError: for options out of range; at ``setup`` for a module that is no ``MultiTaskModule``.
    """

    fresh: ClassVar[Mapping[str, Any]] = {"stuck": {}, "dead": {}, "open": [], "alive": []}
    """Samples in a row of each stuck gate (with its expert) and each dead expert; those that once were neither."""

    def __init__(self, every_n_steps: int = 50, samples: int = 5, stuck: float = 0.99, dead: float = 0.05) -> None:
        super().__init__(every_n_steps)
        self.samples, self.stuck, self.dead = samples, stuck, dead
        self._gates: dict[str, Gating] = {}
        self._hooks: list[RemovableHandle] = []
        self._sums: dict[str, Tensor] = {}
        self._update = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the gates."""
        module = multi_task(pl_module, self)
        parts = module.architecture.modules()
        compiled = any(getattr(part, "_compiled_call_impl", None) is not None for part in parts)
        found = {} if compiled or not self.every_n_steps else module.architecture.gating()
        self._gates = {name: gate for name, gate in found.items() if len(gate.experts) > 1}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put the hooks on if the batch's update is sampled."""
        self._update = trainer.global_step + 1
        if self._gates and (self._update == 1 or self._update % self.every_n_steps == 0):
            self._hooks = [
                gate.module.register_forward_hook(partial(_see, self._sums, name)) for name, gate in self._gates.items()
            ]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the hooks off and, after the update, write and judge what they have seen."""
        if not self._hooks:
            return
        take_off(self._hooks)
        if trainer.global_step >= self._update:
            self._report(multi_task(pl_module, self))
            self._sums.clear()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the network."""
        self._gates, self._sums = {}, {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the network, hooks included."""
        take_off(self._hooks)
        self._gates, self._sums = {}, {}

    def _means(self, module: MultiTaskModule) -> dict[str, list[float]]:
        """Return the mean weights (E,) of each gate that has run, over all processes."""
        sums = [
            self._sums.get(name, torch.zeros(len(gate.experts) + 1, dtype=torch.float64)).to(module.device)
            for name, gate in self._gates.items()
        ]
        flat: list[float] = module.runtime.all_sum(torch.cat(sums)).tolist()
        found, place = {}, 0
        for name, gate in self._gates.items():
            size = len(gate.experts)
            *weights, rows = flat[place : place + size + 1]
            place += size + 1
            if rows and all(weight >= 0 for weight in weights):  # nan is not
                found[name] = [weight / rows for weight in weights]
        return found

    def _report(self, module: MultiTaskModule) -> None:
        """Write how gates and experts are used, and judge it."""
        means = self._means(module)
        used = {name: _number_used(weights) for name, weights in means.items()}
        largest: dict[str, float] = {}
        for name, weights in means.items():
            for expert, weight in zip(self._gates[name].experts, weights, strict=True):
                largest[expert] = max(weight * len(weights), largest.get(expert, 0.0))
        values = {f"watch/experts_used/{name}": number for name, number in used.items()}
        self.write(module, {**values, **{f"watch/expert_use/{expert}": use for expert, use in largest.items()}})
        for name, weights in means.items():
            self._judge_gate(module, name, weights)
        self._judge_experts(module, largest)

    def _judge_gate(self, module: MultiTaskModule, name: str, weights: list[float]) -> None:
        gate, stuck, weight = self._gates[name], self.seen["stuck"], max(weights)
        expert = gate.experts[weights.index(weight)]
        if name in self.seen["open"] or weight < self.stuck or stuck.get(name, [expert])[0] != expert:
            stuck.pop(name, None)
            self.seen["open"] = sorted({*self.seen["open"], name})
            return
        stuck[name] = [expert, stuck.get(name, [expert, 0])[1] + 1]
        if stuck[name][1] >= self.samples:
            self.warn_once(
                module,
                [f"gate of {name}", *gate.tasks],
                f"The gate of {name} is stuck: in all {stuck[name][1]} samples since the start it has given {expert} "
                f"{100 * weight:.4g} % of the weight, so that the other {len(weights) - 1} learn nothing from it. Look "
                "at how it starts (weights and biases of the gate, or the scale of what it reads), give gates a lower "
                "rate (`groups: {gates: ['*gate*']}` and `optimizers.gates`), or use fewer experts "
                "(`model.architecture.init_args`).",
            )

    def _judge_experts(self, module: MultiTaskModule, largest: Mapping[str, float]) -> None:
        """Warn of dead experts.

        Args:
            module: what is trained.
            largest: each expert's largest mean weight in any gate, in units of a fair share.
        """
        dead = self.seen["dead"]
        for expert, use in largest.items():
            gates = {name: gate for name, gate in self._gates.items() if expert in gate.experts}
            if use >= self.dead:
                self.seen["alive"] = sorted({*self.seen["alive"], expert})
            chosen = expert in self.seen["alive"] and all(gate.selects for gate in gates.values())
            silent = use < self.dead and not chosen and not self.seen["stuck"].keys() & gates.keys()
            dead[expert] = dead.get(expert, 0) + 1 if silent else 0
        patience = {expert: self.samples * (_MORE if expert in self.seen["alive"] else 1) for expert in largest}
        found = [expert for expert in largest if dead[expert] >= patience[expert]]
        if found:
            self.warn_once(
                module,
                ["experts"],
                f"Experts that no gate uses: {', '.join(found)}. In {min(dead[expert] for expert in found)} samples in "
                f"a row no gate has given them {100 * self.dead:g} % of a fair share of the weight (now at most "
                f"{100 * max(largest[expert] for expert in found):.2g} %), and they learn as little. Use fewer experts "
                "(`model.architecture.init_args`), or give gates a lower rate (`groups: {gates: ['*gate*']}` and "
                "`optimizers.gates`), so that experts can prove themselves.",
            )


def _see(sums: dict[str, Tensor], name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
    """Add the weights (B, E) that a gate gives: their sums, and behind them the number of rows; a forward hook."""
    weights = output[0] if isinstance(output, tuple) else output
    total = weights.detach().double().sum(0)
    row = torch.cat([total, total.new_full((1,), len(weights))])
    sums[name] = sums[name] + row if name in sums else row


def _number_used(weights: list[float]) -> float:
    """Return exp of the entropy of weights (E,)."""
    shares = torch.tensor(weights, dtype=torch.float64)
    return float(torch.special.entr(shares / shares.sum()).sum().exp())
