"""The network without a trainer: it runs, predicts in original units, and waits for sizes."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning import MultiTaskModule, Network
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.tasks import MulticlassClassification, Regression
from mtl_lightning.types import ConfigurationError, TargetSpec, TensorSpec
from tests.helpers import INPUTS, NETWORK, make_batches, make_module, make_tasks

DROPPING = partial(SharedBottom, encoder=partial(MLP, hidden=[8], dropout=0.5))
(BATCH,) = make_batches(1, rows=6)
X: Tensor = BATCH["inputs"].float()


def network(**options: Any) -> Network:
    torch.manual_seed(0)
    defaults = {"tasks": make_tasks(), "architecture": NETWORK, "input_spec": TensorSpec((INPUTS,))}
    return Network(**{**defaults, **options})


def test_a_network_is_the_modules_without_lightning() -> None:
    plain, module = network(balancer=UncertaintyWeighting), make_module(balancer=UncertaintyWeighting)
    assert isinstance(module, Network)
    assert not hasattr(plain, "trainer")
    module.load_state_dict(plain.state_dict())
    for name, output in plain(X).items():
        torch.testing.assert_close(output, module(X)[name], rtol=0, atol=0)
    assert plain.sigmas() == module.sigmas() == pytest.approx({"number": 1.0, "vector": 2**0.5, "kind": 1.0})
    assert list(plain.roles.tasks) == ["number", "vector", "kind"]


def test_it_trains_in_a_bare_loop() -> None:
    plain = network(balancer=UncertaintyWeighting)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    values = []
    for _ in range(50):
        outputs = plain(X)
        losses = [
            task.loss(outputs[name], BATCH["targets"][name]) / task.count(BATCH["targets"][name])
            for name, task in plain.tasks.items()
        ]
        objective = plain.balancer(torch.stack(losses).float())
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        values.append(objective.item())
    assert values[-1] < values[0] - 0.5


def test_predictions_are_in_original_units_and_probabilities() -> None:
    task = Regression(TargetSpec(), standardize=True)
    task.fit_target(torch.tensor([100.0, 300.0]))  # mean 200, standard deviation 100
    kind = MulticlassClassification(TargetSpec(classes=4))
    plain = network(tasks={"price": task, "kind": kind})
    found, outputs = plain.predict(X), plain(X)
    torch.testing.assert_close(found["price"], outputs["price"].squeeze(-1).detach() * task.target_scale + 200.0)
    assert not torch.equal(found["price"], outputs["price"].squeeze(-1))
    probabilities = found["kind"]["probability"]
    torch.testing.assert_close(probabilities, outputs["kind"].detach().softmax(1))
    assert found["kind"]["label"].tolist() == probabilities.argmax(1).tolist()


def test_predicting_evaluates_and_leaves_the_mode_as_it_was() -> None:
    plain = network(architecture=DROPPING)
    plain.heads["kind"].eval()  # a part that its user keeps frozen
    first, second = plain.predict(X), plain.predict(X)
    assert torch.equal(first["number"], second["number"])
    assert not first["number"].requires_grad
    assert plain.training
    assert plain.architecture.training
    assert not plain.heads["kind"].training
    assert not torch.equal(plain(X)["number"], plain(X)["number"])  # dropout is at work again


def test_a_whole_batch_will_do() -> None:
    plain = network()
    whole = plain.predict({"inputs": X, "targets": BATCH["targets"]})
    for name, value in plain.predict(X).items():
        assert torch.equal(torch.as_tensor(whole[name]), value) if isinstance(value, Tensor) else whole[name]


def test_predictions_of_a_half_precision_network_are_in_float32() -> None:
    plain = network().bfloat16()
    assert plain.predict(X.bfloat16())["number"].dtype == torch.float32


def test_a_network_without_sizes_waits_for_them() -> None:
    plain = network(input_spec=None)
    assert not plain.is_built
    with pytest.raises(ConfigurationError, match=r"expected an `input_spec`, found none\. .*`build\(input_spec\)`"):
        plain.predict(X)
    plain.build(TensorSpec((INPUTS,)))
    assert plain.predict(X)["number"].shape == (6,)


def test_a_layer_of_a_subclass_has_a_role_once_it_is_looked_for() -> None:
    class Wider(Network):
        def __init__(self) -> None:
            super().__init__(make_tasks(), NETWORK, TensorSpec((INPUTS,)))
            self.extra = nn.Linear(1, 1)

    wider = Wider()
    wider.find_roles()
    assert list(wider.roles.unknown) == ["extra.weight", "extra.bias"]


def test_a_trained_module_predicts_the_same_way() -> None:
    module = make_module()
    assert isinstance(module, MultiTaskModule)
    assert torch.equal(module.predict(X)["number"], module.predict_step({"inputs": X}, 0)["number"])


def test_the_files_of_the_network_run_without_lightning() -> None:
    """Executed from their files, with an import of Lightning made an error: what they import is as free of it."""
    program = (
        "import sys, types, importlib.util, pathlib\n"
        "root = pathlib.Path(importlib.util.find_spec('mtl_lightning').origin).parent\n"
        "for name in ('mtl_lightning', 'mtl_lightning.core'):\n"
        "    package = types.ModuleType(name)\n"
        "    package.__path__ = [str(root.joinpath(*name.split('.')[1:]))]\n"
        "    sys.modules[name] = package\n"
        "sys.modules['lightning'] = sys.modules['pytorch_lightning'] = None\n"
        "from mtl_lightning.core.network import Network\n"
        "from mtl_lightning.architectures import MLP, SharedBottom\n"
        "from mtl_lightning.tasks import Regression\n"
        "from mtl_lightning.types import TargetSpec, TensorSpec\n"
        "from functools import partial\n"
        "import torch\n"
        "net = Network({'y': Regression(TargetSpec())}, partial(SharedBottom, encoder=MLP), TensorSpec((3,)))\n"
        "print(tuple(net.predict(torch.zeros(5, 3))['y'].shape))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "(5,)\n", done.stderr


def test_a_prediction_of_some_tasks_computes_them_and_those_they_read() -> None:
    plain, ran = network(reads={"kind": ["number"]}), []
    for name, head in plain.heads.items():
        head.register_forward_hook(lambda *_, name=name: ran.append(name))
    found = plain.predict(X, tasks=["kind"])
    assert (list(found), ran) == (["kind"], ["number", "kind"])
    torch.testing.assert_close(found["kind"]["probability"], plain.predict(X)["kind"]["probability"], rtol=0, atol=0)
    with pytest.raises(ConfigurationError, match="Did you mean 'kind'"):
        plain.predict(X, tasks=["knd"])
