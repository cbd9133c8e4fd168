"""What every exported architecture promises; a new one is tested without editing this file."""

from __future__ import annotations

import copy
import io
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchjd.aggregation import UPGrad

from mtl_lightning.architectures import Architecture
from mtl_lightning.architectures.base import build_architecture
from mtl_lightning.balancing import Balancer
from mtl_lightning.describe import describe
from mtl_lightning.types import ConfigurationError, InputSpec, TensorSpec
from tests.architectures.test_yaml import parser, read
from tests.contracts.architecture_cases import (
    ARCHITECTURES,
    DRAWS,
    PICTURES,
    TASKS,
    exported,
    halved,
    moved,
    rows,
    same,
    to,
    unmoved,
    with_encoder,
)
from tests.cover import some_of
from tests.helpers import assert_same, fit, make_batches, make_module, weights_of, without


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# -------------------------------------------------------------------------------------------------------- architectures
@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_features_have_the_declared_sizes(cls: Any, spec: InputSpec, training: bool, number: int) -> None:
    architecture = cls(spec, TASKS).train(training)
    features = architecture(rows(spec, number), TASKS).per_task
    found = {task: tuple(value.shape) for task, value in features.items()}
    assert {*found} == {*TASKS}
    if architecture.final:  # outputs, of which only the rows are known
        assert all(shape[0] == number and len(shape) >= 2 for shape in found.values())
    else:
        assert found == {task: (number, *size) for task, size in architecture.feature_sizes.items()}
    assert all(value.isfinite().all() for value in features.values())


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_evaluation_is_deterministic(cls: Any, spec: InputSpec) -> None:
    architecture, inputs = cls(spec, TASKS).eval(), rows(spec, 3)
    assert same(architecture(inputs, TASKS), architecture(inputs, TASKS))


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_features_follow_the_inputs(cls: Any, spec: InputSpec) -> None:
    architecture = cls(spec, TASKS).eval()
    features = architecture(rows(spec, 2), TASKS).per_task
    assert all(not torch.equal(f[0], f[1]) for f in features.values())


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_runs_in_float64(cls: Any, spec: InputSpec) -> None:
    features = cls(spec, TASKS).double()(rows(spec, 2, torch.float64), TASKS)
    assert {f.dtype for f in features.per_task.values()} == {torch.float64}
    assert {value.dtype for value in features.aux.values()} <= {torch.float64}


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_runs_in_half_precision(cls: Any, spec: InputSpec, mixed: bool) -> None:
    architecture, inputs = cls(spec, TASKS), rows(spec, 4)
    if not mixed:
        architecture, inputs = architecture.bfloat16(), halved(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        features = architecture(inputs, TASKS)
    values = [*features.per_task.values(), *features.aux.values()]
    assert all(value.isfinite().all() for value in values)
    torch.autograd.backward([value.float().square().sum() for value in values])
    assert all(p.grad is None or p.grad.isfinite().all() for p in architecture.parameters())


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_state_survives_a_reload(cls: Any, spec: InputSpec) -> None:
    saved, inputs = cls(spec, TASKS), rows(spec, 3)
    saved(inputs, TASKS)  # a forward in training mode may change buffers
    loaded = cls(spec, TASKS)
    assert not same(loaded.eval()(inputs, TASKS), saved.eval()(inputs, TASKS))
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert same(loaded(inputs, TASKS), saved(inputs, TASKS))
    assert same(copy.deepcopy(saved)(inputs, TASKS), saved(inputs, TASKS))


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_everything_moves_to_another_device(cls: Any, spec: InputSpec) -> None:
    architecture = cls(spec, TASKS).to("meta")  # a tensor that stayed behind could not meet those that did not
    for training in (True, False):
        features = architecture.train(training)(to(rows(spec, 3), "meta"), TASKS)
        assert {value.device.type for value in features.per_task.values()} == {"meta"}


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_a_subset_of_tasks_gives_the_same_features(cls: Any, spec: InputSpec) -> None:
    architecture, inputs = cls(spec, TASKS).eval(), rows(spec, 3)
    everything = architecture(inputs, TASKS).per_task
    for subset in ([], ["b"], ["c", "a"]):
        features = architecture(inputs, subset).per_task
        assert {*subset} <= {*features} <= {*TASKS}
        assert all(torch.equal(features[task], everything[task]) for task in subset)


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_disjoint_batches_leave_absent_tasks_alone(cls: Any, spec: InputSpec) -> None:
    architecture = cls(spec, TASKS)
    for task in TASKS:
        architecture.zero_grad()
        features = architecture(rows(spec, 4), [task])
        torch.autograd.backward([features.per_task[task].square().sum(), *features.aux.values()])
        others = [p for name, own in architecture.task_parameters().items() if name != task for p in own]
        assert not any(p.grad is not None and p.grad.count_nonzero() for p in others)
        assert any(p.grad is not None and p.grad.count_nonzero() for p in architecture.parameters())


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_every_parameter_is_used(cls: Any, spec: InputSpec) -> None:
    architecture = cls(spec, TASKS)
    unused = {name for name, _ in architecture.named_parameters()}
    for _ in range(DRAWS):
        features = architecture(rows(spec, 64), TASKS).per_task
        unused &= {*unmoved(torch.cat([features[task].flatten() for task in TASKS]), architecture)}
    assert not unused


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_auxiliary_losses_are_scalars_on_the_graph(cls: Any, spec: InputSpec) -> None:
    features = cls(spec, TASKS)(rows(spec, 3), TASKS)
    assert all(value.shape == () and value.requires_grad and value.isfinite() for value in features.aux.values())
    assert not {*features.aux} & {*TASKS}


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_roles_are_a_partition_of_known_tasks(cls: Any, spec: InputSpec) -> None:
    architecture = cls(spec, TASKS)
    declared = architecture.task_parameters()
    own = [id(p) for parameters in declared.values() for p in parameters]
    assert {*declared} <= {*TASKS}
    assert len(own) == len({*own})
    assert {*own} <= {id(p) for p in architecture.parameters()}


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_a_role_is_what_the_gradients_say(cls: Any, spec: InputSpec) -> None:
    """A task's own parameters never move another task; a shared one moves two or more in one of a few draws."""
    architecture = cls(spec, TASKS)
    owners = {id(p): task for task, parameters in architecture.task_parameters().items() for p in parameters}
    names, parameters = zip(*architecture.named_parameters(), strict=True)
    serves_many: set[str] = set()
    for _ in range(DRAWS):
        features = architecture(rows(spec, 64), TASKS).per_task
        by_task = [moved(features[task], parameters) for task in TASKS]
        for name, parameter, *served in zip(names, parameters, *by_task, strict=True):
            owner = owners.get(id(parameter))
            reached = {task for task, there in zip(TASKS, served, strict=True) if there}
            assert owner is None or reached <= {owner}, (name, reached)
            if len(reached) >= 2:
                serves_many.add(name)
    shared = {name for name, parameter in zip(names, parameters, strict=True) if id(parameter) not in owners}
    assert serves_many == shared


class Plain(nn.Module):
    """A user's network, which knows nothing of this library and lists no stages."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.second = nn.Linear(6, width)

    def forward(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.second(self.first(inputs))
        return features


class Listed(Plain):
    """The same, with its stages in a list."""

    def __init__(self, width: int = 5) -> None:
        super().__init__(width)
        self.stages = [self.first, self.second]


@pytest.mark.parametrize("encoder", [Plain, Plain(), partial(Plain, width=7), Listed, Listed(), lambda _: Listed(7)])
@pytest.mark.parametrize("cls", exported(Architecture))
def test_a_users_network_serves_as_the_encoder(cls: Any, encoder: Any) -> None:
    spec = TensorSpec((8,))
    build = partial(with_encoder(cls, encoder), spec, TASKS)
    try:
        architecture = build()
    except ConfigurationError:
        with pytest.raises(ConfigurationError, match=r"Plain: expected an attribute `stages`"):
            build()
        architecture = with_encoder(cls, Listed)(spec, TASKS)  # all that it takes is to list them
    features = architecture(rows(spec, 5), TASKS).per_task
    assert {f.shape[0] for f in features.values()} == {5}
    assert {f.shape[1] for f in features.values()} <= {1, 5, 7}


@pytest.mark.parametrize("cls", exported(Architecture))
def test_yaml_says_an_architecture_by_its_short_name(cls: Any) -> None:
    reader = parser()
    config = {"architecture": {"class_path": cls.__name__}}
    printed = reader.dump(reader.parse_object({"model": config}))
    chosen = [read(**config), reader.instantiate(reader.parse_string(printed)).model]
    chosen.append(read(architecture=describe(chosen[0].architecture)))  # as a checkpoint says it
    expected = repr(cls(PICTURES, TASKS))
    assert [repr(build_architecture(one.architecture, PICTURES, TASKS)) for one in chosen] == [expected] * 3


@pytest.mark.parametrize("balancer", some_of([Balancer, UPGrad()], 2))
@pytest.mark.parametrize("cls", [c for c in exported(Architecture) if not c.final])
def test_it_trains_in_the_module_on_batches_of_some_tasks(cls: Any, balancer: Any) -> None:
    whole = make_batches(6)
    batches = [without(batch, absent) for batch, absent in zip(whole, ["kind", "number", "vector"] * 2, strict=True)]
    module = make_module(architecture=cls, balancer=balancer)
    before = weights_of(module)
    fit(module, batches, max_epochs=2)
    after = weights_of(module)
    assert all(value.isfinite().all() for value in after.values())
    for named in [module.roles.shared, *module.roles.tasks.values()]:
        assert not named or any(not torch.equal(before[name], after[name]) for name in named)
    module.labels.allowed.append("kind")
    fit(module, [without(batch, "kind") for batch in whole])
    kept = {name: weights_of(module)[name] for name in module.roles.tasks["kind"]}
    assert_same(kept, {name: after[name] for name in kept})
