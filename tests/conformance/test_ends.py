"""Programs of two processes end with status 0: no process group outlives the interpreter, to abort it at random."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.ends import WAYS
from tests.programs import ROOT, environments

CONFIG = """
trainer: {max_epochs: 1, accelerator: cpu, devices: 2, strategy: ddp, logger: false, enable_progress_bar: false}
model:
  architecture: {class_path: SharedBottom, init_args: {encoder: {class_path: MLP, init_args: {hidden: [4]}}}}
data: {class_path: SyntheticRegression, init_args: {n: 40, n_val: 20, n_test: 20, batch_size: 10}}
"""


@pytest.mark.parametrize("way", [way if way == "runs" else pytest.param(way, marks=pytest.mark.slow) for way in WAYS])
def test_a_python_program_leaves_no_group(way: str) -> None:
    command = [sys.executable, "-m", "tests.conformance.ends", way]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    children = [
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, **rank}, **pipes) for rank in environments(world=2)
    ]
    said = [child.communicate(timeout=120) for child in children]
    statuses = [child.returncode for child in children]
    assert all(out.endswith("group: False\n") for out, _ in said), said
    assert statuses[1] == WAYS[way], said[1]
    if way == "a failure":
        assert statuses[0] > 0, said[0]  # it was left alone, and says so
    else:
        assert statuses[0] == 0, said[0]


@pytest.mark.slow
def test_twenty_runs_of_the_command_line_end_with_0(tmp_path: Path) -> None:
    Path("config.yaml").write_text(CONFIG)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    program = [*launcher, "-m", "mtl_lightning"]
    for _ in range(20):
        for command in (["fit"], ["predict", "--ckpt_path=saved.ckpt"]):
            ran = [*program, *command, "--config=config.yaml"]
            done = subprocess.run(ran, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            for saved in tmp_path.rglob("epoch*.ckpt"):
                saved.replace("saved.ckpt")
