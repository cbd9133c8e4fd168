"""The machine that a benchmark runs on, and the versions of what it runs."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "lightning", "torchjd", "torchmetrics", "numpy", "pyarrow")
_FOLDER = Path(__file__).parent


def describe() -> dict[str, Any]:
    """Return what is known of the machine; None for what is not."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": load(),
        "memory_gb": _memory(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "settings": {name: value for name, value in sorted(os.environ.items()) if name.startswith("MTL_LIGHTNING_")},
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "changed": _git("status", "--porcelain", "--untracked-files=no") not in ("", None),
    }


def sentence(known: Mapping[str, Any]) -> str:
    """Say it in one line, as it stands above the tables."""
    packages = ", ".join(f"{name} {found}" for name, found in known["packages"].items() if found is not None)
    load, memory = (known[name] for name in ("load", "memory_gb"))
    parts = [
        f"{known['cpu'] or 'unknown processor'}, {known['cores']} cores",
        f"load {load:.1f}" if load is not None else "",
        f"{memory:.0f} GB" if memory is not None else "",
        known["gpu"] or "",
        f"{known['system']}, Python {known['python']}, {packages}",
        f"PyTorch's threads {known['threads']} (one where CPU time is told)",
        ", ".join(f"{name}={value}" for name, value in known["settings"].items()),
        f"commit {known['commit'] or 'unknown'}{', changed' if known['changed'] else ''}",
        known["time"],
    ]
    return "; ".join(part for part in parts if part)


def load() -> float | None:
    """Return how many processes wanted to run, a mean over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _cpu() -> str | None:
    found = _in("/proc/cpuinfo", r"^model name\s*:\s*(.+)$")
    return found or platform.processor() or None


def _memory() -> float | None:
    found = _in("/proc/meminfo", r"^MemTotal:\s+(\d+) kB$")
    return None if found is None else int(found) / 1e6


def _in(path: str, pattern: str) -> str | None:
    try:
        found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1].strip() if found else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Return what git says of this checkout; None where there is no git, or no checkout."""
    try:
        done = subprocess.run(["git", "-C", str(_FOLDER), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
