"""Run as a program on two processes: a block of the benchmark of processes, of the raw loop and of ours."""

from __future__ import annotations

import os
import sys

from benchmarks import scaling_processes
from benchmarks.scaling_processes import METHODS, RAW
from benchmarks.workloads import WORKLOADS


def main(folder: str) -> None:
    """Time both, and write the seconds down."""
    rank, port = int(os.environ["RANK"]), int(os.environ["MASTER_PORT"])
    scaling_processes._WARMUP = 1
    with open(f"{folder}/{rank}", "w") as file:
        for method in (RAW, "UncertaintyWeighting", "MGDA"):
            found = scaling_processes.run_block(rank, 2, port, WORKLOADS["W1_T8"], METHODS[method], steps=1)
            file.write(f"{method}: {min(found)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
