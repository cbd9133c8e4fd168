"""What every exported architecture, encoder and head promises; a new one is tested without editing this file."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning import architectures
from mtl_lightning.architectures import Architecture, Encoder, Head
from mtl_lightning.types import ConfigurationError, Features, TensorSpec

TASKS = ["a", "b", "c"]
ALL_SPECS = [TensorSpec((1, 16, 16)), TensorSpec((3, 13, 17)), TensorSpec((8,))]  # pictures, odd ones, vectors


def exported(base: type) -> list[Any]:
    values = [getattr(architectures, name) for name in architectures.__all__]
    return [v for v in values if inspect.isclass(v) and issubclass(v, base) and v is not base]


def accepted(cls: Any, sizes: Sequence[TensorSpec | tuple[int, ...]], *arguments: Any) -> list[Any]:
    """Return the (class, size) that go together; a part may refuse a size, with a ConfigurationError, but not all."""
    pairs = []
    for size in sizes:
        try:
            cls(size, *arguments)
        except ConfigurationError:
            continue
        shape = size.shape if isinstance(size, TensorSpec) else size
        pairs.append(pytest.param(cls, size, id=f"{cls.__name__}-{'x'.join(map(str, shape))}"))
    assert pairs, f"{cls.__name__} takes none of {sizes}"
    return pairs


ARCHITECTURES = [pair for cls in exported(Architecture) for pair in accepted(cls, ALL_SPECS, TASKS)]
ENCODERS = [pair for cls in exported(Encoder) for pair in accepted(cls, ALL_SPECS)]
HEADS = [pair for cls in exported(Head) for pair in accepted(cls, [(6,), (6, 4, 3)], 7)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def rows(spec: TensorSpec, number: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(number, *[n for n in spec.shape if n is not None], dtype=dtype)


def same(found: Features, expected: Features) -> bool:
    return {*found.per_task} == {*expected.per_task} and all(
        torch.equal(found.per_task[task], expected.per_task[task]) for task in expected.per_task
    )


def moved_by(features: Tensor, parameter: nn.Parameter) -> bool:
    """Whether the parameter gets a gradient other than zero from these features."""
    (gradient,) = torch.autograd.grad(features.square().sum(), parameter, retain_graph=True, allow_unused=True)
    return gradient is not None and bool(gradient.count_nonzero())


# -------------------------------------------------------------------------------------------------------- architectures
@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_features_have_the_declared_sizes(cls: Any, spec: TensorSpec, training: bool, number: int) -> None:
    architecture = cls(spec, TASKS).train(training)
    features = architecture(rows(spec, number), TASKS).per_task
    assert not architecture.final
    assert {*architecture.feature_sizes} == {*TASKS}
    assert {t: tuple(f.shape) for t, f in features.items()} == {
        t: (number, *size) for t, size in architecture.feature_sizes.items()
    }


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_evaluation_is_deterministic(cls: Any, spec: TensorSpec) -> None:
    architecture, inputs = cls(spec, TASKS).eval(), rows(spec, 3)
    assert same(architecture(inputs, TASKS), architecture(inputs, TASKS))


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_features_follow_the_inputs(cls: Any, spec: TensorSpec) -> None:
    architecture = cls(spec, TASKS).eval()
    features = architecture(rows(spec, 2), TASKS).per_task
    assert all(not torch.equal(f[0], f[1]) for f in features.values())


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_runs_in_float64(cls: Any, spec: TensorSpec) -> None:
    features = cls(spec, TASKS).double()(rows(spec, 2, torch.float64), TASKS)
    assert {f.dtype for f in features.per_task.values()} == {torch.float64}
    assert {value.dtype for value in features.aux.values()} <= {torch.float64}


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_state_survives_a_reload(cls: Any, spec: TensorSpec) -> None:
    saved, inputs = cls(spec, TASKS), rows(spec, 3)
    saved(inputs, TASKS)  # a forward in training mode may change buffers
    loaded = cls(spec, TASKS)
    assert not same(loaded.eval()(inputs, TASKS), saved.eval()(inputs, TASKS))
    loaded.load_state_dict(saved.state_dict())
    assert same(loaded(inputs, TASKS), saved(inputs, TASKS))


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_a_subset_of_tasks_gives_the_same_features(cls: Any, spec: TensorSpec) -> None:
    architecture, inputs = cls(spec, TASKS).eval(), rows(spec, 3)
    everything = architecture(inputs, TASKS).per_task
    for subset in (["b"], ["c", "a"]):
        features = architecture(inputs, subset).per_task
        assert {*subset} <= {*features} <= {*TASKS}
        assert all(torch.equal(features[task], everything[task]) for task in subset)


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_every_parameter_is_used(cls: Any, spec: TensorSpec) -> None:
    architecture = cls(spec, TASKS)
    features = architecture(rows(spec, 64), TASKS).per_task
    total = torch.cat([features[task].flatten() for task in TASKS])
    assert [name for name, p in architecture.named_parameters() if not moved_by(total, p)] == []


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_auxiliary_losses_are_scalars_on_the_graph(cls: Any, spec: TensorSpec) -> None:
    features = cls(spec, TASKS)(rows(spec, 3), TASKS)
    assert all(value.shape == () and value.requires_grad and value.isfinite() for value in features.aux.values())
    assert not {*features.aux} & {*TASKS}


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_roles_are_a_partition_of_known_tasks(cls: Any, spec: TensorSpec) -> None:
    architecture = cls(spec, TASKS)
    declared = architecture.task_parameters()
    own = [id(p) for parameters in declared.values() for p in parameters]
    assert {*declared} <= {*TASKS}
    assert len(own) == len({*own})
    assert {*own} <= {id(p) for p in architecture.parameters()}


@pytest.mark.parametrize(("cls", "spec"), ARCHITECTURES)
def test_a_role_is_what_the_gradients_say(cls: Any, spec: TensorSpec) -> None:
    """A task's own parameters serve that task alone, and a shared one serves at least two."""
    architecture = cls(spec, TASKS)
    features = architecture(rows(spec, 64), TASKS).per_task
    owners = {id(p): task for task, parameters in architecture.task_parameters().items() for p in parameters}
    for name, parameter in architecture.named_parameters():
        served = [task for task in TASKS if moved_by(features[task], parameter)]
        owner = owners.get(id(parameter))
        assert len(served) >= 2 if owner is None else served == [owner], (name, served)


# ------------------------------------------------------------------------------------------------------------- encoders
@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize(("cls", "spec"), ENCODERS)
def test_an_encoder_declares_its_features(cls: Any, spec: TensorSpec, number: int) -> None:
    encoder = cls(spec)
    assert encoder(rows(spec, number)).shape == (number, *encoder.out_features)


@pytest.mark.parametrize(("cls", "spec"), ENCODERS)
def test_the_stages_of_an_encoder_make_it_up(cls: Any, spec: TensorSpec) -> None:
    encoder, features = cls(spec).eval(), rows(spec, 3)
    expected = encoder(features)
    for stage in getattr(encoder, "stages", [encoder]):
        features = stage(features)
    assert torch.equal(features, expected)


@pytest.mark.parametrize(("cls", "spec"), ENCODERS)
def test_an_encoder_runs_in_float64_and_uses_every_parameter(cls: Any, spec: TensorSpec) -> None:
    encoder = cls(spec).double()
    features = encoder(rows(spec, 64, torch.float64))
    assert features.dtype == torch.float64
    assert [name for name, p in encoder.named_parameters() if not moved_by(features, p)] == []


@pytest.mark.parametrize(("cls", "spec"), [accepted(cls, ALL_SPECS)[0] for cls in exported(Encoder)])
def test_an_encoder_compiles(cls: Any, spec: TensorSpec) -> None:
    encoder, inputs = cls(spec).eval(), rows(spec, 4)
    compiled: Any = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), encoder(inputs))


# ---------------------------------------------------------------------------------------------------------------- heads
@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize(("cls", "size"), HEADS)
def test_a_head_keeps_the_axes_behind_the_features(cls: Any, size: tuple[int, ...], number: int) -> None:
    head = cls(size, 7)
    outputs = head(torch.randn(number, *size))
    assert outputs.shape == (number, 7, *size[1:])
    assert [name for name, p in head.named_parameters() if not moved_by(outputs, p)] == []


@pytest.mark.parametrize(("cls", "size"), HEADS)
def test_a_head_runs_in_float64(cls: Any, size: tuple[int, ...]) -> None:
    assert cls(size, 7).double()(torch.randn(2, *size, dtype=torch.float64)).dtype == torch.float64
