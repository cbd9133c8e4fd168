"""What every exported balancer promises; a new one is tested without editing this file."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning import balancing
from mtl_lightning.balancing import Balancer
from mtl_lightning.types import Likelihood
from tests.contracts.balancer_cases import with_permuted_draws

EXPORTED = [getattr(balancing, name) for name in balancing.__all__]
CLASSES = [
    cls for cls in EXPORTED if inspect.isclass(cls) and issubclass(cls, Balancer) and not inspect.isabstract(cls)
]
AFFINE = [cls for cls in CLASSES if cls(2).affine]
LIKELIHOODS = {
    "depth": Likelihood(1.0, 1.0, "log_scale"),
    "normal": Likelihood(0.5, 0.5, "log_var"),
    "label": Likelihood(1.0, 0.5, "log_var"),
}
HALVES = [torch.float16, torch.bfloat16]
every_class = pytest.mark.parametrize("cls", CLASSES, ids=[cls.__name__ for cls in CLASSES])
every_affine_class = pytest.mark.parametrize("cls", AFFINE, ids=[cls.__name__ for cls in AFFINE])


def losses_like(balancer: Balancer, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (0.2 + 3 * torch.rand(balancer.num_tasks, generator=generator)).to(dtype).requires_grad_()


def trained(cls: Any, tasks: int, steps: int = 5) -> Balancer:
    """A balancer some steps into training, the way core takes them: objective, step, after_update."""
    balancer: Balancer = cls(tasks)
    parameters = list(balancer.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1) if parameters else None
    for step in range(steps):
        losses = losses_like(balancer, seed=step)
        torch.autograd.backward(balancer(losses))
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        balancer.after_update(losses.detach)
    return balancer


def test_the_base_class_is_among_them() -> None:
    assert Balancer in EXPORTED


@pytest.mark.parametrize("tasks", [1, 3, 7])
@every_class
def test_works_from_the_number_of_tasks_alone(cls: Any, tasks: int) -> None:
    balancer: Balancer = cls(tasks)
    assert balancer.num_tasks == tasks
    objective = balancer(losses_like(balancer))
    assert objective.shape == ()
    assert objective.isfinite()


@every_class
def test_works_bound_to_likelihoods(cls: Any) -> None:
    balancer: Balancer = cls(3)
    balancer.bind(LIKELIHOODS)
    assert balancer(losses_like(balancer)).isfinite()
    sigmas = balancer.sigmas()
    assert sigmas is None or (sigmas.shape == (3,) and bool((sigmas > 0).all()) and not sigmas.requires_grad)


@every_class
def test_gradient_reaches_every_present_loss(cls: Any) -> None:
    balancer = trained(cls, 3)
    losses = losses_like(balancer)
    torch.autograd.backward(balancer(losses))
    assert losses.grad is not None
    assert losses.grad.isfinite().all()
    assert losses.grad.count_nonzero() == 3


@pytest.mark.parametrize("value", [0.0, 5.0, float("nan"), float("inf")])
@every_class
def test_an_absent_task_counts_for_nothing(cls: Any, value: float) -> None:
    balancer = trained(cls, 3)
    present = torch.tensor([True, False, True])
    zeroed, filled = (torch.tensor([1.5, absent, 0.7], requires_grad=True) for absent in (0.0, value))
    expected, found = balancer.objective(zeroed, present), balancer.objective(filled, present)
    assert torch.equal(found, expected)
    torch.autograd.backward(found)
    assert filled.grad is not None
    assert filled.grad[1] == 0
    assert filled.grad.isfinite().all()
    for parameter in balancer.owned().get(1, []):
        assert parameter.grad is None or not parameter.grad.count_nonzero()


@every_class
def test_nothing_present_gives_a_constant(cls: Any) -> None:
    balancer = trained(cls, 2)
    losses = losses_like(balancer)
    objective = balancer.objective(losses, torch.zeros(2, dtype=torch.bool))
    assert objective == 0
    torch.autograd.backward(objective)
    assert losses.grad is not None
    assert not losses.grad.count_nonzero()


@every_affine_class
def test_a_promise_to_be_affine_is_kept(cls: Any) -> None:
    balancer = trained(cls, 4).double()
    present = torch.tensor([True, True, False, True])
    x, y = (losses_like(balancer, seed=seed, dtype=torch.float64).detach() for seed in (1, 2))
    mixed = [balancer.objective(t * x + (1 - t) * y, present) for t in (-0.5, 0.3, 2.0)]
    expected = [t * balancer.objective(x, present) + (1 - t) * balancer.objective(y, present) for t in (-0.5, 0.3, 2.0)]
    torch.testing.assert_close(mixed, expected, rtol=1e-12, atol=1e-12)


@every_class
def test_the_order_of_the_tasks_does_not_matter(cls: Any) -> None:
    order = torch.tensor([2, 0, 3, 1])
    torch.manual_seed(0)
    plain = cls(4)
    torch.manual_seed(0)
    permuted = with_permuted_draws(cls(4), order)
    losses = losses_like(plain)
    other = losses.detach()[order].requires_grad_()
    first, second = plain(losses), permuted(other)
    torch.testing.assert_close(first, second)
    torch.autograd.backward(first)
    torch.autograd.backward(second)
    assert losses.grad is not None
    torch.testing.assert_close(losses.grad[order], other.grad)


@pytest.mark.parametrize("dtype", HALVES)
@every_class
def test_state_is_never_below_float32(cls: Any, dtype: torch.dtype) -> None:
    network = torch.nn.ModuleDict({"balancer": trained(cls, 3)})
    expected = network["balancer"](losses_like(cls(3)))
    network.to(dtype)
    found = network["balancer"](losses_like(cls(3)))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert all(p.dtype == torch.float32 for p in network.parameters())


@every_class
def test_float64_throughout(cls: Any) -> None:
    balancer = trained(cls, 3).double()
    assert all(p.dtype == torch.float64 for p in balancer.parameters())
    assert balancer(losses_like(balancer, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), ()])
@every_class
def test_another_shape_of_losses_is_refused(cls: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Expected losses of shape \(3,\), found"):
        cls(3)(torch.ones(shape))


@every_class
def test_no_tasks_are_refused(cls: Any) -> None:
    with pytest.raises(ValueError, match=r"`num_tasks`: expected .* at least 1, found 0"):
        cls(0)


@every_class
def test_reloading_after_some_steps_gives_the_same(cls: Any) -> None:
    balancer = trained(cls, 3)
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    fresh: Balancer = cls(3)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    losses = losses_like(balancer, seed=9)
    assert fresh.affine == balancer.affine
    assert torch.equal(fresh(losses), balancer(losses))


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))], ids=["copy", "pickle"]
)
@every_class
def test_copies_are_equal_and_apart(cls: Any, clone: Any) -> None:
    balancer = trained(cls, 3)
    losses = losses_like(balancer, seed=9)
    before = balancer(losses)
    other = clone(balancer)
    assert torch.equal(other(losses), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    assert torch.equal(balancer(losses), before)


@every_class
def test_owned_parameters_are_all_of_them_once(cls: Any) -> None:
    balancer: Balancer = cls(3)
    owned = [id(parameter) for index in range(3) for parameter in balancer.owned().get(index, [])]
    assert set(balancer.owned()) <= {0, 1, 2}
    assert sorted(owned) == sorted(id(parameter) for parameter in balancer.parameters())


@every_class
def test_an_update_waits_for_nothing(cls: Any) -> None:
    """On the meta device any look at a value, which on a GPU would wait for it, is an error."""
    balancer = trained(cls, 3).to("meta")
    losses = losses_like(balancer).detach().to("meta").requires_grad_()
    torch.autograd.backward(balancer.objective(losses, torch.ones(3, dtype=torch.bool, device="meta")))
    balancer.after_update(losses.detach)
    assert losses.grad is not None
