"""The benchmarks of compiling and of a GPU run, on the CPU, and say what they are of."""

from __future__ import annotations

import re
import shutil
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks import compiled, gpu
from benchmarks.loops import ours
from benchmarks.timing import TimedBatches
from benchmarks.workloads import Workload
from mtl_lightning import architectures
from mtl_lightning.architectures import MLP, MLPHead

TABLE = Workload((3,), 4, 2, partial(MLP, hidden=[5]), partial(MLPHead, hidden=[2]))


def test_every_workload_and_architecture_is_a_case() -> None:
    exported = {name for name in architectures.__all__ if name in compiled.cases()}
    assert {"SharedBottom", "MMoE", "PLE", "Product", "MTAN"} <= exported
    assert {"W1_T8", "W1_T32", "W2", "W3"} <= {*compiled.cases()}


@pytest.mark.parametrize("name", [name for name in compiled.cases() if not name.startswith("W")])
def test_every_case_trains(name: str) -> None:
    workload, options = compiled.cases()[name]
    batches = TimedBatches(workload.batches(), steps=1, warmup=1)
    ours(workload, batches, **options)
    assert batches.seconds > 0


def test_compiling_is_timed_and_counted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = ours

    def without_a_compiler(*arguments: Any, compile: Any = False, **options: Any) -> None:
        real(*arguments, compile={"backend": "eager"} if compile else False, **options)

    monkeypatch.setattr(compiled, "ours", without_a_compiler)
    monkeypatch.setattr(shutil, "which", lambda _: "g++")
    monkeypatch.setattr(compiled, "cases", lambda: {"tiny": (TABLE, {})})
    compiled.main(["tiny", "--rounds", "1", "--steps", "2"])
    row = r"^\| tiny \| \d+\.\d \| \d+\.\d{3} \(.*\) \| \d+\.\d \| 2 \| "
    assert re.search(row, capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_on_the_cpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gpu.CASES, "tiny", TABLE)
    gpu.main(["tiny", "--device", "cpu", "--rounds", "1", "--steps", "2", "--eager", "--methods", "MGDA", "UPGrad"])
    printed = capsys.readouterr().out
    assert "### tiny on the CPU, torch" in printed
    assert "no figures of a GPU" in printed
    names = re.findall(r"^\| (.*?) \| \d", printed, re.MULTILINE)
    assert names[:2] == [gpu.FLOOR, "equal weights"]
    assert names[-2:] == ["MGDA, torchjd", "UPGrad, torchjd"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match="expected a GPU, found none"):
        gpu.main([])
