"""An exported folder that is not as it was written is refused with the reason, and cannot run code."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtl_lightning.errors import BatchError, ExportError
from mtl_lightning.export import export_network
from mtl_lightning.exported import ExportedFolder, folder, pt2_file
from tests.export.networks import on_a_table, two_tasks


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same network in both formats."""
    root = tmp_path_factory.mktemp("exports")
    for format in folder_formats:
        export_network(on_a_table(tasks=two_tasks()), root / format, format)
    return {format: root / format for format in folder_formats}


folder_formats: list[Any] = ["onnx", "pt2"]


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the ONNX one, to spoil."""
    return Path(shutil.copytree(folders["onnx"], tmp_path / "copy"))


@pytest.mark.parametrize("place", [0.01, 0.5, 0.9])
@pytest.mark.parametrize("file", ["model.onnx", "schema.json", "README.md"])
def test_one_byte_changed_is_refused(file: str, place: float, copied: Path) -> None:
    data = bytearray((copied / file).read_bytes())
    data[int(place * len(data))] ^= 1
    (copied / file).write_bytes(bytes(data))
    with pytest.raises(ExportError, match=file.replace(".", r"\.")):
        ExportedFolder(copied)


def test_every_byte_of_the_schema_is_sealed(copied: Path) -> None:
    data = (copied / "schema.json").read_bytes()
    for place in range(0, len(data), 97):
        (copied / "schema.json").write_bytes(data[:place] + bytes([data[place] ^ 2]) + data[place + 1 :])
        with pytest.raises(ExportError, match=r"schema\.json|format"):
            folder.read(copied)
    (copied / "schema.json").write_bytes(data)
    assert folder.read(copied)["kind"] == folder.KIND


def test_the_intended_use_may_be_filled_in(copied: Path) -> None:
    card = (copied / "README.md").read_text()
    start, end = (card.index(mark) for mark in folder.YOURS)
    (copied / "README.md").write_text(f"{card[:start]}{folder.YOURS[0]}\nPrices of boats, no others.\n{card[end:]}")
    ExportedFolder(copied)


def resealed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change a schema, and seal it as its author would."""
    document = json.loads((path / "schema.json").read_text())
    change(document)
    (path / "schema.json").unlink()
    rest = {key: part for key, part in document.items() if key not in ("kind", "checksums", "checksum")}
    (path / "schema.json").write_bytes(folder._sealed(rest, path))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), "expected an export of format 1.*found format 2, written by mtl_lightning"),
        (lambda d: d["model"]["outputs"].pop("sold"), r"expected the outputs \['price'\].*found \['price', 'sold'\]"),
        (lambda d: d["model"]["inputs"]["numeric"]["shape"].__setitem__(1, 4), r"'numeric' to be float32 \(B, 4\)"),
        (lambda d: d["model"]["outputs"]["sold"].update(dtype="float64"), "'sold' to be float64"),
        (lambda d: d["model"].update(format="pickle"), "expected the format onnx or pt2, found 'pickle'"),
        (lambda d: d["model"].update(file="../model.onnx"), "expected checksums of README.md and of the model"),
    ],
)
def test_another_version_and_a_model_that_does_not_fit(change: Any, message: str, copied: Path) -> None:
    with pytest.raises(ExportError, match=message):
        ExportedFolder(resealed(copied, change))


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"found no schema\.json"):
        ExportedFolder(tmp_path)
    (tmp_path / "schema.json").write_text("{}")
    with pytest.raises(ExportError, match="found another file"):
        ExportedFolder(tmp_path)
    (tmp_path / "schema.json").write_text("{")
    with pytest.raises(ExportError, match="damaged"):
        ExportedFolder(tmp_path)


def test_a_model_file_that_is_none(copied: Path) -> None:
    (copied / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ExportError, match="onnxruntime cannot open it"):
        ExportedFolder(resealed(copied, lambda _: None))


@pytest.mark.parametrize("format", folder_formats)
def test_inputs_of_other_shapes_are_refused(format: str, folders: dict[str, Path]) -> None:
    model = ExportedFolder(folders[format]).model
    good = {"numeric": np.zeros((2, 3)), "categorical": np.zeros((2, 2))}
    assert {name: part.shape for name, part in model.run(good).items()} == {"price": (2,), "sold": (2,)}
    for wrong, message in (
        ({"numeric": np.zeros((2, 3))}, "expected the inputs"),
        ({**good, "numeric": np.zeros((2, 4))}, r"expected the shape \(B, 3\), found \(2, 4\)"),
        ({**good, "numeric": np.zeros((1, 3))}, "as many rows in every input"),
    ):
        with pytest.raises(BatchError, match=message):
            model.run(wrong)


def test_no_path_of_this_machine_is_in_an_export(folders: dict[str, Path]) -> None:
    here = str(Path(__file__).parent.parent.parent).encode()
    for path in folders.values():
        for file in path.iterdir():
            assert here not in file.read_bytes()
            assert b"site-packages" not in file.read_bytes()


# ------------------------------------------------------------------------------------------------------ what .pt2 holds
class Bomb:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "ran")


def edited(path: Path, target: Path, change: Callable[[str, bytes], bytes], **more: bytes) -> Path:
    """Rewrite the entries of a .pt2 file."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as result:
        for name in source.namelist():
            result.writestr(name, change(name, source.read(name)))
        root = source.namelist()[0].partition("/")[0]
        for name, data in more.items():
            result.writestr(f"{root}/{name}", data)
    return target


def in_model(old: str, new: str) -> Callable[[str, bytes], bytes]:
    """Replace a text in the graph."""

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        assert old.encode() in data, old
        return data.replace(old.encode(), new.encode(), 1)

    return change


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("torch.ops.aten.nan_to_num.default", "torch.hub.load", "the operator 'torch.hub.load'"),
        ("torch.ops.aten.nan_to_num.default", "_operator.call", "the operator"),
        ("torch.ops.aten.nan_to_num.default", "torch.ops.aten.from_file.default", "the operator"),
        ("torch.ops.aten.nan_to_num.default", "torch.os.system", "the operator"),
        ("Symbol('s", "__import__('os').system('s", "the expression"),
        ("Symbol('s", "().__class__('s", "the expression"),
        ('"guards_code": []', '"guards_code": ["print(1)"]', "guards"),
        ('"name": "nan_to_num"', '"name": "x=1;import os"', "the name"),
        ('\\\\\\"numeric\\\\\\"', '\\\\\\"nu(eric\\\\\\"', "the name"),
        ('\\"builtins.dict\\"', '\\"os.system\\"', "a container"),
        ('"metadata": {}', '"metadata": {"source_fn_stack": "os.system"}', "metadata"),
    ],
)
def test_a_pt2_file_that_could_run_code_is_refused(
    old: str, new: str, message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    file = edited(folders["pt2"] / "model.pt2", tmp_path / "model.pt2", in_model(old, new))
    with pytest.raises(ExportError, match=f"found {message}.*could run code"):
        pt2_file.check(file)


def test_a_pt2_file_with_pickles_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    good, target = folders["pt2"] / "model.pt2", tmp_path / "model.pt2"
    pt2_file.check(edited(good, target, lambda _, data: data))
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))

    def sample(name: str, data: bytes) -> bytes:
        return bomb if name.endswith("sample_inputs/model.pt") else data

    def pickled(name: str, data: bytes) -> bytes:
        return data.replace(b'"use_pickle": false', b'"use_pickle": true') if name.endswith("config.json") else data

    for change, more, message in (
        (sample, {}, "sample inputs"),
        (pickled, {}, "a pickled entry"),
        (lambda _, data: data, {"data/weights/model.pt": bomb}, "the entry"),
        (lambda _, data: data, {"data/constants/opaque_obj_0": bomb}, "the entry"),
        (lambda _, data: data, {"data/aotinductor/model/x.so": b""}, "the entry"),
    ):
        with pytest.raises(ExportError, match=message):
            pt2_file.check(edited(good, target, change, **more))
    target.write_bytes(good.read_bytes()[:-100])
    with pytest.raises(ExportError, match="damaged"):
        pt2_file.check(target)
    assert not (tmp_path / "ran").exists()


def test_what_json_cannot_hold_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="plain data that JSON can hold"):
        folder.write(tmp_path / "out", {"schema": float("nan")}, lambda _: "card")
    assert list(tmp_path.iterdir()) == []
