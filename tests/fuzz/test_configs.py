"""YAML files with something else at some place, or damaged as text: a run that works, or one short message."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it ships no types
from hypothesis import strategies as st

from mtl_lightning.cli import main
from tests.fuzz.cases import MOST_LINES, for_each, sizes

TRAINER = {
    "accelerator": "cpu", "max_epochs": 1, "max_steps": 2, "limit_val_batches": 1, "log_every_n_steps": 1,
    "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip
SYNTHETIC = {"class_path": "SyntheticRegression", "init_args": {"n": 60, "batch_size": 20, "seed": 0, "num_workers": 0}}
ADAM = {"class_path": "Adam", "init_args": {"lr": 1.0e-3, "weight_decay": 0.0}}
SGD = {"class_path": "SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}
STEPS = {"class_path": "StepLR", "init_args": {"step_size": 1, "gamma": 0.5}}
BASES: dict[str, dict[str, Any]] = {
    "balanced losses": {
        "seed_everything": 0,
        "data": SYNTHETIC,
        "model": {
            "architecture": {
                "class_path": "SharedBottom",
                "init_args": {"encoder": {"class_path": "MLP", "init_args": {"hidden": [8, 4], "dropout": 0.1}}},
            },
            "balancer": {"class_path": "UncertaintyWeighting"},
            "optimizers": {"default": ADAM, "balancer": SGD},
            "schedulers": {"default": {"scheduler": STEPS}},
            "gradient_clip": {"default": 1.0},
        },
        "dead_units": {"every": 2},
        "trainer": TRAINER,
    },
    "balanced gradients": {
        "data": SYNTHETIC,
        "model": {
            "architecture": {"class_path": "MMoE", "init_args": {"num_experts": 2}},
            "balancer": {"class_path": "CAGrad", "init_args": {"c": 0.4}},
            "optimizers": {"shared": ADAM, "default": {"class_path": "SGD", "init_args": {"lr": 0.01}}},
            "schedulers": {"shared": {"scheduler": {"class_path": "CosineAnnealingLR", "init_args": {"T_max": 2}}}},
        },
        "trainer": {**TRAINER, "callbacks": [{"class_path": "LearningRateMonitor"}]},
    },
    "a table": {
        "data": {
            "class_path": "TableData",
            "init_args": {
                "path": "t.csv", "targets": ["price", "sold"], "numeric": ["size"], "min_count": 1, "batch_size": 16,
                "split": {"fractions": [0.6, 0.2, 0.2]},
            },
        },
        "model": {
            "architecture": {
                "class_path": "SharedBottom",
                "init_args": {"encoder": {"class_path": "TabularEncoder", "init_args": {"dropout": 0.1}}},
            },
            "balancer": {"class_path": "DWA", "init_args": {"temperature": 2.0}},
            "optimizers": {"default": ADAM},
        },
        "trainer": TRAINER,
    },
}  # fmt: skip
NEVER = [math.nan, math.inf, -math.inf]
"""What no option can be; the rest of the values may be right somewhere."""
VALUES: list[Any] = [*NEVER, -1, 0, 1.5, -0.5, None, True, "", "abc", "1e-3", [], {}, [1, 2], {"a": 1}, [[]]]
FREE = {"max_epochs", "max_steps", "limit_val_batches", "log_every_n_steps"}
"""Options of Lightning's own, which it checks in its own way."""


def leaves(inside: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all places."""
    items = inside.items() if isinstance(inside, dict) else enumerate(inside) if isinstance(inside, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from leaves(value, (*path, key))


def put(base: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    made = copy.deepcopy(base)
    inside: Any = made
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return made


def misspelt(name: str, place: int, way: int) -> str:
    """Drop, double or swap a letter, or add one."""
    place %= max(len(name) - 1, 1)
    return [
        name[:place] + name[place + 1 :],
        name[: place + 1] + name[place:],
        name[:place] + name[place + 1 : place + 2] + name[place : place + 1] + name[place + 2 :],
        f"{name}x",
    ][way]


def said(content: bytes) -> str | None:
    """Run a configuration; return what is said at the end if it is refused, None if it runs."""
    Path("run.yaml").write_bytes(content)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(["fit", "--config", "run.yaml"])
        except SystemExit as end:
            if end.code in (0, None):
                return None
            message = end.code if isinstance(end.code, str) else err.getvalue()
            lines = [line for line in message.strip().splitlines() if line.strip()]
            assert 0 < len(lines) <= MOST_LINES, message
            assert "Traceback" not in message, message
            return message
    return None


@pytest.fixture(autouse=True)
def table() -> None:
    rows = [f"{i % 7 + 0.5},{'ab'[i % 2]},{i * 1.25},{'yes' if i % 3 else 'no'}" for i in range(90)]
    Path("t.csv").write_text("\n".join(["size,colour,price,sold", *rows]))


@sizes(15, 300)
def test_another_value_is_refused_or_works(number: int) -> None:
    cases = st.sampled_from([(base, path) for base, config in BASES.items() for path in leaves(config)])

    def check(case: tuple[tuple[str, tuple[Any, ...]], Any]) -> None:
        (base, path), value = case
        message = said(yaml.safe_dump(put(BASES[base], path, value)).encode())
        if isinstance(value, float) and not math.isfinite(value) and not FREE & {*path}:
            assert message is not None, f"{value} at {path} was taken without a word"

    for_each(number, st.tuples(cases, st.sampled_from(VALUES)), check)


@sizes(10, 200)
def test_a_misspelt_key_or_class_is_refused(number: int) -> None:
    keys = [(base, path) for base, config in BASES.items() for path in leaves(config) if isinstance(path[-1], str)]

    def check(case: tuple[tuple[str, tuple[Any, ...]], int, int]) -> None:
        (base, path), place, way = case
        made = copy.deepcopy(BASES[base])
        inside: Any = made
        for key in path[:-1]:
            inside = inside[key]
        if path[-1] == "class_path":
            name = inside["class_path"]
            wrong = inside["class_path"] = misspelt(name, place, way)
        else:
            name = path[-1]
            wrong = misspelt(name, place, way)
            if wrong == name or path[-2:-1] in (("optimizers",), ("schedulers",), ("gradient_clip",)):
                return  # groups: tested elsewhere
            inside[wrong] = inside.pop(name)
        if wrong != name:
            assert said(yaml.safe_dump(made).encode()) is not None, f"{wrong} for {name} was taken without a word"

    for_each(number, st.tuples(st.sampled_from(keys), st.integers(0, 20), st.integers(0, 3)), check)


@sizes(10, 150)
def test_a_damaged_file_is_refused_or_works(number: int) -> None:
    texts = {name: yaml.safe_dump(config).encode() for name, config in BASES.items()}
    damage = st.sampled_from(
        [b"\t", b"\xff", b":", b"[", b"'", b"{", b"- ", b"\x00", b"&a ", b"*a ", b"!!python/name:os.system ", b""]
    )

    def check(case: tuple[str, float, bytes, bool]) -> None:
        name, share, inserted, cut = case
        place = int(share * len(texts[name]))
        said(texts[name][:place] + inserted + (b"" if cut else texts[name][place:]))

    for_each(number, st.tuples(st.sampled_from(list(texts)), st.floats(0, 1), damage, st.booleans()), check)
