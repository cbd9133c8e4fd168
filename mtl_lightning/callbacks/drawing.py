"""Small pictures (H, W, 3) uint8 without a plotting library, quick enough for every validation.

Words are written with Pillow, which TensorBoard brings along; where there is none, pictures have no words.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Picture: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
_LINE = 14  # pixels that a line of text is high
_LETTER = 7  # and about so many a letter is wide
_PLOT = 224  # pixels of a side of a plot
_NAMES, _COUNTS = 32, 16  # so many classes at most have their names, or counts, written
_SCALE = torch.tensor([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]).float()
_RED, _BLUE = (200, 40, 40), (30, 95, 185)


def heat(counts: Tensor, rows: Sequence[str], columns: Sequence[str], title: str) -> Picture:
    """Draw counts (R, C): the darker, the larger its share of the row."""
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    most = max(counts.shape)
    cell = max(2, min(44, 640 // most))
    colours = 255 - shares.reshape(*shares.shape, 1) * torch.tensor([220.0, 150.0, 60.0])
    grid = colours.round().to(torch.uint8).repeat_interleave(cell, 0).repeat_interleave(cell, 1).numpy()
    named = most <= _NAMES and cell > _LINE
    left = min(120, 8 + _LETTER * max(map(len, rows))) if named else 4
    top = 2 * _LINE if named else _LINE
    width = max(left + grid.shape[1] + 4, _LETTER * len(title) + 8)
    picture = np.full((top + grid.shape[0] + 4, width, 3), 255, dtype=np.uint8)
    picture[top : top + grid.shape[0], left : left + grid.shape[1]] = grid
    words = [(4, 0, title, (0, 0, 0))]
    if named:
        words += [(2, top + r * cell + (cell - _LINE) // 2, text[:16], (0, 0, 0)) for r, text in enumerate(rows)]
        fits = max(1, cell // _LETTER)
        words += [(left + c * cell + 2, _LINE, text[:fits], (0, 0, 0)) for c, text in enumerate(columns)]
    if most <= _COUNTS:
        for r, c in ((r, c) for r in range(counts.shape[0]) for c in range(counts.shape[1]) if counts[r, c]):
            colour = (255, 255, 255) if shares[r, c] > 0.5 else (60, 60, 60)
            place = (left + c * cell + 3, top + r * cell + (cell - _LINE) // 2)
            words.append((*place, _short(float(counts[r, c])), colour))
    return _written(picture, words)


def points(truth: Tensor, predicted: Tensor, title: str) -> Picture:
    """Draw predicted numbers (N,), upwards, against true ones (N,), rightwards, and the diagonal."""
    lowest, highest = float(truth.min()), float(truth.max())
    span = (highest - lowest) or max(abs(highest), 1.0) * 1e-3
    low = max(lowest - span, min(lowest, float(predicted.min())))
    high = min(highest + span, max(highest, float(predicted.max()))) if highest > lowest else highest + span
    edges = (high - low) or 1.0

    def place(values: Tensor) -> Tensor:
        return ((values - low) / edges * (_PLOT - 1)).clamp(0, _PLOT - 1).round().long()

    density = torch.zeros(_PLOT, _PLOT)
    up, right = _PLOT - 1 - place(predicted), place(truth)
    for shift_y, shift_x in ((0, 0), (0, 1), (1, 0), (1, 1)):  # a point is two pixels wide
        places = (up + shift_y).clamp(max=_PLOT - 1) * _PLOT + (right + shift_x).clamp(max=_PLOT - 1)
        density.view(-1).index_add_(0, places, torch.ones(len(places)))
    shade = 1 - 0.45 ** density.reshape(_PLOT, _PLOT, 1)
    plot = (255 - shade * torch.tensor([225.0, 160.0, 70.0])).round().to(torch.uint8).numpy()
    diagonal = np.arange(_PLOT)
    plot[_PLOT - 1 - diagonal, diagonal] = np.where(
        density.numpy()[_PLOT - 1 - diagonal, diagonal, None] > 0, plot[_PLOT - 1 - diagonal, diagonal], _RED
    )
    return _with_axes(plot, title, "true", "predicted", (f"{low:.4g}", f"{high:.4g}"))


def reliability(said: Tensor, met: Tensor, share: Tensor, title: str) -> Picture:
    """Draw of each bin the share of rows that met it (N,), upwards, at the probability said (N,), rightwards.

    On the diagonal both are equal. Below, in grey, each bin's share of all rows (N,).
    """
    plot = np.full((_PLOT, _PLOT, 3), 255, dtype=np.uint8)
    diagonal = np.arange(_PLOT)
    plot[_PLOT - 1 - diagonal, diagonal] = _RED
    half = 4
    for x, y, part in zip(said.tolist(), met.tolist(), share.tolist(), strict=True):
        right, up = (round(min(max(value, 0.0), 1.0) * (_PLOT - 1)) for value in (x, y))
        columns = slice(max(0, right - half), right + half + 1)
        plot[_PLOT - round(part * _PLOT / 4) :, columns] = (205, 205, 205)  # a quarter of the height is all rows
        plot[max(0, _PLOT - 1 - up - half) : _PLOT - up + half, columns] = _BLUE
    return _with_axes(plot, title, "said", "met", ("0", "1"))


def _with_axes(plot: Picture, title: str, right: str, up: str, ends: tuple[str, str]) -> Picture:
    """Put a frame around a plot, and words at its sides."""
    framed = np.pad(plot, ((1, 1), (1, 1), (0, 0)), constant_values=160)
    picture = np.pad(framed, ((_LINE + 2, _LINE + 2), (4, 4), (0, 0)), constant_values=255)
    bottom = picture.shape[0] - _LINE - 1
    words = [
        (4, 0, title, (0, 0, 0)),
        (4, bottom, ends[0], (0, 0, 0)),
        (picture.shape[1] // 2 - 14, bottom, right, (0, 0, 0)),
        (picture.shape[1] - 4 - _LETTER * len(ends[1]), bottom, ends[1], (0, 0, 0)),
        (8, _LINE + 4, up, (110, 110, 110)),
    ]
    return _written(picture, words)


# ----------------------------------------------------------------------------------------------------- maps as pictures
def grey_or_rgb(picture: Tensor) -> Picture:
    """Draw an input (1, H, W) or (3, H, W), from its darkest to its brightest value."""
    low, high = picture.min(), picture.max()
    scaled = ((picture - low) / (high - low).clamp(min=1e-12)).nan_to_num()
    return _bytes(scaled.expand(3, -1, -1).movedim(0, -1))


def coloured(classes: Tensor, number: int) -> Picture:
    """Draw classes (H, W) in colours; those beyond K are black."""
    turn = torch.arange(number).float() * 0.61803398875 % 1.0  # hues far from each other, one after the other
    waves = (turn[:, None] + torch.tensor([0.0, 1 / 3, 2 / 3])) * 2 * torch.pi
    level = torch.where(torch.arange(number) % 2 == 0, 0.85, 0.55)[:, None]
    palette = torch.cat([(waves.cos() * 0.5 + 0.5) * level + 0.1, torch.zeros(1, 3)])
    valid = (classes >= 0) & (classes < number)
    return _bytes(palette[torch.where(valid, classes, number).long()])


def numbers(maps: Tensor, low: float, high: float) -> Picture:
    """Draw numbers (H, W), dark for low ones, bright for high ones."""
    place = ((maps.float() - low) / max(high - low, 1e-12)).nan_to_num().clamp(0, 1) * (len(_SCALE) - 1)
    below = place.long().clamp(max=len(_SCALE) - 2)
    part = (place - below)[..., None]
    return _bytes((_SCALE[below] * (1 - part) + _SCALE[below + 1] * part) / 255)


def vectors(maps: Tensor) -> Picture:
    """Draw unit vectors (3, H, W), their components as red, green and blue."""
    length = maps.float().norm(dim=0, keepdim=True).clamp(min=1e-12)
    return _bytes((maps.float() / length * 0.5 + 0.5).nan_to_num().movedim(0, -1))


def beside(pictures: Sequence[Picture]) -> Picture:
    """Put pictures in a row, from the top."""
    height = max(picture.shape[0] for picture in pictures)
    padded = [np.pad(p, ((0, height - p.shape[0]), (0, 2), (0, 0)), constant_values=255) for p in pictures]
    return np.concatenate(padded, axis=1)


def above(pictures: Sequence[Picture]) -> Picture:
    """Put pictures in a column, from the left."""
    width = max(picture.shape[1] for picture in pictures)
    padded = [np.pad(p, ((0, 2), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures]
    return np.concatenate(padded, axis=0)


def with_title(picture: Picture, title: str) -> Picture:
    """Put a line of text over a picture."""
    right = max(0, _LETTER * len(title) + 8 - picture.shape[1])
    return _written(np.pad(picture, ((_LINE, 0), (0, right), (0, 0)), constant_values=255), [(4, 0, title, (0, 0, 0))])


# ---------------------------------------------------------------------------------------------------------------- words
def _written(picture: Picture, words: Sequence[tuple[int, int, str, tuple[int, int, int]]]) -> Picture:
    """Write texts at (x, y) in colours."""
    font = _font()
    if font is None:
        return picture
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    for x, y, text, colour in words:
        pen.text((x, y), text, fill=colour, font=font)
    return np.asarray(image)


@cache
def _font() -> Any:
    """Return Pillow's own font; None without Pillow."""
    try:
        from PIL import ImageFont
    except ImportError:
        return None
    return ImageFont.load_default()


def _short(count: float) -> str:
    return f"{count:.0f}" if count < 10_000 else f"{count:.0e}".replace("e+0", "e")


def _bytes(values: Tensor) -> Picture:
    """Return values (H, W, 3) between 0 and 1 as bytes."""
    found: Picture = (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy().copy()
    return found
