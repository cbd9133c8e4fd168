"""Equal heads as one batched product: the same parameters, put together for one forward and one backward.

Tasks whose heads have the same layers run together. Where they read the same features X (B, D), their first layers are
one product over concatenated weights, [W_1; ...; W_N] X' (N H, B), and its backward is one product too, in place of N
and N - 1 additions; later layers are a batch of products. Autograd cuts the gradients up again, so that parameters,
their names, hooks and ``.grad`` are what they are with one head after the other, to rounding.

Which heads are equal is read off their structure and looked at again at every run. What is not known to be the same is
left to the plain way: any layer but ``nn.Linear`` and activations without state, hooks, compiled or patched parts,
parametrisations, sharded weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from operator import is_
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from mtl_lightning.architectures.base import Head
from mtl_lightning.core.network.cut_features import CutFeatures
from mtl_lightning.core.network.stacking_rule import runs_together

_ELEMENTWISE: frozenset[type[nn.Module]] = frozenset(
    [
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
        *(nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.LogSigmoid, nn.Softsign, nn.Identity),
    ]
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOKS_OF_ALL = [getattr(hooks, f"_global{name}") for name in _HOOKS]
"""Torch's own tables of the hooks of all modules, which fill up when somebody adds one."""
Layers: TypeAlias = list[nn.Module]
FirstLayer: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]


class Outputs(dict[str, Tensor]):
    """Outputs (B, K, *) by task, of which some are views of one tensor that holds them together."""

    def __init__(self) -> None:
        super().__init__()
        self._stacks: list[tuple[list[str], Tensor, list[Tensor]]] = []

    def add_stack(self, names: Sequence[str], stack: Tensor) -> dict[str, Tensor]:
        """Remember that these tasks' outputs are a stack (N, B, K); return them, by task."""
        views = [*stack.unbind()]
        self._stacks.append(([*names], stack, views))
        return dict(zip(names, views, strict=True))

    def together(self, names: Sequence[str]) -> Tensor | list[Tensor]:
        """Return the outputs of some tasks as one tensor (N, B, K), if they lie in this order in a stack; else a list.

        Outputs that somebody has replaced are no part of a stack any more.
        """
        found = [self[name] for name in names]
        for members, stack, views in self._stacks:
            if names[0] in members:
                start = members.index(names[0])
                part = views[start : start + len(names)]
                if len(part) == len(found) and all(map(is_, part, found)):
                    return stack if len(part) == len(views) else stack[start : start + len(names)]
        return found


@dataclass(frozen=True)
class _Equal:
    """A head that may run together with those of the same ``kind``: layers, of which the first is linear."""

    kind: int
    layers: Layers

    @cached_property
    def width(self) -> int:
        """The number of outputs of its widest layer."""
        return max(layer.out_features for layer in self.layers if isinstance(layer, nn.Linear))

    @cached_property
    def weights(self) -> int:
        """The number of its weights."""
        return sum(layer.weight.numel() for layer in self.layers if isinstance(layer, nn.Linear))


class StackedHeads:
    """Runs equal heads together; reads their structure when it first sees them, and whenever it has changed.

    Nothing of it is state: a copy, or one that was pickled, starts afresh.

    Args:
        rule: says whether equal heads run together, as :func:`~mtl_lightning.core.network.stacking_rule.runs_together`.
    """

    def __init__(self, rule: Callable[[int, Tensor, int, int], bool] = runs_together) -> None:
        self.rule = rule
        self._heads: nn.ModuleDict | None = None
        self._equal: dict[str, _Equal] = {}
        self._sizes: list[Any] = []
        self._values: list[dict[str, Any]] = []
        self._seen: tuple[list[int], list[Any]] = ([], [])

    def __deepcopy__(self, memo: Any) -> StackedHeads:
        """Return a new one, which reads the heads of the copied network."""
        return StackedHeads(self.rule)

    def __reduce__(self) -> tuple[type[StackedHeads], tuple[Any]]:
        """Return how to make a new one."""
        return StackedHeads, (self.rule,)

    def run(
        self, outputs: Outputs, names: Iterable[str], features: Mapping[str, Tensor], heads: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """Return what those heads give (B, K) that run together, and tell ``outputs`` of their stacks.

        Args:
            outputs: of this forward.
            names: tasks whose heads read features alone; those whose losses are taken together stand side by side.
            features: (B, D, *) by task; where they are cut off, the backward of the heads writes each task's gradient.
            heads: of all tasks.
        """
        cut = features if isinstance(features, CutFeatures) else None
        if torch.compiler.is_compiling() or any(_HOOKS_OF_ALL):
            return {}
        if heads is not self._heads or not self._is_as_seen():
            self._read(heads)
        found: dict[str, Tensor] = {}
        for members, given in self._groups(names, features):
            equal = self._equal[members[0]]
            cast_somehow = cut is not None and torch.is_autocast_enabled(given.device.type)
            if cast_somehow or not self.rule(len(members), given, equal.width, equal.weights):
                continue
            first = None if cut is None else partial(cut.first_layer, given, cut.memory(members))
            found |= outputs.add_stack(members, _run([self._equal[name].layers for name in members], given, first))
        return found

    def _groups(self, names: Iterable[str], features: Mapping[str, Tensor]) -> Iterator[tuple[list[str], Tensor]]:
        """Yield tasks with equal heads that read the same features (B, D), and these."""
        if isinstance(features, CutFeatures):
            features = features.features
        groups: dict[tuple[int, int], list[str]] = {}
        for name in names:
            equal = self._equal.get(name)
            if equal is not None:
                groups.setdefault((equal.kind, id(features[name])), []).append(name)
        for members in groups.values():
            given = features[members[0]]
            if len(members) > 1 and given.dim() == 2:
                yield members, given

    # -------------------------------------------------------------------------------------------------- the structure
    def _read(self, heads: nn.ModuleDict) -> None:
        """Read which heads may run together, and all that it follows from."""
        parts = [*heads.modules()]
        hooks = [getattr(part, name) for part in parts for name in _HOOKS]
        optional = [vars(part) for part in parts if type(part) in _ELEMENTWISE and part.extra_repr()]
        self._heads = heads
        self._sizes = [*hooks, *map(vars, parts)]  # a part that is compiled, or whose forward is patched, has more
        self._values = [*(part._modules for part in parts), *(part._parameters for part in parts), *optional]
        self._values = [values for values in self._values if values]
        self._seen = self._look()
        self._equal = {}
        kinds: dict[tuple[Any, ...], int] = {}
        for name, head in heads.items():
            layers = _layers(head)
            if layers and isinstance(layers[0], nn.Linear):
                kind = kinds.setdefault(tuple(map(_kind, layers)), len(kinds))
                self._equal[name] = _Equal(kind, layers)

    def _look(self) -> tuple[list[int], list[Any]]:
        return [*map(len, self._sizes)], [*chain.from_iterable(map(dict.values, self._values))]

    def _is_as_seen(self) -> bool:
        """Whether the heads have the same parts, parameters and options, and no other hooks."""
        sizes, values = self._look()
        then_sizes, then = self._seen
        return sizes == then_sizes and len(values) == len(then) and all(map(is_, values, then))


def _layers(part: nn.Module) -> Layers | None:
    """Return the layers that a part of a head is, one after the other; None if it may be more than they are."""
    if "forward" in vars(part) or part._compiled_call_impl is not None or any(getattr(part, name) for name in _HOOKS):
        return None
    if type(part) in _ELEMENTWISE:
        return [part]
    if type(part) is nn.Linear:
        whole = all(parameter is None or type(parameter) is nn.Parameter for parameter in part._parameters.values())
        return [part] if whole and part._parameters.keys() == {"weight", "bias"} else None
    if type(part) is nn.Sequential:
        inner: Sequence[nn.Module] = [*part]
    elif isinstance(part, Head) and _is_its_sequence(type(part)):
        inner = part.in_sequence()
    else:
        return None
    found = [_layers(layer) for layer in inner]
    return None if None in found or not found else [layer for layers in found for layer in layers or ()]


def _is_its_sequence(head: type[Head]) -> bool:
    """Whether no subclass has changed the forward of the class that says which layers it runs."""
    place = {
        name: next(i for i, c in enumerate(head.__mro__) if name in vars(c)) for name in ("forward", "in_sequence")
    }
    return place["in_sequence"] <= place["forward"] and head.__call__ is nn.Module.__call__


def _kind(layer: nn.Module) -> tuple[Any, ...]:
    """Return what is equal for layers that compute the same with other weights."""
    if isinstance(layer, nn.Linear):
        weight = layer.weight
        return (nn.Linear, weight.shape, weight.dtype, weight.device, layer.bias is not None)
    return (type(layer), layer.extra_repr())


# ------------------------------------------------------------------------------------------------ the computation
def _run(heads: Sequence[Layers], features: Tensor, first: FirstLayer | None = None) -> Tensor:
    """Map features (B, D) to the outputs (N, B, K) of N equal heads; ``first`` may stand for their first layers."""
    number, rows = len(heads), len(features)
    values = features
    for place, layers in enumerate(zip(*heads, strict=True)):
        if not isinstance(layers[0], nn.Linear):  # in place: nobody else sees the values, and they are no view
            values = torch.relu_(values) if type(layers[0]) is nn.ReLU else layers[0](values)
            continue
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        if place == 0:  # (N H, B)
            weight = torch.cat(weights)
            if first is not None:
                values = first(weight, None if biases[0] is None else torch.cat(biases))
            elif biases[0] is None:
                values = torch.mm(weight, features.t())
            else:
                values = torch.addmm(torch.cat(biases).unsqueeze(1), weight, features.t())
            continue
        values = values.view(number, -1, rows)
        if biases[0] is None:
            values = torch.bmm(torch.stack(weights), values)
        else:
            values = torch.baddbmm(torch.stack(biases).unsqueeze(2), torch.stack(weights), values)
    values = values.view(number, -1, rows)
    return values.view(number, rows, 1) if values.shape[1] == 1 else values.transpose(1, 2).contiguous()
