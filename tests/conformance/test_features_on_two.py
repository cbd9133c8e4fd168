"""Every feature on two processes: what the same module ends with on one, on the union of the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conformance.features_on_two import CASES, KINDS, RESUMED, evaluate, train
from tests.conformance.plain import read_log
from tests.helpers import assert_same
from tests.programs import run

pytestmark = pytest.mark.slow  # two launches of two processes, a minute each

REFUSED = {"raise", "backbone finetuning of a part"}
"""Errors on one process as well."""
UNSUPPORTED = {
    "64-true": "does not support `Fabric(..., precision='64-true')`. Choose a different precision",
    "SWA": "['StochasticWeightAveraging'] cannot follow sharded parameters",
    "EMA": "['EMAWeightAveraging'] cannot follow sharded parameters",
    "backbone finetuning": "['GroupBackboneFinetuning'] cannot follow sharded parameters",
    "rate": "['LearningRateFinder'] cannot follow sharded parameters",
    "backbone finetuning of a part": "['GroupBackboneFinetuning'] cannot follow sharded parameters",
}
"""What Lightning's strategy (of the precision) and ours say under FSDP2."""
NEAR = {"bf16-mixed": 5e-3, "bf16-true": 1e-2, "16-true": 2e-3, "16-mixed": 1e-3, "overflow": 1e-3}
"""Halves of a batch round differently; some weight moves by more than 0.2 in each of these runs."""
COURSE = ("global_step", "current_epoch", "hooks", "skipped", "scale")


@pytest.fixture(scope="module")
def ddp(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of all runs, and what each of two processes ends with; one launch."""
    return launched(tmp_path_factory.mktemp("ddp"), "ddp")


@pytest.fixture(scope="module")
def fsdp2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The same with sharded parameters."""
    return launched(tmp_path_factory.mktemp("fsdp2"), "fsdp2")


def launched(folder: Path, strategy: str) -> tuple[Path, list[dict[str, Any]]]:
    run("tests.conformance.features_on_two", str(folder), strategy, world=2)
    return folder, [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture
def two_processes(kind: str, request: pytest.FixtureRequest) -> tuple[Path, list[dict[str, Any]]]:
    found: tuple[Path, list[dict[str, Any]]] = request.getfixturevalue(kind.split("-")[0])
    return found


def of(two_processes: tuple[Path, list[dict[str, Any]]], label: str) -> list[dict[str, Any]]:
    return [ended[label] for ended in two_processes[1]]


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.ckpt"))


LEFT_OUT = {*((kind, name) for kind in KINDS for name in REFUSED), *(("fsdp2", name) for name in UNSUPPORTED)}
WORKING = [(kind, name) for kind in KINDS for name in CASES if (kind, name) not in LEFT_OUT]


@pytest.mark.parametrize(("kind", "name"), WORKING)
def test_as_on_one_process(kind: str, name: str, two_processes: tuple[Path, list[dict[str, Any]]]) -> None:
    label = f"{kind}-{name}"
    first, second = of(two_processes, label)
    assert "error" not in first, first["error"]
    alone = train(CASES[name], kind, label)
    near = NEAR.get(name, 1e-5 if kind == "fsdp2" else 1e-8)
    assert_same(first["weights"], second["weights"])
    assert_same(first["weights"], alone["weights"], atol=near)
    for ended in (first, second):
        assert {key: ended[key] for key in COURSE} == {key: alone[key] for key in COURSE}
        assert ended["rates"] == [pytest.approx(rates) for rates in alone["rates"]]
    assert checkpoints(two_processes[0] / label) == checkpoints(Path(label))
    logged, expected = read_log(str(two_processes[0] / label)), read_log(label)
    assert set(logged) == set(expected)
    for key, rows in expected.items():
        assert [step for step, _ in logged[key]] == [step for step, _ in rows], key
        for (_, values), (_, wanted) in zip(logged[key], rows, strict=True):
            assert name in NEAR or sorted(values) == pytest.approx(sorted(wanted), abs=1e-4, rel=1e-4), key


@pytest.mark.parametrize("kind", KINDS)
def test_an_overflow_on_one_process_halves_the_scale_of_both(
    kind: str, two_processes: tuple[Path, list[dict[str, Any]]]
) -> None:
    assert [ended["scale"] for ended in of(two_processes, f"{kind}-overflow")] == [2.0**7, 2.0**7]
    assert [ended["skipped"] for ended in of(two_processes, f"{kind}-skip")] == [1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_task_is_named_on_both(kind: str, two_processes: tuple[Path, list[dict[str, Any]]]) -> None:
    for ended in of(two_processes, f"{kind}-raise"):
        assert ended["error"].startswith("NonFiniteError: Update 3: ")
        assert "the loss or the gradient of ['kind'] is not finite" in ended["error"]


@pytest.mark.parametrize("kind", ["ddp-uncertainty", "ddp-UPGrad"])
def test_a_group_that_is_partly_backbone(kind: str, two_processes: tuple[Path, list[dict[str, Any]]]) -> None:
    for ended in of(two_processes, f"{kind}-backbone finetuning of a part"):
        assert "expected groups that are part of it or not, found ['all" in ended["error"]


@pytest.mark.parametrize("kind", ["fsdp2"])
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_sharded_parameters_do_not_allow(
    kind: str, name: str, two_processes: tuple[Path, list[dict[str, Any]]]
) -> None:
    for ended in of(two_processes, f"{kind}-{name}"):
        assert UNSUPPORTED[name] in ended["error"]


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation(kind: str, two_processes: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = of(two_processes, f"{kind}-evaluated")
    alone = evaluate(kind)
    for stage in ("validate", "test"):
        for ended in (first, second):
            assert ended[stage] == [pytest.approx(metrics, abs=1e-5) for metrics in alone[stage]]
    for rank, ended in enumerate((first, second)):
        for batch, rows in zip(ended["predict"], alone["predict"], strict=True):
            torch.testing.assert_close(batch["number"], rows["number"][rank::2])
            torch.testing.assert_close(batch["vector"], rows["vector"][rank::2])
            torch.testing.assert_close(batch["kind"]["probability"], rows["kind"]["probability"][rank::2])


def _of_balancer(rates: dict[str, float], found: float) -> dict[str, float]:
    return {"balancer": 10 * found} if "balancer" in rates else {}


@pytest.mark.parametrize("kind", ["ddp-uncertainty", "ddp-UPGrad"])
def test_a_learning_rate_finder(kind: str, two_processes: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = of(two_processes, f"{kind}-rate")
    assert "error" not in first, first["error"]
    assert first == second  # Lightning takes the losses of the first process, which are of its own rows
    found, rates = first["found"], first["rates"]
    assert 1e-5 < found == first["tuned"] < 1
    assert rates == pytest.approx({**dict.fromkeys(rates, found), "kind": 100 * found, **_of_balancer(rates, found)})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", RESUMED, ids=RESUMED.get)
def test_resume(kind: str, batch: int, two_processes: tuple[Path, list[dict[str, Any]]]) -> None:
    """Bit for bit, on both processes."""
    first, second = of(two_processes, f"{kind}-{batch}")
    for ended in (first, second):
        assert "error" not in ended, ended["error"]
        assert ended["resumed"]["global_step"] == ended["whole"]["global_step"] == 6
        assert_same(ended["resumed"]["weights"], ended["whole"]["weights"])
        assert_same(ended["whole"]["weights"], first["whole"]["weights"])


@pytest.mark.parametrize("kind", KINDS)
def test_other_groups_than_the_checkpoints(kind: str, two_processes: tuple[Path, list[dict[str, Any]]]) -> None:
    for ended in of(two_processes, f"{kind}-regrouped"):
        assert "The optimizer groups changed between save and load" in ended["error"]
