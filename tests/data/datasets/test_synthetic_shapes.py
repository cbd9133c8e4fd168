"""Made scenes: geometry that follows from the equations, and a problem that dense networks learn."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning.architectures import SegNet, SharedBottom
from mtl_lightning.cli import MultiTaskCLI
from mtl_lightning.data import SyntheticShapes
from mtl_lightning.data.datasets.synthetic_shapes import CLASSES, Scenes, draw_scenes, render
from mtl_lightning.data.seeding import generator_of
from mtl_lightning.types import ConfigurationError
from tests.cli import CONFIGS
from tests.helpers import make_module, make_trainer

SIDES = (48, 64)


def one(kind: int, **options: Any) -> Scenes:
    """A wall at depth 3 and one shape of this class in the middle."""
    slope = options.get("slope", (0.0, 0.0))
    return Scenes(
        kinds=torch.tensor([[0, kind]]),
        centres=torch.zeros(1, 2, 2),
        radii=torch.tensor([[[torch.inf] * 2, options.get("radii", (0.3, 0.3))]]),
        depths=torch.tensor([[3.0, options.get("depth", 2.0)]]),
        slopes=torch.tensor([[[0.0, 0.0], slope]]),
        tints=torch.ones(1, 2, 3),
    )


def grid() -> tuple[Tensor, Tensor]:
    """x to the right and y down, in heights of the picture."""
    y, x = ((torch.arange(side) + 0.5) / 48 - side / 96 for side in SIDES)
    return x.expand(SIDES), y[:, None].expand(SIDES)


# ------------------------------------------------------------------------------------------------------------- geometry
def test_a_sphere_by_its_equation() -> None:
    (classes,), (depth,), (normals,), _ = render(one(1), SIDES)
    x, y = grid()
    inside = x**2 + y**2 < 0.09
    assert torch.equal(classes, inside.long())
    points = torch.stack([x, y, depth - 2.0])[:, inside]
    torch.testing.assert_close(points.norm(dim=0), torch.full((int(inside.sum()),), 0.3))
    facing = points * torch.tensor([1.0, 1.0, -1.0])[:, None] / 0.3  # z towards the viewer
    torch.testing.assert_close(normals[:, inside], facing, atol=1e-3, rtol=0)
    assert (depth[~inside] == 3).all()
    assert torch.equal(normals[:, ~inside], torch.tensor([0.0, 0.0, 1.0])[:, None].expand(3, int((~inside).sum())))


def test_a_ramp_by_its_equation() -> None:
    (classes,), (depth,), (normals,), _ = render(one(3, slope=(0.5, -1.0), radii=(0.2, 0.4)), SIDES)
    x, y = grid()
    inside = (x.abs() < 0.2) & (y.abs() < 0.4)
    assert torch.equal(classes, 3 * inside.long())
    torch.testing.assert_close(depth[inside], (2 + 0.5 * x - y)[inside])
    expected = torch.tensor([0.5, -1.0, 1.0]) / 1.5
    torch.testing.assert_close(normals[:, inside], expected[:, None].expand(3, int(inside.sum())))


def test_what_is_behind_is_hidden() -> None:
    (classes,), (depth,), _, _ = render(one(2, depth=3.5), SIDES)
    assert not classes.any()
    assert (depth == 3).all()


def test_normals_are_the_slopes_of_the_depth() -> None:
    """By differences between neighbours on one surface, at many random scenes."""
    _, depth, normals, which = render(draw_scenes(20, 4, (96, 128), generator_of(1)), (96, 128))
    across = (depth[:, 1:-1, 2:] - depth[:, 1:-1, :-2]) * 48
    down = (depth[:, 2:, 1:-1] - depth[:, :-2, 1:-1]) * 48
    found = torch.stack([across, down, torch.ones_like(down)], 1)
    found = found / found.norm(dim=1, keepdim=True)
    same = torch.ones_like(across, dtype=torch.bool)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        same &= which[:, dy : dy + 94, dx : dx + 126] == which[:, 1:-1, 1:-1]
    steep = normals[:, 2, 1:-1, 1:-1] < 0.5  # near a sphere's edge differences are no slopes
    cosine = (found * normals[:, :, 1:-1, 1:-1]).sum(1)[same & ~steep]
    assert len(cosine) > 150_000
    assert cosine.min() > 0.995


# ------------------------------------------------------------------------------------------------------------- the data
def test_a_seed_gives_the_same_pictures_and_another_others() -> None:
    first, again, other = (SyntheticShapes(sizes=(5, 3, 3), seed=seed).rows("train")[2] for seed in (4, 4, 5))
    assert torch.equal(first["inputs"], again["inputs"])
    assert not torch.equal(first["inputs"], other["inputs"])
    assert all(torch.equal(first["targets"][name], again["targets"][name]) for name in first["targets"])


def test_every_class_is_there_and_none_is_rare() -> None:
    classes = SyntheticShapes().rows("val").__getitems__(range(100))["targets"]["segmentation"]
    share = torch.bincount(classes.flatten(), minlength=4) / classes.numel()
    assert len(share) == len(CLASSES)
    assert share.min() > 0.08
    assert share.max() < 0.7


def test_missing_pixels_are_dropped_in_training_only() -> None:
    data = SyntheticShapes(sizes=(50, 20, 20), missing=0.4)
    batch = data.rows("train").__getitems__(range(50))
    for name, task in data.tasks.items():
        target = batch["targets"][name]
        assert float(task.labelled(target).float().mean()) == pytest.approx(0.6, abs=0.01)
        whole = data.rows("val").__getitems__(range(20))["targets"][name]
        assert task.labelled(whole).all()
    kept = [task.labelled(batch["targets"][name]) for name, task in data.tasks.items()]
    assert float((kept[0] & kept[1]).float().mean()) == pytest.approx(0.36, abs=0.01)  # each task by itself


def test_sizes_are_those_of_three_splits() -> None:
    with pytest.raises(ConfigurationError, match=r"SyntheticShapes: expected `sizes` of 3 splits, found \(1, 1\)"):
        SyntheticShapes(sizes=(1, 1))  # type: ignore[arg-type]  # the point of the test


def test_two_processes_measure_what_one_does() -> None:
    """9 rows, so that one process has a row that is not there: all sums of all metrics add up over processes."""
    data = SyntheticShapes(sizes=(8, 9, 4), height=8, width=12, batch_size=4)
    network = partial(SharedBottom, encoder=partial(SegNet, widths=[4]))
    module = make_module(tasks=data.tasks, architecture=network, input_spec=data.input_spec)
    found = []
    for options in ({}, {"devices": 2, "strategy": "ddp_fork"}):
        trainer = make_trainer(precision="32-true", **options)
        trainer.validate(module, data, verbose=False)
        found.append({tag: float(value) for tag, value in trainer.callback_metrics.items()})
    assert {"val/miou/segmentation", "val/rel_error/depth", "val/median_angle/normals"} <= {*found[0]}
    assert found[1] == pytest.approx(found[0], rel=2e-4)


# ------------------------------------------------------------------------------------------------------------- learning
ALL_THREE = ["segnet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mtan", "deeplab"))]


@pytest.mark.parametrize("name", ALL_THREE)
def test_each_architecture_learns_from_its_yaml_in_a_short_epoch(name: str) -> None:
    """After 40 steps better than the best that does not look: the wall everywhere, the mean depth."""
    options = {"data.init_args.sizes": "[320,8,40]", "data.init_args.batch_size": "8", "trainer.max_epochs": "1"}
    quiet = ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"]
    args = [f"--{key}={value}" for key, value in options.items()] + [f"--trainer.{key}=false" for key in quiet]
    config = str(CONFIGS / f"shapes_{name}.yaml")
    cli: Any = MultiTaskCLI(args=["fit", "--config", config, "--trainer.accelerator=cpu", *args])
    found = {tag: float(value) for tag, value in cli.trainer.callback_metrics.items()}
    targets = cli.datamodule.rows("test").__getitems__(range(40))["targets"]
    trivial_iou = float((targets["segmentation"] == 0).float().mean()) / len(CLASSES)
    assert found["test/miou/segmentation"] > trivial_iou + 0.08
    train_mean = float(cli.datamodule.rows("train").__getitems__(range(320))["targets"]["depth"].mean())
    assert found["test/abs_error/depth"] < 0.8 * float((targets["depth"] - train_mean).abs().mean())
