"""Looks up many small embeddings at once: their tables one below the other, and all codes in one gather."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CELLS = 1 << 14  # of a table: copying more costs what it saves
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _Places(NamedTuple):
    """What a stack knows of its columns, on one device."""

    columns: Tensor  # (M,) among the codes
    last: Tensor  # (M,) the largest code of each
    first: Tensor  # (M,) where each one's table begins


class Stack:
    """The columns whose embeddings have one width, and tables small enough to be put together for each batch.

    What comes out, and the gradients, are bit for bit those of looking up one column after the other.

    Args:
        columns: the places of the columns among the codes (B, C), M of them.
        codes: the number of codes of each one's table.
    """

    def __init__(self, columns: Sequence[int], codes: Sequence[int]) -> None:
        self.columns, self._codes = list(columns), list(codes)
        self._made: dict[torch.device, _Places] = {}

    def __call__(self, codes: Tensor, tables: Sequence[Tensor]) -> Tensor:
        """Map all codes (B, C), and the table (K_m, W) of each column, to embeddings (B, M, W).

        Raises:
            IndexError: for a code that a table does not have, on a CPU.
        """
        places, whole = self._places(codes.device), torch.cat([*tables])
        mine = codes if codes.shape[1] == len(self.columns) else codes.index_select(1, places.columns)
        wrong = (mine < 0) | (mine > places.last)  # it must not reach into another column's table
        rows = (mine + places.first).masked_fill_(wrong, len(whole))
        if rows.device.type != "cpu":  # elsewhere the gradient of a selection may be added up in any order
            return F.embedding(rows, whole)
        return whole.index_select(0, rows.flatten()).view(*rows.shape, -1)

    def _places(self, device: torch.device) -> _Places:
        if device not in self._made:
            with torch.inference_mode(False):
                codes = torch.tensor(self._codes, device="cpu")
                made = (torch.tensor(self.columns, device="cpu"), codes - 1, codes.cumsum(0) - codes)
                self._made[device] = _Places(*(tensor.to(device) for tensor in made))
        return self._made[device]


def stacks_of(columns: Sequence[int], sizes: Sequence[tuple[int, int]]) -> list[Stack]:
    """Return the stacks for columns of codes; those in none of them are looked up by themselves.

    Args:
        columns: the number of each column's table.
        sizes: number of codes and width of each table.
    """
    by_width: dict[int, list[int]] = {}
    for place, table in enumerate(columns):
        codes, width = sizes[table]
        if codes * width <= _CELLS:
            by_width.setdefault(width, []).append(place)
    return [Stack(own, [sizes[columns[place]][0] for place in own]) for own in by_width.values() if len(own) > 1]


def can_be_stacked(modules: Iterable[nn.Module], kind: type[nn.Module]) -> bool:
    """Whether modules do what their kind does: none has been put in another's place, and nobody has hooks on one."""
    if torch.compiler.is_compiling():  # or exporting: the compiler makes one loop of the plain way
        return False
    return all(type(module) is kind and not any(getattr(module, hooks) for hooks in _HOOKS) for module in modules)
