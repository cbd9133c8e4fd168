"""Fixed features of molecules: what a plain network can learn from, of elements and positions alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ELEMENTS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}  # with their nuclear charges
BOHR = 0.529177210903  # Angstrom
GRID = np.concatenate([np.arange(0.9, 2.0, 0.1), np.arange(2.0, 4.0, 0.25), np.arange(4.0, 8.5, 0.5)])
"""Distances, in Angstrom, around which atoms are counted: close where bonds are told apart."""


def coulomb_eigenvalues(charges: NDArray[np.float64], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the eigenvalues of each molecule's Coulomb matrix, the largest in absolute value first, (B, A).

    `Fast and Accurate Modeling of Molecular Atomization Energies with Machine Learning
    <https://arxiv.org/abs/1109.2618>`_ (Rupp et al., 2012), equation 1, in atomic units: ``0.5 Z_i^2.4`` on the
    diagonal, ``Z_i Z_j / |R_i - R_j|`` beside it. They do not depend on the order of the atoms.

    Args:
        charges: nuclear charges Z (B, A), 0 where a molecule has no further atom.
        positions: R (B, A, 3), in Angstrom.
    """
    apart = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1) / BOHR
    size = charges.shape[1]
    apart[:, range(size), range(size)] = 1.0  # of an atom from itself: not used
    both = charges[:, :, None] * charges[:, None]
    matrix = both / np.where(both > 0, apart, 1.0)
    matrix[:, range(size), range(size)] = 0.5 * charges**2.4
    values = np.linalg.eigvalsh(matrix).astype(np.float64, copy=False)
    order = np.argsort(-np.abs(values), axis=-1, kind="stable")
    return np.take_along_axis(values, order, axis=-1)


def pair_counts(kinds: NDArray[np.int64], positions: NDArray[np.float64], elements: int) -> NDArray[np.float64]:
    """Count each molecule's pairs of atoms by their two elements and their distance, (B, P * G).

    P pairs of elements, G distances of :data:`GRID`. A pair between two of these counts for both, in parts that sum to
    1 and change evenly with the distance; below the first and beyond the last it counts for that one.

    Args:
        kinds: which of the elements each atom is (B, A), -1 where a molecule has no further atom.
        positions: (B, A, 3), in Angstrom.
        elements: how many elements there are.
    """
    rows, size = kinds.shape
    first, second = np.triu_indices(size, 1)
    low, high = np.minimum(kinds[:, first], kinds[:, second]), np.maximum(kinds[:, first], kinds[:, second])
    there = low >= 0
    row = np.broadcast_to(np.arange(rows)[:, None], there.shape)[there]
    low, high = low[there], high[there]
    pair = low * elements - low * (low - 1) // 2 + high - low  # 0, 1, ... of (0, 0), (0, 1), ..., (1, 1), ...
    apart = np.linalg.norm(positions[:, first] - positions[:, second], axis=-1)[there].clip(GRID[0], GRID[-1])
    at = np.minimum(np.searchsorted(GRID, apart, side="right") - 1, len(GRID) - 2)
    part = (apart - GRID[at]) / (GRID[at + 1] - GRID[at])
    pairs = elements * (elements + 1) // 2
    place = (row * pairs + pair) * len(GRID) + at
    total = rows * pairs * len(GRID)
    counts = np.bincount(place, 1 - part, total) + np.bincount(place + 1, part, total)
    return counts.reshape(rows, pairs * len(GRID)).astype(np.float64, copy=False)
