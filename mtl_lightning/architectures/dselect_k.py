"""DSelect-k: mixtures of k experts per task, chosen by a gate that is sparse and yet differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtl_lightning.architectures.base import EncoderArgument, Gating
from mtl_lightning.architectures.copies import parameters_of
from mtl_lightning.architectures.encoders import MLP
from mtl_lightning.architectures.experts import Experts, MixtureOfExperts, numbered
from mtl_lightning.architectures.gates import mix
from mtl_lightning.types import ConfigurationError, Features, InputSpec

_TINY = 1e-6  # keeps logarithms and quotients of a weight of zero finite


class DSelectK(MixtureOfExperts):
    """Mixture of experts in which each task selects at most k of E.

    `DSelect-k: Differentiable Selection in the Mixture of Experts with Applications to Multi-Task Learning
    <https://arxiv.org/abs/2106.03760>`_ (Hazimeh et al. 2021), section 3, with gates that depend on the input. A task
    has k selectors. Selector i computes m = ceil(log2 E) numbers z_i(x), linear in what the gates read, and
    gives expert e the weight

        r_i(e) = prod_b (S(z_ib) if bit b of e is 1, else 1 - S(z_ib)),

    with S the smooth step: 0 up to -gamma/2, 1 from gamma/2, and -2/gamma^3 z^3 + 3/(2 gamma) z + 1/2 between. So r_i
    is a distribution on 2^m codes, exactly one-hot once all z_i are outside of (-gamma/2, gamma/2). With
    w(x) = softmax(V x + c) over the k selectors, the features of the task are sum_e (sum_i w_i r_i(e)) f_e(x).

    The auxiliary loss ``selection`` is ``entropy`` times the mean over rows of sum_i (H(r_i) + v_i), summed over the
    tasks that were asked for: the entropy H drives the selectors to one expert each; v_i = 1 / sum_e r_i(e), only
    where E is no power of 2, keeps them off codes that are no expert's.

    Departures: it is returned instead of back-propagated in the forward (as LibMTL does), and is a mean over
    rows where LibMTL sums, so that its strength does not depend on the batch size: the default 1e-3 is near its
    1e-6 at a thousand rows. gamma acts on S itself (in LibMTL on the initialisation alone). The paper's gates that do
    not depend on the input are not here.

    Roles: experts are shared; the selectors of a task are its own.

    Args:
        spec: the input's spec; None where it is unknown, which needs a ``trunk`` that declares its ``out_features``.
        tasks: the tasks' names.
        encoder: one expert, as ``SharedBottom`` takes its encoder; made once per expert
            (:func:`~mtl_lightning.architectures.copies.copies` says how).
        num_experts: E, at least 2.
        num_selected: k, from 1 to E.
        gamma: the width of the smooth step.
        entropy: the strength of the auxiliary loss; 0 for none.
        trunk: shared layers below the experts and the gates; none by default.
        gate_input: as in :class:`~mtl_lightning.architectures.MMoE`.
    """

    def __init__(
        self,
        spec: InputSpec | None,
        tasks: Sequence[str],
        *,
        encoder: EncoderArgument = MLP,
        num_experts: int = 8,
        num_selected: int = 2,
        gamma: float = 1.0,
        entropy: float = 1e-3,
        trunk: EncoderArgument | None = None,
        gate_input: EncoderArgument | None = None,
    ) -> None:
        if num_selected > num_experts:
            raise ConfigurationError(
                f"DSelectK: expected a `num_selected` of at most `num_experts`, {num_experts}, found {num_selected}."
            )
        super().__init__(spec, trunk, gate_input)
        self.entropy = entropy
        self.experts = Experts(self.make_experts(encoder, num_experts, tasks))
        self.selectors = nn.ModuleDict(
            {task: _Selectors(self.gate_width, num_experts, num_selected, gamma) for task in tasks}
        )

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Map inputs to the mixture (B, D, *) of each of ``tasks``; the auxiliary loss is ``selection``."""
        below = self.trunk(inputs)
        read, experts = self.gate_input(below), self.experts(below)
        mixed, penalties = {}, []
        for task in tasks:
            weights, penalty = cast("_Selectors", self.selectors[task])(read)
            mixed[task] = mix(weights, experts)
            penalties.append(penalty)
        aux = {"selection": self.entropy * torch.stack(penalties).sum()} if self.entropy and penalties else {}
        return Features(mixed, aux)

    def last_shared(self) -> Sequence[nn.Module]:
        """Return the experts."""
        return list(self.experts.encoders)

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return each task's selectors."""
        return {task: parameters_of(selectors) for task, selectors in self.selectors.items()}

    def gating(self) -> dict[str, Gating]:
        """Return each task's selectors."""
        experts = numbered("expert", len(self.experts.encoders))
        return {task: Gating(part, experts, [task], selects=True) for task, part in self.selectors.items()}


class _Selectors(nn.Module):
    """k selectors of one task: maps what the gates read (B, G) to weights (B, E) and a penalty ()."""

    bits: Tensor

    def __init__(self, width: int, experts: int, selected: int, gamma: float) -> None:
        super().__init__()
        digits = (experts - 1).bit_length()
        codes = torch.arange(experts).unsqueeze(1) >> torch.arange(digits)
        self.register_buffer("bits", (codes & 1).bool(), persistent=False)  # (E, m), not saved: E says it all
        self.invalid_codes = experts < 2**digits
        self.gamma, self.selected = gamma, selected
        self.code, self.share = nn.Linear(width, selected * digits), nn.Linear(width, selected)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start near the middle of the smooth step, where all experts weigh the same."""
        for layer, bound in ((self.code, self.gamma / 100), (self.share, 0.05)):
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.uniform_(layer.bias, -bound, bound)

    def forward(self, read: Tensor) -> tuple[Tensor, Tensor]:
        z = self.code(read)
        z = z.float() if z.dtype.itemsize < 4 else z  # half precision could hold no penalty of a code near to none
        ones = smooth_step(z, self.gamma).view(read.shape[0], self.selected, 1, -1)  # (B, k, 1, m)
        chosen = torch.where(self.bits, ones, 1 - ones).prod(-1)  # (B, k, E)
        weights = (self.share(read).softmax(-1).unsqueeze(-1) * chosen).sum(1)
        penalty = -(chosen * (chosen + _TINY).log()).sum(-1)
        if self.invalid_codes:
            penalty = penalty + 1 / chosen.sum(-1).clamp(min=_TINY)
        return weights, penalty.sum(-1).mean()


def smooth_step(z: Tensor, gamma: float) -> Tensor:
    """Map numbers to 0..1: 0 up to -gamma/2, 1 from gamma/2, a cubic between with slope 0 at both ends."""
    z = z.clamp(-gamma / 2, gamma / 2)
    return -2 / gamma**3 * z**3 + 3 / (2 * gamma) * z + 0.5
