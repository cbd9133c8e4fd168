"""Inner products of gradients, exact enough for methods that divide by their differences.

Where rows nearly coincide, what tells them apart is the last digits of their inner products: a plain product of rows of
25 million float32 numbers is off by 3e-3 of its largest entry, and an update made from it by up to a sixth.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 4096  # columns whose products float32 adds up by itself
_TOGETHER = 1 << 18  # numbers of several tensors that are brought together at a time, which a processor's cache holds


def gramian(rows: Tensor | Sequence[Tensor], others: Tensor | None = None) -> Tensor:
    """Return the inner products (P, P) of P rows, in float64, off by at most 1e-6 of the largest, whatever D is.

    Blocks of 4096 columns are multiplied in float32 and added up in float64, which costs no more than one product.
    Where float32 may mean less (on a GPU, whose TF32 has 10 bits, or after ``torch.set_float32_matmul_precision``), all
    of it is computed in float64.

    Args:
        rows: (P, D), or P tensors of one shape, of which no copy as a whole is made.
        others: (P, D), what the rows are multiplied with; themselves by default.
    """
    if not isinstance(rows, Tensor):
        length = max(1, (_TOGETHER if rows[0].is_cpu else 64 * _TOGETHER) // len(rows))
        chunks = zip(*(torch.split(row.reshape(-1), length) for row in rows), strict=True)
        return torch.stack([gramian(torch.stack(chunk)) for chunk in chunks]).sum(0)
    left, right = _wide(rows), _wide(rows if others is None else others)
    whole = left.shape[1] - left.shape[1] % _BLOCK
    blocks = [half[:, :whole].reshape(len(half), -1, _BLOCK).transpose(0, 1) for half in (left, right)]
    rest = [half[:, whole:].double() for half in (left, right)]
    return torch.bmm(blocks[0], blocks[1].transpose(1, 2)).sum(0, dtype=torch.float64) + rest[0] @ rest[1].T


def _wide(rows: Tensor) -> Tensor:
    """Return rows in a precision in which products of blocks are good enough."""
    plain = rows.is_cpu and torch.get_float32_matmul_precision() == "highest"
    return rows.to(torch.promote_types(rows.dtype, torch.float32 if plain else torch.float64))
