"""Writes small copies of the image datasets in their exact layouts, with made content; the seed decides it all."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young"
)
ATTRIBUTES = NAMES.split()
OFFICE_31 = ("amazon", "dslr", "webcam")
OFFICE_HOME = ("Art", "Clipart", "Product", "Real_World")
CLASSES = ("back_pack", "bike", "calculator", "paper_notebook")


def idx_bytes(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_mnist(folder: Path, *, train: int = 40, test: int = 16, seed: int = 0, compressed: bool = True) -> Path:
    """Four IDX files; picture i has class i mod 10."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for part, size in (("train", train), ("t10k", test)):
        pictures = random.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        labels = (np.arange(size) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            content = idx_bytes(array)
            name = f"{part}-{kind}-ubyte" + ".gz" * compressed
            (folder / name).write_bytes(gzip.compress(content, mtime=0) if compressed else content)
    return folder


def write_image(path: Path, random: np.random.Generator, size: tuple[int, int]) -> None:
    """A picture of noise, height and width in pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def write_celeba(root: Path, *, sizes: tuple[int, int, int] = (10, 4, 4), seed: int = 0, flat: bool = True) -> Path:
    """Images of 27 x 22 pixels with 40 attributes, each of which is 1 for the image before or after one that has -1."""
    random, count = np.random.default_rng(seed), sum(sizes)
    anno, evaluation, images = ("", "", "") if flat else ("Anno", "Eval", "Img")
    for part in (anno, evaluation, images):
        (root / part).mkdir(parents=True, exist_ok=True)
    names = [f"{number:06d}.jpg" for number in range(1, count + 1)]
    labels = 2 * random.integers(0, 2, (count, len(ATTRIBUTES))) - 1
    rows = [f"{name} {' '.join(f'{value:2d}' for value in row)}\n" for name, row in zip(names, labels, strict=True)]
    (root / anno / "list_attr_celeba.txt").write_text(f"{count}\n{' '.join(ATTRIBUTES)} \n" + "".join(rows))
    splits = np.repeat([0, 1, 2], sizes)
    partition = "".join(f"{name} {split}\n" for name, split in zip(names, splits, strict=True))
    (root / evaluation / "list_eval_partition.txt").write_text(partition)
    for name in names:
        write_image(root / images / "img_align_celeba" / name, random, (27, 22))
    return root


def write_office(root: Path, *, home: bool = False, per_class: int = 5, lists: bool = True, seed: int = 0) -> Path:
    """Images of 4 classes in each domain; of each class the last image but one is for validation, the last for test."""
    random = np.random.default_rng(seed)
    texts = root / "data_txt" / ("office-home" if home else "office-31")
    if lists:
        texts.mkdir(parents=True, exist_ok=True)
    for domain in OFFICE_HOME if home else OFFICE_31:
        files: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        for label, name in enumerate(CLASSES):
            for number in range(1, per_class + 1):
                path = f"{domain}/{name}/{number:05d}.jpg" if home else f"{domain}/images/{name}/frame_{number:04d}.jpg"
                write_image(root / path, random, (20, 24))
                split = {per_class - 1: "val", per_class: "test"}.get(number, "train")
                files[split].append(f"{path} {label}")
        for split, rows in files.items() if lists else ():
            (texts / f"{domain}_{split}.txt").write_text("\n".join(rows))  # the last row has no newline
    return root
