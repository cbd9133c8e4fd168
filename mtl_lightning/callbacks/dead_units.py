"""The symptom of a learning rate too large: ReLU units that never fire."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mtl_lightning.callbacks.activations import Layer, find_layers
from mtl_lightning.callbacks.diagnosis import Diagnosis, multi_task, rate_of, take_off, title
from mtl_lightning.core import MultiTaskModule
from mtl_lightning.types import ConfigurationError

Fired: TypeAlias = dict[tuple[int, int], Tensor]  # {(index of a layer, D): which of its units (D,) fired, bool}


class _Dead(NamedTuple):
    """How many of a layer's units have not fired."""

    layer: Layer
    dead: int
    units: int

    @property
    def fraction(self) -> float:
        return self.dead / self.units


class DeadUnits(Diagnosis):
    """Watches for ReLU units that never fire: ``watch/dead_units/<group>``, the fraction of them per group.

    A step that is too large throws a unit's weights to where its ReLU is 0 for every input. No gradient passes there,
    so that the unit mostly never comes back. A loss that has stopped high, with most units dead, is the symptom of a
    learning rate too large.

    A *unit* is a channel behind a convolution and a feature behind a linear layer. It counts as dead if its output was
    above 0 for no row (and at no place of a picture) of any training batch in a window of consecutive updates. Some
    are in every network: at the time of writing, layers of healthy ones had up to 64 % of such units, and ReLU heads
    trained by Adam at a thousand times its usual rate 86 % or more. Hence the default threshold. When a layer reaches
    it, one warning (:class:`~mtl_lightning.types.MtlLightningWarning`) per group and run names the group, the layer
    and the learning rate. A single layer, not the mean of the group, because one dead layer stops all behind it. A
    head that explodes may take layers in front of it along; then the group with the highest rate is named as the one
    to begin with.

    What is counted:

    - Modules of the classes ``activations``. Leaky and smooth units pass some gradient everywhere, so they are not
      among them. Functions such as ``torch.nn.functional.relu`` are not seen, since there is no module to watch; a
      network without such modules is left alone and nothing is written.
    - An activation counts for the group that owns the parameters of the layer in front of it, found by the order of
      registration: :func:`~mtl_lightning.callbacks.activations.find_layers`.
    - An activation module that is used in several places counts as one, whose units fire if they fire in any of the
      places; places with different numbers of units are told apart.
    - Forwards of training batches only, those of several processes together. A group that was not run in a window,
      because its tasks were absent, has no value for it.
    - Layers whose parameters are frozen are counted but not warned of, since no rate has killed them.
    - Not the activations inside a network compiled by ``torch.compile``, where hooks do not reliably run; a message
      says so.

    Forward hooks are on the network only while a window lasts, and the host waits for the device once per window.

    Args:
        every_n_steps: updates from the end of a window to the end of the next; the first window ends with the update
            of this number. 0 switches the callback off.
        window: number of consecutive updates in which a unit has to fire once. A window cut short by a resume is
            dropped.
        threshold: fraction of a layer's units that are dead, from which on there is a warning.
        activations: classes of modules whose output is above 0 where a unit is active, and never else.

    Raises:
        ConfigurationError: for options out of range; at ``setup`` for a module that is no ``MultiTaskModule``.
    """

    def __init__(
        self,
        every_n_steps: int = 50,
        window: int = 8,
        threshold: float = 0.8,
        activations: Sequence[type[nn.Module]] = (nn.ReLU, nn.ReLU6),
    ) -> None:
        super().__init__(every_n_steps)
        if 0 < every_n_steps < window:
            raise ConfigurationError(
                f"DeadUnits: expected a `window` of at most `every_n_steps` = {every_n_steps}, found {window}."
            )
        self.window = window
        self.threshold = threshold
        self.activations = tuple(activations)
        self._layers: list[Layer] = []
        self._hooks: list[RemovableHandle] = []
        self._update = 0  # the number of the update that the current batch is for
        self._watched = 0  # updates of the current window that were watched

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the activations."""
        if self.every_n_steps:
            self._layers, left_out = find_layers(multi_task(pl_module, self), self.activations)
            self._watched = 0
            if left_out:
                rank_zero_info(
                    f"DeadUnits does not watch {left_out}: they are inside a network compiled by `torch.compile`, "
                    "where hooks do not reliably run. Train some hundred updates without it to see them."
                )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put the hooks on if the batch's update is in a window."""
        self._update = trainer.global_step + 1
        if self._layers and -self._update % self.every_n_steps < self.window:
            self._hooks = [layer.activation.register_forward_hook(layer.see) for layer in self._layers]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the hooks off and, at the end of a window, write what it has shown."""
        if not self._hooks:
            return
        take_off(self._hooks)
        if trainer.global_step < self._update:  # no update yet: the batch waits in an accumulation, or has no label
            return
        self._watched += 1
        if self._update % self.every_n_steps == 0:
            if self._watched == self.window:
                self._report(multi_task(pl_module, self))
            self._watched = 0
            for layer in self._layers:
                layer.peaks.clear()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the network."""
        self._layers = []

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the network, hooks included."""
        take_off(self._hooks)
        self._layers = []

    def _report(self, module: MultiTaskModule) -> None:
        """Write the fraction of dead units of each group, and warn of layers that have died."""
        fired = over_processes(module, read(module, self._layers))
        counts = [_Dead(self._layers[i], d - int(fired[i, d].sum()), d) for i, d in sorted(fired)]
        dead, units = defaultdict[str, int](int), defaultdict[str, int](int)
        died: dict[str, _Dead] = {}  # the worst layer of each group that has one
        for count in counts:
            group = count.layer.group
            dead[group] += count.dead
            units[group] += count.units
            worst = count.layer.learns and count.fraction >= self.threshold
            if worst and (group not in died or count.fraction > died[group].fraction):
                died[group] = count
        self.write(module, {f"watch/dead_units/{group}": dead[group] / units[group] for group in units})
        self._warn(module, died)

    def _warn(self, module: MultiTaskModule, died: dict[str, _Dead]) -> None:
        """Warn of each group by its worst layer, the group with the highest rate first."""
        rates = {group: rate_of(module, group) for group in (*died, *self.warned)}
        for group in sorted(died, key=lambda name: -rates[name]):
            count, first = died[group], max(rates, key=lambda name: rates[name])
            advice = f"Lower the rate of `optimizers.{group}` and train anew."
            if rates[first] > rates[group]:
                advice = (
                    f"{title(module, first)} has died too, at the higher rate {rates[first]:g}, and may have taken "
                    f"these along: lower the rate of `optimizers.{first}` first."
                )
            self.warn_once(
                module,
                [group],
                f"{title(module, group)}: {100 * count.dead // count.units} % of its {count.units} "
                f"{type(count.layer.activation).__name__} units in {count.layer.name} have not fired in {self.window} "
                f"updates at learning rate {rates[group]:g}. A rate too large kills such units, and a dead one learns "
                f"no more, because no gradient passes. {advice}",
            )


def read(module: MultiTaskModule, layers: Sequence[Layer]) -> Fired:
    """Bring over which units have fired, in one transfer; a nan is not silent, so it counts as fired."""
    found = [(index, units, peak) for index, layer in enumerate(layers) for units, peak in layer.peaks.items()]
    if not found:
        return {}
    fired = torch.cat([~(peak <= 0).to(module.device) for _, _, peak in found]).cpu()
    parts = torch.split(fired, [units for _, units, _ in found])
    return {(index, units): part for (index, units, _), part in zip(found, parts, strict=True)}


def over_processes(module: MultiTaskModule, mine: Fired) -> Fired:
    """Return which units have fired on any process; each may have run other heads."""
    if module.runtime.world_size == 1:
        return mine
    gathered: list[Fired] = [{} for _ in range(module.runtime.world_size)]
    dist.all_gather_object(gathered, mine)
    fired: Fired = {}
    for found in gathered:
        for key, units in found.items():
            fired[key] = fired[key] | units if key in fired else units
    return fired
