"""The README's commands for several processes: the program under torchrun."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent
SMALL = ["--data.init_args.sizes=[64,32,32]", "--data.init_args.batch_size=16", "--trainer.max_epochs=1"]


def readme_command() -> list[str]:
    """The arguments that the README gives to torchrun for one machine."""
    text = (ROOT / "README.md").read_text()
    (command,) = re.findall(r"^torchrun (--standalone --nproc-per-node=2 .*)$", text, flags=re.MULTILINE)
    return str(command).split()


CHANGES = {
    "as it stands": [],
    "a gradient balancer": ["--model.balancer=UPGrad"],
    "sharded": [
        "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy",
        *("--trainer.strategy.data_parallel_size=2", "--trainer.strategy.tensor_parallel_size=1"),
        "--trainer.strategy.save_distributed_checkpoint=false",
    ],
}
"""Options added to the command."""


@pytest.mark.parametrize(
    "change", [name if not added else pytest.param(name, marks=pytest.mark.slow) for name, added in CHANGES.items()]
)
def test_two_processes_train_from_the_command_line(change: str, tmp_path: Path) -> None:
    options = [*SMALL, *CHANGES[change], f"--trainer.default_root_dir={tmp_path}"]
    command = [*readme_command(), "--trainer.accelerator=cpu", *options]
    config = command.index("configs/multidigit.yaml")
    command[config] = str(ROOT / command[config])
    launcher = [sys.executable, "-m", "torch.distributed.run", *command]
    done = subprocess.run(launcher, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "distributed_backend=gloo" in done.stderr
    assert done.stdout.count("Test of epoch") == 1  # one table, by the first process
    (saved,) = tmp_path.rglob("epoch*.ckpt")
    checkpoint = torch.load(saved, weights_only=True)
    assert checkpoint["global_step"] == 4 / 2  # batches of 16 on each of two processes
