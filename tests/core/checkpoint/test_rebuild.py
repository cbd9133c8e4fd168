"""What a checkpoint cannot say must be passed again: instances, lambdas, subclasses, changes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.balancing import FixedWeighting, UncertaintyWeighting
from mtl_lightning.errors import CheckpointError
from mtl_lightning.types import ConfigurationError, TensorSpec
from tests.core.saved import BATCHES, PATH, Doubling, assert_alike, single, trained
from tests.helpers import (
    make_batches,
    make_module,
    make_tasks,
)


class Named(MultiTaskModule):
    """A user's subclass with an argument of its own."""

    def __init__(self, *args: Any, title: str, scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title, self.scale = title, scale


class Signed(MultiTaskModule):
    """A user's subclass that fixes some arguments."""

    def __init__(self, tasks: dict[str, Any], input_spec: TensorSpec | None = None, width: int = 3) -> None:
        super().__init__(tasks, partial(SharedBottom, encoder=partial(MLP, hidden=[width])), input_spec)


# ------------------------------------------------------------------------------------------------------------ by code
def test_an_instance_must_be_passed_again() -> None:
    torch.manual_seed(0)
    trained(make_module(architecture=Doubling()), BATCHES)
    with pytest.raises(
        ConfigurationError, match=r"`architecture` \(.*found an instance: Doubling.*\(path, architecture=\.\.\.\)"
    ):
        MultiTaskModule.load_from_checkpoint(PATH)
    network = Doubling()
    loaded = MultiTaskModule.load_from_checkpoint(PATH, architecture=network)
    saved = torch.load(PATH, weights_only=True)["state_dict"]
    assert torch.equal(network.layer.weight, saved["architecture.network.layer.weight"])
    assert loaded.architecture.network is network


def test_all_that_must_be_passed_again_is_named_at_once() -> None:
    sizes = (6, 1)
    module = make_module(
        balancer=lambda n: UncertaintyWeighting(n),
        heads={"number": lambda *_: nn.Linear(*sizes)},
        architecture=Doubling,
    )
    module = make_module(balancer=lambda n: FixedWeighting(n), heads={"number": lambda *_: nn.Linear(*sizes)})
    trained(module, BATCHES)
    with pytest.raises(ConfigurationError, match=r"`balancer` \(.*`heads` \(.*\(path, balancer=\.\.\., heads=\.\.\.\)"):
        MultiTaskModule.load_from_checkpoint(PATH)
    with pytest.raises(ConfigurationError, match=r"cannot hold: `balancer` \("):
        MultiTaskModule.load_from_checkpoint(PATH, heads={"number": lambda *_: nn.Linear(*sizes)})
    loaded = MultiTaskModule.load_from_checkpoint(
        PATH, heads={"number": lambda *_: nn.Linear(*sizes)}, balancer=FixedWeighting
    )
    assert_alike(loaded, module)


def test_a_users_class_is_no_instance() -> None:
    module = trained(make_module(architecture=Doubling), BATCHES)
    with pytest.raises(CheckpointError, match=r"has not been imported.*: trusted=\['tests\.core\.saved'\]"):
        MultiTaskModule.load_from_checkpoint(PATH)
    for names in (["tests"], ["tests.core.saved"], "tests.core", ["tests.core.saved.Doubling"]):
        assert_alike(MultiTaskModule.load_from_checkpoint(PATH, trusted=names), module)
    assert_alike(MultiTaskModule.load_from_checkpoint(PATH, architecture=Doubling), module)


def test_a_users_class_with_arguments() -> None:
    module = trained(make_module(architecture=partial(SharedBottom, encoder=partial(Doubling, size=4))), BATCHES)
    assert_alike(MultiTaskModule.load_from_checkpoint(PATH, trusted=["tests"]), module)


def test_a_local_class_must_be_passed_again() -> None:
    class Local(Doubling):
        pass

    module = trained(make_module(architecture=Local), BATCHES)
    with pytest.raises(ConfigurationError, match=r"`architecture` \(.*at the top of a module"):
        MultiTaskModule.load_from_checkpoint(PATH)
    assert_alike(MultiTaskModule.load_from_checkpoint(PATH, architecture=Local), module)


# ----------------------------------------------------------------------------------------------------------- subclasses
def test_a_subclass_with_an_argument_of_its_own() -> None:
    module = trained(make_module(Named, title="a run", scale=2.0), BATCHES)
    loaded = Named.load_from_checkpoint(PATH)
    assert (type(loaded), loaded.title, loaded.scale) == (Named, "a run", 2.0)
    assert_alike(loaded, module)
    assert Named.load_from_checkpoint(PATH, title="another").title == "another"


def test_a_subclass_with_positional_arguments() -> None:
    module = Named(make_tasks(), SharedBottom, TensorSpec((4,)), UncertaintyWeighting, title="a run")
    trained(module, BATCHES)
    loaded = Named.load_from_checkpoint(PATH)
    assert_alike(loaded, module)
    assert loaded.title == "a run"


def test_a_subclass_with_a_signature_of_its_own() -> None:
    module = trained(Signed(make_tasks("number"), TensorSpec((4,)), width=5), single(make_batches(3, tasks=["number"])))
    loaded = Signed.load_from_checkpoint(PATH)
    assert loaded.config["width"] == 5
    assert_alike(loaded, module)
    with pytest.raises(ConfigurationError, match="cannot be rebuilt"):
        MultiTaskModule.load_from_checkpoint(PATH)


# ------------------------------------------------------------------------------------------------------------ overrides
def test_arguments_can_be_changed() -> None:
    trained(make_module(), BATCHES)
    loaded = MultiTaskModule.load_from_checkpoint(
        PATH, optimizers={"default": partial(SGD, lr=0.5)}, on_nonfinite="skip"
    )
    composite: Any = loaded.configure_optimizers()
    assert composite.param_groups[0]["lr"] == 0.5
    assert loaded.updates.on_nonfinite == "skip"


def test_other_weights_are_refused_unless_strict_is_false() -> None:
    trained(make_module(), BATCHES)
    with pytest.raises(RuntimeError, match=r"Missing key.*balancer\.log_vars\.0"):
        MultiTaskModule.load_from_checkpoint(PATH, balancer=UncertaintyWeighting)
    loaded = MultiTaskModule.load_from_checkpoint(PATH, balancer=UncertaintyWeighting, strict=False)
    assert loaded.sigmas() == {"number": 1.0, "vector": pytest.approx(2**0.5), "kind": 1.0}


def test_an_unknown_argument() -> None:
    trained(make_module(), BATCHES)
    with pytest.raises(ConfigurationError, match=r"(?s)cannot be rebuilt: .*optimisers"):
        MultiTaskModule.load_from_checkpoint(PATH, optimisers={"default": Adam})
