"""Writes small copies of NYUv2 and Cityscapes in their exact layouts, with made content; the seed decides it all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

NYUV2 = (36, 48)  # an eighth of the real height and width
CITYSCAPES = (32, 64)  # a quarter


def write(path: Path, array: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def blocks(random: np.random.Generator, sides: tuple[int, int], high: int, low: int = 0) -> np.ndarray[Any, Any]:
    """Integers low..high-1, the same in blocks of 4 x 4 pixels."""
    coarse = random.integers(low, high, (-(-sides[0] // 4), -(-sides[1] // 4)))
    return np.kron(coarse, np.ones((4, 4)))[: sides[0], : sides[1]]


def write_nyuv2(root: Path, *, train: int = 6, val: int = 3, sides: tuple[int, int] = NYUV2, seed: int = 0) -> Path:
    """Classes -1..12, metres with 0 for invalid, unit normals with (0, 0, 0) where there is no depth."""
    random = np.random.default_rng(seed)
    for split, number in (("train", train), ("val", val)):
        for i in range(number):
            holes = blocks(random, sides, 8) == 0
            normal = random.standard_normal((*sides, 3))
            normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
            write(root / split / "image" / f"{i}.npy", random.random((*sides, 3)))
            write(root / split / "label" / f"{i}.npy", blocks(random, sides, 13, -1))
            write(root / split / "depth" / f"{i}.npy", np.where(holes, 0.0, random.uniform(0.5, 9.9, sides))[..., None])
            write(root / split / "normal" / f"{i}.npy", np.where(holes[..., None], 0.0, normal))
    return root


def write_cityscapes(
    root: Path,
    *,
    train: int = 10,
    val: int = 3,
    sides: tuple[int, int] = CITYSCAPES,
    labels: tuple[str, ...] = ("label_7", "label_19"),
    seed: int = 0,
) -> Path:
    """Classes of 7 and 19, disparities up to 0.49 with 0 for invalid."""
    random = np.random.default_rng(seed)
    for split, number in (("train", train), ("val", val)):
        for i in range(number):
            holes = blocks(random, sides, 6) == 0
            write(root / split / "image" / f"{i}.npy", random.random((*sides, 3)))
            for name in labels:
                write(root / split / name / f"{i}.npy", blocks(random, sides, 19 if name == "label_19" else 7, -1))
            write(
                root / split / "depth" / f"{i}.npy", np.where(holes, 0.0, random.uniform(0.01, 0.49, sides))[..., None]
            )
    return root
