"""What a ``.pt2`` file may hold: numbers and a graph of ATen's operators; nothing that loading it would run.

``torch.export.load`` trusts what it reads. As of PyTorch 2.13 it unpickles entries that say so and sample inputs
(``torch/export/pt2_archive/_package.py``), compiles the text of guards (``torch/export/_unlift.py``), hands expressions
to ``sympy.sympify``, which evaluates them, takes any name under ``torch``, ``math`` and ``operator`` for an operator
(``torch/_export/serde/serialize.py``), and opens compiled libraries. So a file is read here first, without torch, and
refused if it has more than our exports need.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtl_lightning.errors import ExportError

_FILES = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/(version|serialization_id|alignment)|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt)"
)
_OPERATORS = re.compile(
    r"torch\.ops\.aten\.(?!from_file)[a-z0-9_]+\.[A-Za-z0-9_]+"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|math\.(ceil|floor|trunc|sqrt)"
    r"|torch\.sym_(int|float|max|min|not|ite|sqrt)"
)
_WORDS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KNOWN_WORD = re.compile(
    r"[suz]{1,2}f?\d+|Max|Min|Eq|Ne|Lt|Le|Gt|Ge|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|ModularIndexing|Where|Identity"
    r"|(Floor|Ceil|Trunc|Round)To(Int|Float)|ToFloat|IntTrueDiv|FloatTrueDiv|FloatPow|PowByNatural|oo|int_oo|True|False"
    r"|Symbol|Integer|Rational|Add|Mul|Pow|integer|positive|nonnegative|real|finite"
)
_SIGNS = re.compile(r"[A-Za-z0-9_+\-*/%(), <>=&|~.]*")
_NAME = re.compile(r"[\w .+\-]*")  # of tensors and nodes, which become names in code that PyTorch makes
_ARGUMENT = re.compile(r"[\w .,>+\-]*")  # of an operator, such as the equation of an `einsum`
_CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict"}


def check(path: str | Path) -> None:
    """Read a ``.pt2`` file as data, and refuse one that loading could run code of.

    Raises:
        ExportError: that says what was found.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not _FILES.fullmatch(entry.filename):
                    _refuse(path, f"the entry {entry.filename!r:.80}")
                if entry.filename.endswith("/data/sample_inputs/model.pt") and entry.file_size:
                    _refuse(path, "sample inputs, which are pickled")
            for name in archive.namelist():
                if name.endswith(".json"):
                    _check_document(path, json.loads(archive.read(name)))
    except ExportError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path}: expected a .pt2 file, found a damaged one: {error}. Export anew.") from error


def _check_document(path: str | Path, document: Any) -> None:
    for key, value in _entries(document):
        text = value if isinstance(value, str) else ""
        if key == "use_pickle" and value is not False:
            _refuse(path, "a pickled entry")
        elif key == "path_name" and not re.fullmatch(r"(weight|tensor)_\d+", text):
            _refuse(path, f"the file name {value!r:.60}")
        elif key == "guards_code" and value:
            _refuse(path, "guards, which are code")
        elif key == "metadata" and value:
            _refuse(path, "metadata of operators, which may name functions")
        elif key == "target" and not _OPERATORS.fullmatch(text):
            _refuse(path, f"the operator {value!r:.60}")
        elif key == "expr_str" and not _is_size(value):
            _refuse(path, f"the expression {value!r:.60}")
        elif key == "range_constraints" and not all(map(_is_size, value)):
            _refuse(path, f"the sizes {list(value)!r:.60}")
        elif key in ("as_custom_obj", "as_operator", "as_graph", "custom_obj") and value is not None:
            _refuse(path, f"`{key}`")
        elif key in ("in_spec", "out_spec", "context") and text.startswith(("[", "{")):
            _check_document(path, json.loads(text))
        elif key == "type" and "." in text and text not in _CONTAINERS:
            _refuse(path, f"a container of type {value!r:.60}")
        elif key == "as_string" and not _ARGUMENT.fullmatch(text):
            _refuse(path, f"the argument {value!r:.60}")
        elif key not in ("target", "expr_str", "as_string") and not _NAME.fullmatch(text):
            _refuse(path, f"the name {value!r:.60}")
        elif key != "target" and not _NAME.fullmatch(key):
            _refuse(path, f"the name {key!r:.60}")


def _is_size(text: Any) -> bool:
    """Whether a text is an expression of sizes: numbers, symbols, signs and known functions, no attributes."""
    text = re.sub(r"'([su]\d+)'", r"\1", text) if isinstance(text, str) else "'"
    return (
        len(text) < 2000
        and _SIGNS.fullmatch(text) is not None
        and not re.search(r"\.(?!\d)|\.\d*[A-Za-z_]|\*\*\s*\d{3}", text)
        and all(_KNOWN_WORD.fullmatch(word) for word in _WORDS.findall(text))
    )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield all keys with their values, however deep; what is in a list goes by the list's key."""
    todo = [("", value)]
    while todo:
        key, value = todo.pop()
        yield key, value
        if isinstance(value, dict):
            todo.extend(value.items())
        elif isinstance(value, list):
            todo.extend((key, item) for item in value)


def _refuse(path: str | Path, what: str) -> None:
    raise ExportError(
        f"{path}: expected numbers and operators of ATen, found {what}, with which loading it could run code. "
        "Export anew from the checkpoint."
    )
