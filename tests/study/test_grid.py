"""Cells of a grid, and what is left of a configuration with one task alone."""

from __future__ import annotations

from typing import Any

import pytest

from mtl_lightning.study.grid import Entry, read_entries, read_seeds, single_task_config
from mtl_lightning.types import ConfigurationError

CONFIG: dict[str, Any] = {
    "data": {"class_path": "MultiDigit", "init_args": {"tasks": {"left": "Mine"}}},
    "model": {
        "reads": {"right": ["left"]},
        "balancer": "UncertaintyWeighting",
        "optimizers": {"default": "Adam", "left": "SGD", "right": "SGD", "balancer": "Adam", "first": "SGD"},
        "schedulers": {"shared": "ExponentialLR", "right": "ExponentialLR"},
        "gradient_clip": {"right": 1.0},
        "heads": {"default": "Linear", "right": "MLPHead"},
        "groups": {"first": ["architecture.first.*"], "both": ["task:left", "task:right"], "far": "heads.right.*"},
        "allow_unlabelled": ["left", "right"],
    },
}


def test_one_task_alone_keeps_what_is_said_of_it() -> None:
    alone = single_task_config(CONFIG, "left", ["left", "right"])
    assert alone["data"]["init_args"]["tasks"] == {"left": "Mine", "right": None}
    assert alone["model"] == {
        "optimizers": {"default": "Adam", "left": "SGD", "first": "SGD"},
        "schedulers": {"shared": "ExponentialLR"},
        "gradient_clip": {},
        "heads": {"default": "Linear"},
        "groups": {"first": ["architecture.first.*"], "both": ["task:left"]},
        "allow_unlabelled": ["left"],
    }


def test_a_cell_is_another_one_with_another_seed_name_task_or_config() -> None:
    entries = [
        Entry("a", {"x": 1}, [0, 1]),
        Entry("b", {"x": 1}, [0]),
        Entry("a", {"x": 2}, [0]),
        Entry("a", {"x": 1}, [0], "t"),
    ]
    cells = [cell for entry in entries for cell in entry.cells(["seed_everything", "data.init_args.seed"])]
    assert len({cell.key for cell in cells}) == len({cell.folder for cell in cells}) == 5
    assert cells[1].config == {"x": 1, "seed_everything": 1, "data": {"init_args": {"seed": 1}}}
    assert (
        Entry("a", {"x": 1}, [0]).cells(["seed_everything"])[0].key
        == Entry("a", {"x": 1}, [0]).cells(["seed_everything"])[0].key
    )


def test_names_of_entries_become_names_of_folders() -> None:
    (cell,) = Entry("../a b/c", {}, [3]).cells([])
    assert "/" not in cell.folder
    assert not cell.folder.startswith(".")


def test_an_entry_may_have_seeds_of_its_own() -> None:
    first, second = read_entries({"x": 1}, {"a": {"x": 2, "seeds": [7, 8]}, "b": None}, [0])
    assert (first.config, first.seeds) == ({"x": 2}, [7, 8])
    assert (second.config, second.seeds) == ({"x": 1}, [0])


@pytest.mark.parametrize("seeds", [0, -1, [], [1, 1], [-3], ["a"], [True]])
def test_seeds_that_are_none(seeds: Any) -> None:
    with pytest.raises(ConfigurationError, match="`seeds`: expected a number of seeds"):
        read_seeds(seeds)


@pytest.mark.parametrize("entries", [{}, {"single-task": {}}, {" ": {}}, {"a": [1]}, {"a": {"seeds": 0}}])
def test_entries_that_are_none(entries: Any) -> None:
    with pytest.raises(ConfigurationError, match="`entries"):
        read_entries({}, entries, [0])
