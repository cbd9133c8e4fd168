"""What a checkpoint cannot rebuild is said when it is first written, and asked for when it is read."""

from __future__ import annotations

import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import SharedBottom
from mtl_lightning.core.checkpoint.checkpoint import data_of
from mtl_lightning.errors import CheckpointError, MtlLightningWarning
from mtl_lightning.tasks import Regression
from mtl_lightning.types import Likelihood, TargetSpec
from tests.cli import run
from tests.core.saved import BATCHES, PATH, assert_alike, single, trained
from tests.data.test_base import Houses
from tests.helpers import TinyData, fit, make_batches, make_module


class Bare(nn.Module):
    """An encoder as many users write them: no types."""

    def __init__(self, act=nn.ReLU, size=4):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, size), act())

    def forward(self, inputs: Tensor) -> Any:
        return self.layers(inputs)


class Typed(Bare):
    """The same encoder with a type."""

    def __init__(self, act: type[nn.Module] = nn.ReLU, size: int = 4) -> None:
        super().__init__(act, size)  # type: ignore[no-untyped-call]  # as many users write


class Keywords(Bare):
    """An encoder that takes whatever it is given."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]  # as many users write


class Small(Regression):
    """A task whose constructor does not say what a spec is."""

    def __init__(self, spec, **options: Any) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        super().__init__(spec, **options)


def cubic(output, target):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    return (output - target).abs() ** 3


def descent(parameters: Any):  # type: ignore[no-untyped-def]  # noqa: ANN201
    return SGD(parameters, lr=0.1)


def line(size: tuple[int, ...], outputs: int):  # type: ignore[no-untyped-def]  # noqa: ANN201
    return nn.Linear(size[0], outputs)


def encoder(made: Any) -> MultiTaskModule:
    return make_module(architecture=partial(SharedBottom, encoder=made))


def test_an_argument_without_a_type_is_said_at_the_first_save_and_asked_for() -> None:
    module = encoder(partial(Bare, act=nn.GELU))
    with pytest.warns(
        MtlLightningWarning, match=r"will not hold `architecture` \(`architecture\.encoder\.act`: expected"
    ):
        trained(module, BATCHES)
    assert list(module.by_code) == ["architecture"]
    with pytest.raises(CheckpointError, match=r"cannot hold: `architecture` \(.*\(path, architecture=\.\.\.\)"):
        MultiTaskModule.load_from_checkpoint(PATH)
    again = partial(SharedBottom, encoder=partial(Bare, act=nn.GELU))
    assert_alike(MultiTaskModule.load_from_checkpoint(PATH, architecture=again), module)


def test_it_is_said_once() -> None:
    module = encoder(partial(Bare, act=nn.GELU))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(module, BATCHES, precision="32-true", enable_checkpointing=False)
        trainer.save_checkpoint("a.ckpt")
        trainer.save_checkpoint("b.ckpt")
    assert len([w for w in caught if issubclass(w.category, MtlLightningWarning)]) == 1


@pytest.mark.parametrize(
    "made", [Bare, partial(Bare, size=3), partial(Typed, act=nn.GELU), partial(Keywords, size=3)], ids=str
)
def test_plain_arguments_and_typed_ones_come_back(made: Any) -> None:
    module = trained(encoder(made), BATCHES)
    assert module.by_code == {}
    assert_alike(MultiTaskModule.load_from_checkpoint(PATH, trusted=["tests"]), module)


def test_whatever_is_given_to_keywords_must_be_plain() -> None:
    with pytest.warns(MtlLightningWarning, match=r"architecture\.encoder\.act"):
        module = trained(encoder(partial(Keywords, act=nn.GELU)), BATCHES)
    assert list(module.by_code) == ["architecture"]


def test_a_subclass_that_leaves_types_out_is_read_by_its_bases() -> None:
    batches = single(make_batches(3, tasks=["number"]))
    module = trained(make_module(tasks={"number": Small(TargetSpec(units="m"))}), batches)
    assert module.by_code == {}
    loaded = MultiTaskModule.load_from_checkpoint(PATH, trusted=["tests"])
    assert_alike(loaded, module)
    assert loaded.tasks["number"].spec == TargetSpec(units="m")


def test_functions_need_trust_and_no_annotations() -> None:
    tasks = {"number": Regression(TargetSpec(), loss=cubic, likelihood=Likelihood(1.0, 1.0, "log_scale"))}
    module = make_module(tasks=tasks, optimizers={"default": descent}, heads={"default": line})
    trained(module, single(make_batches(3, tasks=["number"])))
    assert module.by_code == {}
    with pytest.raises(CheckpointError, match=r"trusted=\['tests\.core\.checkpoint\.test_proven'\]"):
        MultiTaskModule.load_from_checkpoint(PATH)
    loaded = MultiTaskModule.load_from_checkpoint(PATH, trusted=["tests.core.checkpoint.test_proven"])
    assert_alike(loaded, module)
    made: Any = loaded.configure_optimizers()
    assert isinstance(made, Optimizer)


def test_a_failure_to_rebuild_says_which_argument_to_pass() -> None:
    module = trained(make_module(architecture=partial(SharedBottom, encoder=Bare), heads={"default": line}), BATCHES)
    with pytest.raises(
        CheckpointError, match=r"Pass again: load_from_checkpoint\(path, architecture=\.\.\., heads=\.\.\.\)"
    ):
        MultiTaskModule.load_from_checkpoint(PATH)
    with pytest.raises(CheckpointError, match=r"`heads\..*\nPass again: load_from_checkpoint\(path, heads=\.\.\.\)"):
        MultiTaskModule.load_from_checkpoint(PATH, architecture=partial(SharedBottom, encoder=Bare))
    again: Any = {"architecture": partial(SharedBottom, encoder=Bare), "heads": {"default": line}}
    assert_alike(MultiTaskModule.load_from_checkpoint(PATH, **again), module)


def test_a_constructor_that_has_changed_since(monkeypatch: pytest.MonkeyPatch) -> None:
    trained(encoder(partial(Bare, size=3)), BATCHES)

    def changed(self: Any, width: int = 3) -> None:
        raise AssertionError("never called")

    monkeypatch.setattr(Bare, "__init__", changed)
    with pytest.raises(
        CheckpointError,
        match=r"`architecture\.encoder`: .*Bare, found \['size'\].*\nPass again: .*\(path, architecture=",
    ):
        MultiTaskModule.load_from_checkpoint(PATH, trusted=["tests"])


def test_a_class_of_a_script_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    mine: Any = type("Mine", (Bare,), {"__module__": "__main__", "__qualname__": "Mine"})
    monkeypatch.setattr(sys.modules["__main__"], "Mine", mine, raising=False)
    with pytest.warns(MtlLightningWarning, match="of a script or notebook"):
        module = trained(encoder(mine), BATCHES)
    assert list(module.by_code) == ["architecture"]
    loaded = MultiTaskModule.load_from_checkpoint(PATH, architecture=partial(SharedBottom, encoder=mine))
    assert_alike(loaded, module)


def test_a_datamodule_says_so_as_well(tmp_path: Path) -> None:
    data, path = Houses(root=tmp_path, tasks={"price": lambda spec: Regression(spec, loss="l1")}), tmp_path / "a.ckpt"
    torch.save({"mtl_lightning": data_of(data)}, path)
    with pytest.raises(
        CheckpointError, match=r"cannot hold: `tasks` \(.*<lambda>.*from_checkpoint\(path, tasks=\.\.\.\)"
    ):
        Houses.from_checkpoint(path)
    assert list(Houses.from_checkpoint(path, tasks={"kind": None}).tasks) == ["price"]


def test_a_state_that_is_not_a_parts_is_told_in_a_sentence() -> None:
    data = TinyData()
    trained(make_module(tasks=data.tasks), data)
    saved = torch.load(PATH, weights_only=True)
    states, optimizers = saved["mtl_lightning"]["processes"], saved["optimizer_states"]
    saved["optimizer_states"] = [{}]
    torch.save(saved, PATH)
    with pytest.raises(CheckpointError, match=r"model\.ckpt: expected the states of the groups' optimizers"):
        make_module().restore_optimizers(PATH)
    saved["mtl_lightning"]["processes"] = [{**dict.fromkeys(state), "accumulation": {"window": []}} for state in states]
    torch.save({**saved, "optimizer_states": optimizers}, PATH)
    with pytest.raises(CheckpointError, match=r"model\.ckpt: expected what an interrupted run goes on with"):
        fit(make_module(tasks=data.tasks), data, ckpt_path=PATH, precision="32-true", max_epochs=2)


def test_yaml_takes_a_loss_that_does_not_say_what_it_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = f"{{class_path: Regression, init_args: {{loss: {__name__}.cubic, likelihood: [1.0, 1.0, log_scale]}}}}"
    data = f"{{class_path: SyntheticRegression, init_args: {{n: 20, batch_size: 10, tasks: {{y1: {loss}}}}}}}"
    model = "{architecture: {class_path: SharedBottom, init_args: {encoder: MLP}}}"
    Path("c.yaml").write_text(f"data: {data}\nmodel: {model}\ntrainer: {{max_epochs: 1, logger: false}}\n")
    run(monkeypatch, "fit", "--config", "c.yaml")
    (path,) = Path("checkpoints").glob("last.ckpt")
    assert MultiTaskModule.load_from_checkpoint(path, trusted=[__name__]).by_code == {}


def test_what_is_taken_for_what_it_means_comes_back() -> None:
    options: dict[str, Any] = {"heads": {"default": nn.Linear}, "groups": {"trunk": "architecture.*"}}
    module = trained(make_module(input_spec=(4,), **options), BATCHES)
    assert module.by_code == {}
    loaded = MultiTaskModule.load_from_checkpoint(PATH)
    assert_alike(loaded, module)
    assert list(loaded.groups) == list(module.groups)
