"""What a module keeps in private attributes: read as plain data, put back, moved, or refused."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from mtl_lightning.balancing.torchjd import private_state
from mtl_lightning.types import ConfigurationError


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._counts = torch.tensor([1, 2])
        self.register_buffer("mean", torch.tensor([0.5]))


class Secretive(nn.Module):
    """Keeps state in every way that there is."""

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.rate = rate
        self.weights = torch.ones(2)
        self.public = nn.Parameter(torch.ones(2))
        self._w = nn.Parameter(torch.zeros(2))
        self._history: list[Any] = []
        self._optimizer: Adam | None = None
        self.inner = Inner()

    def learn(self, slope: Tensor) -> None:
        self._optimizer = self._optimizer or Adam([self._w], lr=self.rate)
        self._w.grad = slope.to(self._w)
        self._optimizer.step()
        self._history = [*self._history, (len(self._history), slope)]
        self.inner._counts += 1


def taught(steps: int) -> Secretive:
    module = Secretive()
    for step in range(steps):
        module.learn(torch.tensor([1.0, -0.5]) * (step + 1))
    return module


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_public_attributes_and_parameters_are_no_state() -> None:
    state = private_state.read(Secretive())
    assert set(state) == {"", "inner"}
    assert set(state[""]) == {"_w", "_history", "_optimizer"}
    assert set(state["inner"]) == {"_counts", "mean"}


def test_goes_on_from_plain_data() -> None:
    module, fresh = taught(3), Secretive()
    primed: list[bool] = []

    def prime() -> None:
        primed.append(True)
        fresh.learn(torch.ones(2))

    private_state.write(fresh, through_a_file(private_state.read(module)), torch.zeros(1), prime)
    assert primed == [True]
    for part in (module, fresh):
        part.learn(torch.tensor([0.3, 0.7]))
    assert torch.equal(fresh._w, module._w)
    assert [index for index, _ in fresh._history] == [0, 1, 2, 3]
    assert torch.equal(fresh.inner._counts, module.inner._counts)


def test_what_was_read_is_a_copy() -> None:
    module = taught(2)
    state = private_state.read(module)
    kept = copy.deepcopy(state)
    module.learn(torch.ones(2))
    assert torch.equal(state[""]["_w"], kept[""]["_w"])
    assert torch.equal(state["inner"]["_counts"], kept["inner"]["_counts"])


def test_goes_back_to_a_state_without_an_optimizer() -> None:
    module = taught(2)
    private_state.write(module, private_state.read(Secretive()), torch.zeros(1), lambda: None)
    assert module._optimizer is None
    assert module._history == []
    assert not module._w.count_nonzero()


def test_moves_numbers_but_not_counts_and_keeps_the_optimizers_parameter() -> None:
    module = taught(2)
    private_state.move(module, torch.zeros(1, dtype=torch.float64))
    assert module.weights.dtype == module._w.dtype == module._history[0][1].dtype == torch.float64
    assert module.inner._counts.dtype == torch.int64
    assert module.public.dtype == torch.float32  # the module tree's to move
    assert module._optimizer is not None
    assert module._optimizer.param_groups[0]["params"][0] is module._w
    assert module._optimizer.state[module._w]["exp_avg"].dtype == torch.float64
    module.learn(torch.ones(2))


def test_what_a_checkpoint_cannot_hold_is_refused() -> None:
    module = Secretive()
    module._history = [object()]
    with pytest.raises(ConfigurationError, match=r"Secretive\._history: expected state of tensors, .* found object"):
        private_state.read(module)
