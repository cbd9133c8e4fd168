"""Changes to a configuration: nested, dotted, and of classes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mtl_lightning.study.overrides import changed

CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "data": {"class_path": "A", "init_args": {"rows": 3, "sizes": [1, 2]}},
    "model": {
        "balancer": "Sum",
        "optimizers": {"default": {"class_path": "Adam", "init_args": {"lr": 0.1, "betas": [0.9, 0.99]}}},
        "groups": {"a.b": ["x"]},
    },
}
ADAM = CONFIG["model"]["optimizers"]["default"]
CASES: dict[str, tuple[dict[str, Any], str, Any]] = {
    "a dotted key": ({"model.optimizers.default.init_args.lr": 1}, "model.optimizers.default.init_args.lr", 1),
    "without init_args": ({"model.optimizers.default.lr": 1}, "model.optimizers.default.init_args.lr", 1),
    "what is beside it stays": ({"data.rows": 1}, "data.init_args.sizes", [1, 2]),
    "dots below a nested key": ({"model": {"optimizers.default.lr": 1}}, "model.optimizers.default.init_args.lr", 1),
    "a list is replaced": ({"data.sizes": [5]}, "data.init_args.sizes", [5]),
    "a new key": ({"trainer.max_epochs": 2}, "trainer", {"max_epochs": 2}),
    "null": ({"data": {"init_args": {"tasks": {"right": None}}}}, "data.init_args.tasks", {"right": None}),
    "the same class keeps its arguments": (
        {"model.optimizers.default": {"class_path": "Adam", "init_args": {"lr": 1}}},
        "model.optimizers.default.init_args",
        {"lr": 1, "betas": [0.9, 0.99]},
    ),
    "another class drops them": (
        {"model.optimizers.default.class_path": "SGD"},
        "model.optimizers.default",
        {"class_path": "SGD"},
    ),
    "another class with its own": (
        {"model.optimizers.default.init_args.lr": 1, "model.optimizers.default.class_path": "SGD"},
        "model.optimizers.default",
        {"class_path": "SGD", "init_args": {"lr": 1}},
    ),
    "a name alone": ({"model.optimizers.default": "SGD"}, "model.optimizers.default", "SGD"),
    "arguments of a name alone": (
        {"model.balancer.init_args.a": 1},
        "model.balancer",
        {"class_path": "Sum", "init_args": {"a": 1}},
    ),
    "a class in place of a name": ({"model.balancer": {"class_path": "UW"}}, "model.balancer", {"class_path": "UW"}),
    "a key that has dots": ({"model": {"groups": {"a.b": ["y"]}}}, "model.groups", {"a.b": ["y"]}),
    "both forms of one key": (
        {"model.optimizers.left.lr": 1, "model": {"optimizers": {"default": {"init_args": {"lr": 2}}}}},
        "model.optimizers",
        {"left": {"lr": 1}, "default": {"class_path": "Adam", "init_args": {"lr": 2, "betas": [0.9, 0.99]}}},
    ),
}


@pytest.mark.parametrize(("changes", "where", "expected"), CASES.values(), ids=CASES.keys())
def test_a_change(changes: dict[str, Any], where: str, expected: Any) -> None:
    before = copy.deepcopy(CONFIG)
    found: Any = changed(CONFIG, changes)
    for name in where.split("."):
        found = found[name]
    assert found == expected
    assert before == CONFIG


def test_nothing_else_changes() -> None:
    assert changed(CONFIG, {}) == CONFIG
    assert {**changed(CONFIG, {"data.rows": 1}), "data": CONFIG["data"]} == CONFIG
