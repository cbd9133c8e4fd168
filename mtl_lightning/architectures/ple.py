"""Progressive layered extraction: customized gate control at every stage, with a stream that all tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtl_lightning.architectures.base import Architecture, EncoderArgument, Gating, pieces_of
from mtl_lightning.architectures.copies import parameters_of
from mtl_lightning.architectures.encoders import MLP
from mtl_lightning.architectures.experts import Experts, numbered, shared_and_own
from mtl_lightning.architectures.gates import GRID, Gate, Pool, gate_reader, mix
from mtl_lightning.architectures.sizes import check_widths
from mtl_lightning.architectures.stages import encoder_copies
from mtl_lightning.types import Features, InputSpec


class PLE(Architecture):
    """Progressive layered extraction.

    `Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized Recommendations
    <https://doi.org/10.1145/3383313.3412236>`_ (Tang et al. 2020), section 4.2. There is a stream x_t per task and a
    shared one x_s, all equal to the inputs before the first level. Level l has experts P_t of each task, applied to
    x_t, and shared experts S, applied to x_s; the gate of task t, which reads x_t, mixes [P_t, S] into the next x_t,
    and on all levels but the last a shared gate, which reads x_s, mixes [P_1, ..., P_T, S] into the next x_s. The
    features of task t are its x_t after the last level.

    A level is a stage of the encoder: its experts are copies of that stage. Departures: gates have a bias; on the
    first level they read what ``gate_input`` makes of the inputs, on later ones their stream, averaged over space.
    (LibMTL's PLE has neither the shared stream nor its gate.)

    Roles: what only one task's loss can reach is that task's, which is its experts on the last level and its gates on
    the last two. Through the shared stream every other part serves all tasks.

    Args:
        spec: the input's spec.
        tasks: the tasks' names.
        encoder: an encoder with ``stages`` (:mod:`~mtl_lightning.architectures.stages`); one copy is made per expert
            (:func:`~mtl_lightning.architectures.copies.copies` says how).
        num_shared: the number of shared experts of a level.
        num_own: the number of experts that each task has on a level.
        gate_input: as in :class:`~mtl_lightning.architectures.MMoE`, for the first level.
    """

    def __init__(
        self,
        spec: InputSpec | None,
        tasks: Sequence[str],
        *,
        encoder: EncoderArgument = MLP,
        num_shared: int = 1,
        num_own: int = 1,
        gate_input: EncoderArgument | None = None,
    ) -> None:
        super().__init__()
        check_widths("`num_shared` and `num_own`", (num_shared, num_own))
        made, sizes = encoder_copies(encoder, spec, num_shared + num_own * len(tasks), least=1, name="experts")
        self.gate_input, width = gate_reader(gate_input, spec, GRID)
        self.pool = Pool()
        self.levels = nn.ModuleList()
        for number, size in enumerate(sizes):
            experts = [column[number] for column in made]
            last = number == len(sizes) - 1
            self.levels.append(_Level(tasks, experts, width, num_shared, num_own, last))
            width = size[0]
        self.feature_sizes = dict.fromkeys(tasks, sizes[-1])

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Map inputs to the last streams (B, D, *) of ``tasks``.

        Up to the last level the streams of all tasks are run, since the shared stream mixes them.
        """
        *early, last = self._levels()
        shared, read = inputs, self.gate_input(inputs)
        everyone = list(last.gates)
        streams: dict[str, Any] = dict.fromkeys(everyone, inputs)
        reads: dict[str, Tensor] = dict.fromkeys(everyone, read)
        for level in early:
            streams, shared = level(streams, shared, reads, read)
            reads, read = {task: self.pool(stream) for task, stream in streams.items()}, self.pool(shared)
        wanted = {task: streams[task] for task in tasks}
        return Features(last(wanted, shared, reads, read)[0])

    def last_shared(self) -> Sequence[nn.Module]:
        """Return the shared experts of the last level."""
        return list(self._levels()[-1].shared.encoders)

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return each task's experts on the last level, and its gates on the last two."""
        *early, last = self._levels()
        return {
            task: parameters_of(last.own[task], last.gates[task], *(level.gates[task] for level in early[-1:]))
            for task in last.gates
        }

    def pieces(self) -> list[nn.Module]:
        """Return what the gates read, and each level's experts and gates: the last level is told which tasks to run."""
        return [self.gate_input, self.pool, *pieces_of(*self.levels)]

    def gating(self) -> dict[str, Gating]:
        """Return the gates of every level: each task's, and the shared one on all levels but the last."""
        found = {}
        for number, level in enumerate(self._levels()):
            for name, gating in level.gating().items():
                experts = [f"{expert} on level {number}" for expert in gating.experts]
                found[f"{name} on level {number}"] = gating._replace(experts=experts)
        return found

    def _levels(self) -> list[_Level]:
        return [cast("_Level", level) for level in self.levels]


class _Level(nn.Module):
    """One level: experts and gates of each task, shared experts, and a shared gate unless it is the last."""

    def __init__(
        self,
        tasks: Sequence[str],
        experts: Sequence[nn.Module],
        width: int,
        num_shared: int,
        num_own: int,
        last: bool,
    ) -> None:
        super().__init__()
        self.shared, self.own = shared_and_own(experts, tasks, num_shared, num_own)
        self.gates = nn.ModuleDict({task: Gate(width, num_own + num_shared) for task in tasks})
        self.shared_gate = None if last else Gate(width, len(experts))

    def gating(self) -> dict[str, Gating]:
        """Return the level's gates: a task's mixes its own experts, then the shared ones; the shared one mixes all."""
        shared = numbered("shared expert", len(self.shared.encoders))
        own = {t: numbered(f"{t}'s expert", len(cast("Experts", part).encoders)) for t, part in self.own.items()}
        found = {task: Gating(gate, [*own[task], *shared], [task]) for task, gate in self.gates.items()}
        if self.shared_gate is not None:
            everyone = [name for names in own.values() for name in names]
            found["all tasks"] = Gating(self.shared_gate, [*everyone, *shared], list(self.gates))
        return found

    def forward(
        self, streams: dict[str, Any], shared: Any, reads: dict[str, Tensor], read: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Map the tasks' streams and the shared one to the next ones; the last level leaves the shared one as it is.

        Args:
            streams: the task streams (B, D, *), or the inputs.
            shared: the shared stream.
            reads: what each task's gate reads, (B, G).
            read: what the shared gate reads, (B, G).
        """
        common = self.shared(shared)
        own = {task: self.own[task](stream) for task, stream in streams.items()}
        mixed = {task: mix(self.gates[task](reads[task]), torch.cat([own[task], common], dim=1)) for task in own}
        if self.shared_gate is None:
            return mixed, shared
        return mixed, mix(self.shared_gate(read), torch.cat([*own.values(), common], dim=1))
