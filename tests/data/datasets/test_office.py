from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.data import MultiTaskDataModule, Office, OfficeDomain
from mtl_lightning.data.datasets.images import IMAGENET_MEAN, IMAGENET_STD
from mtl_lightning.describe import describe
from mtl_lightning.tasks import MulticlassClassification
from mtl_lightning.types import ConfigurationError, DataError, TensorSpec
from tests.data.make_images import CLASSES, OFFICE_31, OFFICE_HOME, write_office
from tests.data.shared import copied, layout
from tests.helpers import fit, make_module

SPLITS: list[Any] = ["train", "val", "test"]
SMALL: dict[str, Any] = {"size": (8, 10), "batch_size": 4}


def files(data: OfficeDomain) -> dict[str, list[tuple[str, int]]]:
    """The files of each split with their classes, as the rows have them."""
    found = {}
    for split in SPLITS:
        rows = data.rows(split)
        found[split] = [(str(name), int(label)) for name, label in zip(rows.names, rows.labels[:, 0], strict=True)]
    return found


def listed(folder: Path, domain: str) -> dict[str, list[tuple[str, int]]]:
    lines = {split: (folder / f"{domain}_{split}.txt").read_text().splitlines() for split in SPLITS}
    return {split: [(row.split()[0], int(row.split()[1])) for row in rows] for split, rows in lines.items()}


def test_the_lists_decide_their_last_rows_without_a_newline_included(tmp_path: Path) -> None:
    root = write_office(tmp_path)
    texts = root / "data_txt" / "office-31"
    assert not (texts / "dslr_test.txt").read_text().endswith("\n")
    for lists in (None, texts):
        data = OfficeDomain(root, domain="dslr", lists=lists)
        assert files(data) == listed(texts, "dslr")
        assert [len(data.rows(split)) for split in SPLITS] == [12, 4, 4]
    assert data.tasks["dslr"].spec.names == (*CLASSES, *map(str, range(4, 31)))
    assert data.tasks["dslr"].output_size == 31


def test_a_row_is_its_image_normalised_with_imagenets_statistics(tmp_path: Path) -> None:
    data = OfficeDomain(write_office(tmp_path), domain="amazon")
    assert data.input_spec == TensorSpec((3, 224, 224))
    row = data.rows("val")[2]
    image = Image.open(tmp_path / "amazon" / "images" / CLASSES[2] / "frame_0004.jpg")
    pixels = np.array(image.resize((224, 224), Image.Resampling.BILINEAR)) / 255
    expected = torch.from_numpy((pixels - IMAGENET_MEAN) / IMAGENET_STD).permute(2, 0, 1).float()
    torch.testing.assert_close(row["inputs"], expected)
    assert row["targets"]["amazon"] == 2


@pytest.mark.parametrize("home", [False, True])
def test_without_lists_each_class_is_split_by_the_seed(tmp_path: Path, home: bool) -> None:
    root = write_office(tmp_path, home=home, per_class=10, lists=False)
    make = partial(OfficeDomain, root, domain="Art" if home else "webcam", version="home" if home else "31")
    first, again, other = (files(make(seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    for split, size in (("train", 6), ("val", 2), ("test", 2)):
        assert [label for _, label in first[split]] == [label for label in range(4) for _ in range(size)]
        assert all(Path(name).parent.name == CLASSES[label] for name, label in first[split])
    every = [name for rows in first.values() for name, _ in rows]
    assert len(every) == len({*every}) == 40
    assert make().rows("test")[0]["inputs"].shape == (3, 224, 224)


def test_the_folder_of_office_home_may_have_its_published_name(tmp_path: Path) -> None:
    root = write_office(tmp_path, home=True)
    (root / "Real_World").rename(root / "Real World")
    row = OfficeDomain(root, domain="Real_World", version="home").rows("test")[1]
    assert row["targets"]["Real_World"] == 1
    (root / "data_txt").rename(root / "elsewhere")
    assert len(OfficeDomain(root, domain="Real_World", version="home").rows("train")) == 12


@pytest.mark.parametrize(("version", "domains"), [("31", OFFICE_31), ("home", OFFICE_HOME)])
def test_every_domain_is_a_task_and_a_step_takes_a_batch_of_each(
    tmp_path: Path, version: Any, domains: tuple[str, ...]
) -> None:
    data = Office(write_office(tmp_path, home=version == "home"), version=version, **SMALL)
    assert tuple(data.tasks) == domains
    assert data.input_spec == TensorSpec((3, 8, 10))
    step = next(iter(data.train_dataloader()))
    assert tuple(step) == domains
    for domain, batch in step.items():
        assert batch["inputs"].shape == (4, 3, 8, 10)
        assert list(batch["targets"]) == [domain]


def test_an_epoch_is_as_long_as_the_largest_domain_and_the_others_start_again(tmp_path: Path) -> None:
    root = write_office(tmp_path)
    short = root / "data_txt" / "office-31" / "dslr_train.txt"
    short.write_text("\n".join(short.read_text().split("\n")[:5]))
    data = Office(root, **SMALL)
    loader = data.train_dataloader()
    assert len(loader) == 3
    rows: dict[str, list[Tensor]] = {domain: [] for domain in OFFICE_31}
    for step in loader:
        for domain, batch in step.items():
            rows[domain] += batch["inputs"].unbind()
    distinct = {domain: len({row.numpy().tobytes() for row in found}) for domain, found in rows.items()}
    assert distinct == {"amazon": 12, "dslr": 5, "webcam": 12}
    assert len(rows["dslr"]) > 5
    assert {domain: sum(len(b["inputs"]) for b in loader) for domain, loader in data.test_dataloader().items()} == (
        dict.fromkeys(OFFICE_31, 4)
    )


def test_it_trains_and_its_checkpoint_rebuilds_it(tmp_path: Path) -> None:
    data = Office(write_office(tmp_path), **SMALL)
    network = partial(SharedBottom, encoder=partial(MLP, hidden=[8]))
    module = make_module(tasks=data.tasks, architecture=network, input_spec=data.input_spec)
    trainer = fit(module, data, precision="32-true", num_sanity_val_steps=0)
    assert trainer.global_step == 3
    assert {f"val/accuracy/{domain}" for domain in OFFICE_31} <= trainer.callback_metrics.keys()
    path = tmp_path / "made.ckpt"
    torch.save({"mtl_lightning": {"data": describe(data), "schema": data.schema}}, path)
    restored = Office.from_checkpoint(path, batch_size=2)
    assert type(restored) is Office
    assert restored.schema == data.schema
    assert len(restored.train_dataloader()) == 6


def test_domains_are_chosen_and_tasks_overridden(tmp_path: Path) -> None:
    root = write_office(tmp_path)
    assert list(Office(root, domains=["webcam", "amazon"], **SMALL).tasks) == ["webcam", "amazon"]
    smooth = partial(MulticlassClassification, label_smoothing=0.1)
    tasks = Office(root, tasks={"amazon": smooth, "dslr": None}, **SMALL).tasks
    assert list(tasks) == ["amazon", "webcam"]
    assert [getattr(task, "label_smoothing", None) for task in tasks.values()] == [0.1, 0.0]
    with pytest.raises(ConfigurationError, match=r"expected in `tasks` domains of \['amazon'.*found \['clipart'\]"):
        Office(root, tasks={"clipart": None})


def test_the_made_files_have_the_layout_of_real_ones(tmp_path: Path) -> None:
    real = copied("fixtures/office31", tmp_path / "real")
    assert layout(write_office(tmp_path / "made")) == layout(real)
    for domain in OFFICE_31:
        data = OfficeDomain(real, domain=domain, **SMALL)
        assert files(data) == listed(real / "data_txt" / "office-31", domain)
        assert all(len(data.rows(split)[0]["inputs"]) == 3 for split in SPLITS)


LIST_DAMAGES = {
    "ragged": ("a.jpg", "row 2: expected a path and a class 0..30 after a space, found 'a.jpg'"),
    "no number": ("a.jpg bike", "row 2: .*found 'a.jpg bike'"),
    "out of range": ("a.jpg 31", "row 2: .*found 'a.jpg 31'"),
    "negative": ("a.jpg -1", "row 2: .*found 'a.jpg -1'"),
    "no text": ("\udcff.jpg 1", "row 2: expected text in UTF-8"),
    "twice": ("", "in one list, once, found amazon/.* in that of 'val' too"),  # the first row again
    "in two lists": ("amazon/images/bike/frame_0001.jpg 1", "in one list, once, found .*frame_0001.jpg in that of 'tr"),
}


@pytest.mark.parametrize(("row", "message"), LIST_DAMAGES.values(), ids=LIST_DAMAGES)
def test_a_damaged_list_is_named(tmp_path: Path, row: str, message: str) -> None:
    root = write_office(tmp_path)
    path = root / "data_txt" / "office-31" / "amazon_val.txt"
    first, _, *others = path.read_text().split("\n")
    path.write_text("\n".join([first, row or first, *others]), errors="surrogateescape")
    with pytest.raises(DataError, match=rf"amazon_val\.txt(, |: expected every image ){message}"):
        Office(root).tasks  # noqa: B018  # a property that reads


def test_marks_of_editors_are_read_over(tmp_path: Path) -> None:
    root = write_office(tmp_path)
    expected = files(OfficeDomain(root, domain="amazon"))
    for path in (root / "data_txt" / "office-31").glob("amazon_*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert files(OfficeDomain(root, domain="amazon")) == expected


def test_an_empty_list_and_a_missing_one_are_named(tmp_path: Path) -> None:
    root = write_office(tmp_path)
    path = root / "data_txt" / "office-31" / "webcam_test.txt"
    path.write_text("")
    with pytest.raises(DataError, match=r"webcam_test.txt: expected images in the list, found none"):
        Office(root).tasks  # noqa: B018
    path.unlink()
    with pytest.raises(DataError, match=r"webcam_test.txt: expected a list of images, found no such file"):
        Office(root).tasks  # noqa: B018


def test_missing_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Clipart: expected a folder for each of the 65 classes.*by hand.*research"):
        Office(tmp_path, version="home", domains=["Clipart"]).tasks  # noqa: B018
    root = write_office(tmp_path / "31", per_class=2, lists=False)
    with pytest.raises(DataError, match=r"amazon/images: expected enough images.* found none for \['val', 'test'\]"):
        Office(root).tasks  # noqa: B018
    (root / "amazon" / "images" / "bike" / "frame_0001.jpg").write_bytes(b"no image")
    write_office(tmp_path / "more", per_class=5)
    (tmp_path / "more" / "dslr" / "images" / "bike" / "frame_0004.jpg").write_bytes(b"no image")
    data: MultiTaskDataModule = OfficeDomain(tmp_path / "more", domain="dslr", **SMALL)
    with pytest.raises(DataError, match=r"dslr/images/bike/frame_0004.jpg: expected an image"):
        list(data.val_dataloader())


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"expected a version of \['31', 'home'\], found '32'"):
        Office(version="32")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigurationError, match=r"a domain of Office-31, \['amazon', .*found 'Art'"):
        Office(domains=["Art"])
