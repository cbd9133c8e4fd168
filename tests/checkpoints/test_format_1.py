"""Checkpoints of the first format, kept from before it had a number, still load, predict, resume and fine-tune."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch
from torch import Tensor, nn

from mtl_lightning import MultiTaskModule
from mtl_lightning.data import SyntheticRegression, TableData
from tests.checkpoints.format_1.cases import (
    CASES,
    FOLDER,
    OF_TABLES,
    lines,
    make_module,
    make_trainer,
    predictions,
    tensors_of,
)
from tests.cli import only, run
from tests.contracts import architecture_cases, balancer_cases

NAMES = json.loads((FOLDER / "names.json").read_text())
OURS = {str(case): case for case in balancer_cases.CASES if case.ours}
ARCHITECTURES = {str(pair.id): pair.values for pair in architecture_cases.ONE_OF_EACH}
ATOL = 1e-6  # another processor may round otherwise; on that which wrote them it is 0


@pytest.fixture(autouse=True)
def _tables(tmp_path: Path) -> None:
    """The tables of the cases lie where the runs look for them: in the current folder."""
    for file in ("train.csv", "val.csv", "train.parquet"):
        shutil.copy(FOLDER / file, tmp_path)


def checkpoint(name: str) -> str:
    return str(FOLDER / f"{name}.ckpt")


def expected(name: str) -> Any:
    return torch.load(FOLDER / f"{name}.expected", weights_only=True)


def assert_alike(found: Any, stored: Any) -> None:
    """Compare nested tensors; what is no tensor has to be equal. What foreign modules remember is saved wrapped now."""
    if isinstance(found, dict) and [*found] in (["list"], ["tuple"]):
        (found,) = found.values()
    if isinstance(stored, dict):
        assert [*found] == [*stored] or ({*found} > {*stored} and any(name[:1] == "_" for name in stored))
        for name, value in stored.items():
            assert_alike(found[name], value)
    elif isinstance(stored, list | tuple):
        for value, other in zip(found, stored, strict=True):
            assert_alike(value, other)
    elif isinstance(stored, Tensor):
        torch.testing.assert_close(found, stored, rtol=0, atol=ATOL, equal_nan=True)
    else:
        assert found == stored


# --------------------------------------------------------------------------------------------------- whole checkpoints
def test_the_checkpoints_hold_what_they_are_kept_for() -> None:
    parts = {name: torch.load(checkpoint(name), weights_only=True)["mtl_lightning"] for name in CASES}
    assert all("format" not in part for part in parts.values())
    assert {name for name, part in parts.items() if part["processes"][0]["window"]} == {"uncertainty", "streamed"}
    assert {name for name, part in parts.items() if part["processes"][0]["epoch_losses"]} == {
        "dwa",
        "torchjd_scalarizer",
    }
    assert parts["uncertainty"]["processes"][0]["plateau_epochs"]["y1"] > 0
    assert len(parts["two_processes"]["processes"]) == 2


@pytest.mark.parametrize("name", CASES)
def test_it_loads_and_predicts(name: str) -> None:
    module = MultiTaskModule.load_from_checkpoint(checkpoint(name))
    found = tensors_of(predictions(module, CASES[name].data()))
    stored = tensors_of(expected(name)["predictions"])
    for ours, theirs in zip(found, stored, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=ATOL)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.resumes])
def test_a_resumed_run_ends_with_the_same_weights(name: str) -> None:
    case = CASES[name]
    data: Any = case.data()
    module = make_module(case, data, seed=99)
    make_trainer(case).fit(module, datamodule=data, ckpt_path=checkpoint(name))
    found, stored = dict(module.state_dict()), dict(expected(name)["end"])
    statistics = {key: value.to(found[key].dtype) for key, value in stored.items() if ".target_" in key}  # now float64
    assert_alike(found, {**stored, **statistics})


def test_the_state_of_two_processes_is_not_that_of_one() -> None:
    case = CASES["two_processes"]
    data = lines(batch_size=16)
    with pytest.warns(UserWarning, match="random states of 2 processes, found 1"):
        make_trainer(case).fit(make_module(case, data), datamodule=data, ckpt_path=checkpoint("two_processes"))


def test_fine_tuning_goes_on_with_the_optimizers_of_the_tasks_that_stay() -> None:
    path = checkpoint("uncertainty")
    data = lines(tasks={"y3": None})
    module = MultiTaskModule.load_from_checkpoint(path, strict=False, tasks=data.tasks, reads=None, schedulers=None)
    weights = torch.load(path, weights_only=True)["state_dict"]
    kept = [name for name in module.state_dict() if name in weights and "heads.y1" in name]
    assert kept
    assert all(torch.equal(module.state_dict()[name], weights[name]) for name in kept)
    module.restore_optimizers(path)
    trainer = make_trainer(CASES["uncertainty"], max_epochs=1, accumulate_grad_batches=1)
    trainer.fit(module, datamodule=data)
    (adam,) = [group for group in trainer.optimizers[0].param_groups if group["lr"] == 0.02]
    (steps,) = {int(trainer.optimizers[0].state[parameter]["step"]) for parameter in adam["params"]}
    assert steps == 6 + 8  # updates before and since


# ------------------------------------------------------------------------------------------------------------ its data
@pytest.mark.parametrize("name", OF_TABLES)
def test_a_datamodule_is_made_from_it(name: str) -> None:
    data = TableData.from_checkpoint(checkpoint(name), train="gone.csv")  # nothing is fitted again
    assert data.schema == torch.load(checkpoint(name), weights_only=True)["mtl_lightning"]["schema"]
    assert [*data.tasks] == ["price", "sold", "kind"]
    assert SyntheticRegression.from_checkpoint(checkpoint("dwa")).sizes["train"] == 60


def test_the_command_line_predicts_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Path("data.yaml").write_text(
        "class_path: TableData\ninit_args: {train: gone.csv, predict: val.csv, targets: [price, sold, kind]}\n"
    )
    Path("model.yaml").write_text(
        "architecture: {class_path: SharedBottom, init_args: {encoder: {class_path: TabularEncoder, "
        "init_args: {hidden: [6]}}}}\nbalancer: {class_path: UncertaintyWeighting}\n"
    )
    options = ("--data=data.yaml", "--model=model.yaml", "--trainer.logger=false", "--trainer.accelerator=cpu")
    run(monkeypatch, "predict", *options, f"--ckpt_path={checkpoint('table')}")
    found = parquet.read_table(only(tmp_path, "predictions*.parquet"))
    price = torch.tensor(found.column("price").to_pylist())
    stored = torch.cat([batch["price"] for batch in expected("table")["predictions"]])
    torch.testing.assert_close(price, stored, rtol=0, atol=ATOL)


# --------------------------------------------------------------------------------------------------------------- names
def test_every_public_name_is_still_there() -> None:
    gone = []
    for name in NAMES["public"]:
        try:
            resolve_name(name)
        except (AttributeError, ImportError):  # noqa: PERF203  # all of them are named at once
            gone.append(name)
    assert not gone


def load_all(made: nn.Module, stored: dict[str, Any]) -> None:
    """Load a state with these names and shapes, and find each of its tensors again, whatever its name is today."""
    state: dict[str, Any] = {}
    now = made.state_dict(keep_vars=True)
    names = {id(tensor): name for name, tensor in now.items()}  # one of each parameter, which may have several
    for name, value in stored.items():
        number = [*stored].index(names.get(id(now.get(name)), name))
        if isinstance(value, str):
            state[name] = ast.literal_eval(value)
        else:
            shape, dtype = value
            state[name] = torch.full(shape, 1 + number % 100).to(resolve_name(dtype))
    made.load_state_dict(state)
    found = [value for value in made.state_dict().values() if isinstance(value, Tensor)]
    for name, value in state.items():
        if isinstance(value, Tensor):
            assert any(value.shape == other.shape and torch.equal(value, other) for other in found), name


@pytest.mark.parametrize("name", NAMES["balancers"])
def test_the_state_of_a_balancer_is_loaded(name: str) -> None:
    load_all(OURS[name].make(3), NAMES["balancers"][name])


@pytest.mark.parametrize("name", NAMES["architectures"])
def test_the_state_of_an_architecture_is_loaded(name: str) -> None:
    factory, spec = ARCHITECTURES[name]
    load_all(factory(spec, architecture_cases.TASKS), NAMES["architectures"][name])
