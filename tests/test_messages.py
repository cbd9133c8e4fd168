"""What a config, an option or a file can cause ends in one message of at most six lines, with the key or the file."""

from __future__ import annotations

import importlib
import resource
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lightning.pytorch.utilities import rank_zero_only

from mtl_lightning.cli import failures
from mtl_lightning.cli.messages import sentence
from mtl_lightning.types import DataError
from tests.cover import some_of
from tests.messages import CONFIG, GONE, run, run_arguments, spoilt

NAN, INF = float("nan"), float("inf")
ENCODER = "model.architecture.init_args.encoder"
ADAM = "model.optimizers.default.init_args"
SCHEDULE = "model.schedulers.default"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each run in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------------------------ spoilt configs
NUMBERS: dict[str, list[Any]] = {
    "data.init_args.batch_size": [0, -1],
    "data.init_args.num_workers": [-1],
    "data.init_args.n": [0],
    "data.init_args.noise": [[-1.0, 1.0], [NAN, 1.0]],
    f"{ENCODER}.init_args.hidden": [[0], [-3, 4]],
    f"{ENCODER}.init_args.dropout": [1.5, -0.1, NAN, INF],
    f"{ADAM}.lr": [-1, NAN, INF],
    f"{ADAM}.weight_decay": [-1, INF],
    f"{ADAM}.betas": [[0.9, 2.0], [NAN, 0.9]],
    "model.gradient_clip": [{"shared": NAN}],
    "model.balancer": [
        {"class_path": "GradNorm", "init_args": {"alpha": -1}},
        {"class_path": "DWA", "init_args": {"temperature": 0}},
        {"class_path": "FixedWeighting", "init_args": {"weights": {"y1": -1, "y2": 1}}},
        {"class_path": "PCGrad", "init_args": {"losses": {"class_path": "STCH", "init_args": {"mu": INF}}}},
    ],
    SCHEDULE: [
        {"class_path": "CosineAnnealingLR", "init_args": {"T_max": 0}},
        {"class_path": "StepLR", "init_args": {"step_size": 0}},
        {"scheduler": {"class_path": "StepLR", "init_args": {"step_size": 1}}, "frequency": 0},
        {"scheduler": {"class_path": "StepLR", "init_args": {"step_size": 1}}, "warmup": -1},
    ],
    "data.init_args.tasks.y1": [{"class_path": "Regression", "init_args": {"delta": 0}}],
    "dead_units.threshold": [7, NAN],
    "update_ratio.every_n_steps": [-1],
    "trainer.gradient_clip_val": [NAN, INF],
    "trainer.accumulate_grad_batches": [0],
    "trainer.callbacks": [[{"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": -1}}]],
    "seed_everything": [-3, 2**40],
}


@pytest.mark.parametrize(("key", "value"), some_of([(key, v) for key, values in NUMBERS.items() for v in values], 6))
def test_a_number_out_of_range(key: str, value: Any) -> None:
    run(spoilt(key, value)).assert_one_message(f"`{key}", "expected", "found")


WRONG_KINDS = (3, -0.5, "nonsense", [1, 2], {"nothing": 1}, True)
RIGHT: list[tuple[str, Any]] = [("trainer.max_epochs", 3), ("model.optimizers.default.init_args.lr", 3)]
"""What is no mistake after all."""
PLACES: tuple[str, ...] = (
    "data",
    "model",
    "trainer",
    "model.architecture",
    ENCODER,
    "model.optimizers",
    "model.optimizers.default",
)
PLACES += (ADAM, f"{ADAM}.lr", "model.schedulers", SCHEDULE, "model.heads", "model.reads", "model.groups", "dead_units")
PLACES += ("data.init_args", "data.init_args.tasks", "model.on_nonfinite", "trainer.max_epochs", "trainer.callbacks")


@pytest.mark.parametrize(("key", "value"), some_of([(key, value) for key in PLACES for value in WRONG_KINDS], 13))
def test_a_value_of_another_kind(key: str, value: Any) -> None:
    end = run(spoilt(key, value))
    assert "Traceback" not in end.whole
    if end.code:
        end.assert_one_message(*key.split(".")[:1])
    else:
        assert (key, value) in RIGHT, "it ran"


NAMES = {
    "model": ("modle", "`modle`", "'model'"),
    "trainer.max_epochs": ("max_epcohs", "max_epcohs", "'max_epochs'"),
    "data.init_args.batch_size": ("bathc_size", "data.init_args.bathc_size", "'batch_size'"),
    "model.optimizers": ("optimisers", "optimisers", "'optimizers'"),
    f"{ENCODER}.init_args.hidden": ("hiddne", f"{ENCODER}.init_args.hiddne", "'hidden'"),
    f"{ENCODER}.init_args": ("init_arg", "init_arg", "'init_args'"),
    f"{ENCODER}.class_path": ("clas_path", f"{ENCODER}.clas_path", "'class_path'"),
    f"{ADAM}.lr": ("rl", f"{ADAM}.rl", "'lr'"),
}


@pytest.mark.parametrize("key", NAMES)
def test_a_misspelt_key(key: str) -> None:
    misspelt, place, meant = NAMES[key]
    *path, last = key.split(".")
    inner: Any = CONFIG
    for name in [*path, last]:
        inner = inner[name]
    changed = spoilt(".".join([*path, misspelt]), inner, spoilt(key, GONE))
    run(changed).assert_one_message(place.strip("`"), f"id you mean {meant}?")


CLASSES = {
    "data.class_path": ("SyntheticRegresion", "SyntheticRegression"),
    "model.architecture.class_path": ("ShardeBottom", "SharedBottom"),
    f"{ENCODER}.class_path": ("MPL", "MLP"),
    "model.optimizers.default.class_path": ("Adma", "Adam"),
    "model.balancer": ("GradNrom", "GradNorm"),
    "model.heads": ({"y1": "MLPHed"}, "MLPHead"),
    SCHEDULE: ("StepRL", "StepLR"),
    "data.init_args.tasks": ({"y1": {"class_path": "Regresion"}}, "Regression"),
}


@pytest.mark.parametrize("key", CLASSES)
def test_a_misspelt_class(key: str) -> None:
    misspelt, meant = CLASSES[key]
    run(spoilt(key, misspelt)).assert_one_message(f"`{key.partition('.')[0]}", f"did you mean '{meant}'?")


@pytest.mark.parametrize("encoder", ["Twin", {"class_path": "Twin"}], ids=str)
def test_a_short_name_of_two_classes(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    for name in ("left_twin", "right_twin"):
        Path(f"{name}.py").write_text("from mtl_lightning.architectures import MLP\nclass Twin(MLP):\n    pass\n")
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))
    said = ("found several that are called 'Twin'. Name one in full: ", "left_twin.Twin", "right_twin.Twin")
    run(spoilt(ENCODER, encoder)).assert_one_message(f"`{ENCODER}`", *said)
    assert run(spoilt(ENCODER, "left_twin.Twin")).code == 0


TEXTS = {
    "a sequence that does not end": ("model: {a: [1, 2\ndata: x\n", ["config.yaml", "line 2"]),
    "a tab": ("model:\n\tx: 1\n", ["config.yaml", "line 2"]),
    "a key twice": ("trainer: {max_epochs: 1}\nmodel: {}\ntrainer: {}\n", ["config.yaml", "line 3", "`trainer`"]),
    "an inner key twice": ("model:\n  a: 1\n  b: 2\n  a: 3\n", ["config.yaml", "line 4", "`model.a`"]),
    "nothing": ("", ["config.yaml", "nothing"]),
    "a list": ("[1, 2]", ["config.yaml", "a sequence"]),
    "a word": ("hello", ["config.yaml", "a scalar"]),
    "an unknown alias": ("model: *there\n", ["config.yaml", "line 1"]),
    "two documents": ("model: {}\n---\ndata: {}\n", ["config.yaml", "line 2"]),
    "a control character": ("model: \x00\n", ["config.yaml"]),
    "a byte that is no UTF-8": (b"model: caf\xe9\n", ["config.yaml", "UTF-8"]),
    "an unknown section": ("modle:\n", ["config.yaml", "line 1", "'model'"]),
    "a number for a key": ("3: 4\n", ["config.yaml", "line 1", "'3'"]),
    "a tag of Python's": ("model: !!python/object/apply:os.getcwd []\n", ["model"]),
    "an alias inside itself": ("model: &a\n  b: *a\n", ["model"]),
}


@pytest.mark.parametrize(("text", "words"), TEXTS.values(), ids=TEXTS.keys())
def test_a_file_that_is_no_config(text: str | bytes, words: list[str]) -> None:
    run(text).assert_one_message(*words)


@pytest.mark.parametrize("name", ["nothing.yaml", "folder"])
def test_a_config_that_is_not_there(name: str) -> None:
    Path("folder").mkdir()
    run_arguments(["fit", "--config", name]).assert_one_message(name)


TRAINER = {
    "limit_train_batches": -2,
    "val_check_interval": -1,
    "accelerator": "gpuu",
    "devices": 0,
    "strategy": "dpd",
    "precision": "16-ture",
    "profiler": "simpel",
    "max_epochs": NAN,
    "overfit_batches": 1.5,
}


@pytest.mark.parametrize("name", some_of([(name,) for name in TRAINER], 3))
def test_what_lightnings_trainer_refuses(name: str) -> None:
    run(spoilt(f"trainer.{name}", TRAINER[name])).assert_one_message(f"`trainer.{name}`")


# --------------------------------------------------------------------------------------------------------- during a run
MONITORS = {
    "EarlyStopping": spoilt(
        "trainer.callbacks", [{"class_path": "EarlyStopping", "init_args": {"monitor": "val/lsos"}}]
    ),
    "ModelCheckpoint": spoilt(
        "trainer",
        {
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "callbacks": [{"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/lsos"}}],
        },
    ),
    "ReduceLROnPlateau": spoilt(
        "model.schedulers", {"default": {"scheduler": "ReduceLROnPlateau", "monitor": "val/lsos"}}
    ),
}


@pytest.mark.parametrize("config", MONITORS.values(), ids=MONITORS.keys())
def test_a_misspelt_monitor(config: dict[str, Any]) -> None:
    run(config).assert_one_message("monitor", "'val/lsos'", "Did you mean 'val/loss'?")


MINE = """
from torch import nn
from mtl_lightning.data import SyntheticRegression
class Boom(nn.Module):
    def __init__(self):
        raise KeyError("width")
class Fails(nn.Module):
    def forward(self, x):
        return {}["features"]
class Data(SyntheticRegression):
    def rows(self, split):
        return Rows()
class Rows:
    def __len__(self):
        return 40
    def __getitem__(self, index):
        return open("rows.bin", encoding="utf-8").read()
    __getitems__ = __getitem__
"""


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (spoilt("model.architecture", "mine.Boom"), ["Boom", "width"]),
        (spoilt("model.architecture", "mine.Fails"), ["Fails", "features"]),
        (spoilt("data.class_path", "mine.Data"), ["rows.bin", "utf-8"]),
        (
            spoilt("data.init_args.num_workers", 1, spoilt("data.class_path", "mine.Data")),
            ["worker 0", "mine.py", "utf-8"],
        ),
        (spoilt("model.architecture", "mine.Bom"), ["'Bom'", "did you mean 'Boom'?"]),
        (spoilt("model.architecture", "mien.Boom"), ["no module 'mien'"]),
    ],
    ids=["constructor", "forward", "rows", "worker", "misspelt class", "misspelt module"],
)
def test_errors_of_a_users_own_code(config: dict[str, Any], words: list[str]) -> None:
    Path("mine.py").write_text(MINE)
    Path("rows.bin").write_bytes(b"caf\xe9")
    run(config).assert_one_message(*[word for word in words if word != "rows.bin"])


def test_the_whole_traceback_is_there_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text(MINE)
    monkeypatch.setenv("MTL_LIGHTNING_TRACEBACK", "1")
    with pytest.raises(Exception, match="features"):
        run(spoilt("model.architecture", "mine.Fails"))


def test_which_process_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    end = run(CONFIG, "--ckpt_path=nothing.ckpt")
    assert end.whole.rpartition("mtl-lightning")[2].startswith(
        ", process 1: ConfigurationError: --ckpt_path=nothing.ckpt"
    )
    gone = RuntimeError("[/src/pair.cc:553] Connection closed by peer [127.0.0.1]:23988. Check the logs of the worker.")
    assert failures.sentence(gone).startswith("RuntimeError: another process has ended")


def test_an_error_of_ours_in_a_worker_is_what_it_was() -> None:
    text = "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File x\n"
    assert str(DataError(f"{text}mtl_lightning.errors.DataError: a.jpg: broken.\n")) == "a.jpg: broken."
    assert str(DataError("a.jpg: broken.")) == "a.jpg: broken."


def test_a_table_that_a_worker_cannot_read() -> None:
    pq.write_table(pa.table({"a": [0.5, 1.5] * 40, "y": [1.0, 2.5] * 40}), "t.parquet", row_group_size=20)
    table = {
        "class_path": "TableData",
        "init_args": {"path": "t.parquet", "targets": ["y"], "num_workers": 1, "stream": {}},
    }
    spoilt_one = spoilt(
        "data",
        table,
        spoilt("model.architecture", {"class_path": "SharedBottom", "init_args": {"encoder": "TabularEncoder"}}),
    )
    assert run(spoilt_one).code == 0
    whole = Path("t.parquet").read_bytes()
    Path("t.parquet").write_bytes(whole[:4] + bytes(200) + whole[204:])
    run(spoilt_one).assert_one_message("t.parquet")


TABLES = {
    "two columns of a name": (
        lambda path: pq.write_table(pa.table([pa.array([1.5] * 60)] * 3, ["a", "a", "y"]), path),
        ["'a'"],
    ),
    "no table": (lambda path: path.write_bytes(b"\x00\x01" * 300), []),
    "empty": (lambda path: path.write_bytes(b""), []),
    "bytes": (lambda path: path.write_bytes(b"a,y\n" + b"caf\xe9,1\n" * 60), []),
}


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize(("write", "words"), TABLES.values(), ids=TABLES.keys())
def test_tables_that_are_none(write: Any, words: list[str], ending: str) -> None:
    file = Path(f"t.{ending}")
    write(file)
    run(
        spoilt("data", {"class_path": "TableData", "init_args": {"path": str(file), "targets": ["y"]}})
    ).assert_one_message(file.name, *(words if ending == "parquet" else []))


CHECKPOINTS: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}


def test_a_folder_that_cannot_be_written() -> None:
    Path("file").write_text("")
    trainer = {**CHECKPOINTS, "default_root_dir": "file"}
    run(spoilt("trainer", trainer)).assert_one_message("file", "trainer.default_root_dir")


def test_a_disk_that_is_full() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        end = run(spoilt("trainer", CHECKPOINTS))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    end.assert_one_message(".ckpt", "Free some space")
    assert not list(Path().rglob("*.ckpt*"))


def test_a_checkpoint_that_is_not_there() -> None:
    run(CONFIG, "--ckpt_path=nothing.ckpt").assert_one_message("nothing.ckpt")


# ------------------------------------------------------------------------------------------------------------- the help
def test_the_help_is_short() -> None:
    shown = run_arguments(["fit", "--help"]).shown
    assert "--model.balancer" in shown
    assert "known subclasses" not in shown
    assert len(shown.splitlines()) < 750


# ------------------------------------------------------------------------------------------- the parser's words
def test_the_branch_that_was_meant() -> None:
    tree = """Parser key "model.heads":
  Does not validate against any of the Union subtypes
  Subtypes: [dict[str, Head], <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'mtl_lightning.architectures.MLPHead':
        Parser key "hidden":
          Expected a <class 'int'>. Got value: x
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {'a': {'class_path': 'MLPHead', 'init_args': {'hidden': 'x'}}}"""
    assert sentence(tree, ()) == "`model.heads.a.init_args.hidden`: expected int, found x."


def test_words_that_the_parser_may_say_one_day() -> None:
    assert sentence("Something else\nin two lines", ()) == "Something else\nin two lines."
    assert len(sentence("\n".join(["x" * 5000] * 50), ()).splitlines()) <= 3
