"""Run the default tests with the lowest version of every dependency that `pyproject.toml` allows. By hand, outside CI.

``python3 .ci/lowest_versions.py FOLDER [name==version ...] [-- arguments of pytest]`` makes a virtual environment in
FOLDER and leaves it there. The lowest torch brings gigabytes of libraries for GPUs; ``torch==2.13.0`` takes another
version in its place. Needs Python 3.11 or later, to read the file.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).parent.parent
EXTRAS = ("examples", "export", "images", "serve", "solvers", "test", "tune")


def lowest() -> dict[str, str]:
    """Return the lowest version of each dependency of the package and its tests, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(name for extra in EXTRAS for name in project["optional-dependencies"][extra]),
    ]
    found = [re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", requirement) for requirement in declared]
    return {match[1]: match[2] for match in found if match is not None}


def main(folder: str, *arguments: str) -> int:
    """Make the environment, say what is in it, run the tests."""
    own, _, for_pytest = " ".join(arguments).partition("--")
    pins = lowest() | dict(pin.split("==") for pin in own.split())
    environment = Path(folder).absolute()
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    constraints = environment / "lowest.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
    pip = [str(environment / "bin/pip")]
    subprocess.run([*pip, "install", "-q", "-c", str(constraints), "-e", f"{ROOT}[test]"], check=True)
    subprocess.run([*pip, "freeze"], check=True)
    command = [str(environment / "bin/python"), "-m", "pytest", *(for_pytest.split() or ["-n", "2"])]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
