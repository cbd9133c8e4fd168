"""Whose a parameter is, which group steps it, and what a group's optimizer is made of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import Architecture, SharedBottom
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.core.optim.composite import CompositeOptimizer
from mtl_lightning.types import ConfigurationError, Features, InputSpec
from tests.helpers import fit, make_batches, make_module, weights_of

HEADS = [f"heads.{task}.map.{part}" for task in ("number", "vector", "kind") for part in ("weight", "bias")]
TRUNK = [f"architecture.encoder.stages.{stage}.{part}" for stage in ("0.1", "1.0") for part in ("weight", "bias")]
LOG_VARS = [f"balancer.log_vars.{index}" for index in range(3)]


def groups_of(module: MultiTaskModule) -> dict[str, list[str]]:
    return {name: list(members) for name, members in module.groups.items()}


def optimizer_of(module: MultiTaskModule) -> CompositeOptimizer:
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, CompositeOptimizer)
    return optimizer


# --------------------------------------------------------------------------------------------------------- the default
def test_by_default_there_is_a_group_for_what_is_shared_for_each_task_and_for_the_balancer() -> None:
    module = make_module(balancer=UncertaintyWeighting)
    expected = {"shared": TRUNK, "number": HEADS[:2], "vector": HEADS[2:4], "kind": HEADS[4:], "balancer": LOG_VARS}
    assert groups_of(module) == expected
    assert list(optimizer_of(module).optimizers) == list(expected)


def test_groups_that_have_no_parameter_are_left_out() -> None:
    assert "balancer" not in make_module().groups  # the plain sum learns nothing


class Towers(Architecture):
    """A shared layer, then a layer of its own for each task."""

    def __init__(self, spec: InputSpec | None, tasks: Sequence[str], *, rivals: bool = False) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 5)
        self.towers = nn.ModuleDict({task: nn.Linear(5, 5) for task in tasks})
        self.feature_sizes = dict.fromkeys(tasks, (5,))
        self.rivals = rivals

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        return Features({task: self.towers[task](self.shared(inputs)) for task in tasks})

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        mine = {task: list(tower.parameters()) for task, tower in self.towers.items()}
        if self.rivals:
            mine["kind"] += mine["number"]
        return mine


def test_parameters_that_an_architecture_gives_to_a_task_join_its_head() -> None:
    groups = groups_of(make_module(architecture=Towers))
    assert groups["shared"] == ["architecture.shared.weight", "architecture.shared.bias"]
    assert groups["kind"] == ["architecture.towers.kind.weight", "architecture.towers.kind.bias", *HEADS[4:]]


# ------------------------------------------------------------------------------------------------------------ patterns
def test_groups_merge_and_split_roles() -> None:
    module = make_module(
        balancer=UncertaintyWeighting,
        groups={
            "first": ["architecture.encoder.stages.0.*"],
            "pair": ["task:number", "task:kind"],
            "biases": ["*v*.bias"],
        },
    )
    assert groups_of(module) == {
        "shared": TRUNK[2:],
        "vector": HEADS[2:3],
        "first": TRUNK[:2],
        "pair": [*HEADS[:2], *HEADS[4:]],
        "biases": HEADS[3:4],
        "balancer": LOG_VARS,
    }
    assert list(module.roles.tasks["vector"]) == HEADS[2:4]  # a group is no role
    assert list(module.roles.shared) == TRUNK


def test_one_group_for_everything() -> None:
    module = make_module(balancer=UncertaintyWeighting, groups={"all": ["*"]}, optimizers={"all": partial(AdamW, lr=1)})
    assert groups_of(module) == {"all": [*TRUNK, *HEADS, *LOG_VARS]}
    names = [
        (group["name"], len(group["params"]), group["weight_decay"]) for group in optimizer_of(module).param_groups
    ]
    assert names == [("all/0", 10, 0.01), ("all/1", 3, 0.0)]


def test_an_existing_group_can_be_extended() -> None:
    groups = groups_of(make_module(groups={"shared": ["task:number"]}))
    assert groups == {"shared": [*HEADS[:2], *TRUNK], "vector": HEADS[2:4], "kind": HEADS[4:]}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        pytest.param(
            {"front": ["*.conv*"]},
            r"`groups\.front`: expected '\*\.conv\*' to match a parameter, found none\. Names are like \['architecture",
            id="matches nothing",
        ),
        pytest.param(
            {"front": ["task:knid"]}, r"`groups\.front`: .* found 'knid'\. Did you mean 'kind'\?", id="unknown task"
        ),
        pytest.param(
            {"heads": ["heads.*"], "biases": ["*.bias"]},
            r"Parameter 'heads\.number\.map\.bias' is in two groups: expected one, found 'heads' and 'biases'",
            id="in two groups",
        ),
    ],
)
def test_patterns_that_cannot_be_right(groups: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_module(groups=groups)


# -------------------------------------------------------------------------------------------------- no role, two roles
def test_a_parameter_that_two_tasks_claim() -> None:
    message = r"'architecture\.towers\.number\.weight' is in two roles: expected one, found 'number' and 'kind'\."
    with pytest.raises(ConfigurationError, match=message):
        make_module(architecture=partial(Towers, rivals=True))


class Tied:
    """Gives the same head to everyone."""

    def __init__(self, head: nn.Module) -> None:
        self.head = head

    def __call__(self, in_features: tuple[int, ...], out_features: int) -> nn.Module:
        return self.head


def test_heads_that_are_tied_belong_to_two_tasks() -> None:
    tied = Tied(nn.Linear(6, 1))
    with pytest.raises(ConfigurationError, match=r"'heads\.number\.weight' is in two roles: .* 'number' and 'kind'"):
        make_module(heads={"number": tied, "kind": tied})


def test_a_head_that_is_tied_to_the_shared_network() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6))
    with pytest.raises(ConfigurationError, match=r"'architecture\.network\.1\.weight' .* found 'shared' and 'kind'\."):
        make_module(architecture=network, heads={"kind": Tied(network[1])})


class Unknown(Towers):
    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        return {"knid": []}


def test_an_architecture_that_names_an_unknown_task() -> None:
    with pytest.raises(ConfigurationError, match=r"`Unknown\.task_parameters\(\)`: .* Did you mean 'kind'\?"):
        make_module(architecture=Unknown)


class Scaled(MultiTaskModule):
    """A user's subclass with a layer more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = nn.Linear(4, 4)

    def run(self, inputs: Any, tasks: Sequence[str]) -> Any:
        return super().run(self.scale(inputs), tasks)


def test_a_layer_of_a_subclass_is_in_no_group_until_a_pattern_names_it() -> None:
    message = r"Parameters in no group: \['scale\.weight', 'scale\.bias'\].*`groups: \{extra: \['scale\*'\]\}`"
    with pytest.raises(ConfigurationError, match=message):
        fit(make_module(Scaled), make_batches(1))
    module = make_module(Scaled, groups={"extra": ["scale*"]})
    before = weights_of(module.double())
    fit(module, make_batches(2))
    assert groups_of(module)["extra"] == ["scale.weight", "scale.bias"]
    assert not torch.equal(weights_of(module)["scale.weight"], before["scale.weight"])


# -------------------------------------------------------------------------------------------------------------- frozen
class Frozen(SharedBottom):
    """A shared bottom whose first stage is not trained."""

    def __init__(self, spec: InputSpec | None, tasks: Sequence[str]) -> None:
        super().__init__(spec, tasks)
        self.encoder.stages[0].requires_grad_(False)  # type: ignore[index]  # an MLP's


def test_a_frozen_encoder_is_owned_by_its_group_and_unchanged() -> None:
    module = make_module(architecture=Frozen, optimizers={"default": partial(AdamW, lr=0.1, weight_decay=0.1)})
    before = weights_of(module.double())
    fit(module, make_batches(3))
    after = weights_of(module)
    stay = {name for name in after if torch.equal(after[name], before[name])}
    assert (
        stay
        == {"architecture.encoder.stages.0.1.weight", "architecture.encoder.stages.0.1.bias"}
        < set(module.groups["shared"])
    )
    owned = {id(p) for group in module.trainer.optimizers[0].param_groups for p in group["params"]}
    assert owned == {id(p) for p in module.parameters()}
