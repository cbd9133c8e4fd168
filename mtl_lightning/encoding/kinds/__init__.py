"""Kinds of columns beside numbers and categories; each is one file, made of plain data in the schema.

``base`` says what a kind is. A schema without ``kinds`` has none, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtl_lightning.encoding.kinds.base import Cells, ColumnKind
from mtl_lightning.encoding.kinds.bucket import Bucket
from mtl_lightning.encoding.kinds.dates import Calendar, Cycles, Since
from mtl_lightning.encoding.kinds.hashed import Hashed
from mtl_lightning.encoding.kinds.listed import Listed
from mtl_lightning.encoding.kinds.text import Text
from mtl_lightning.encoding.kinds.vector import Vector
from mtl_lightning.errors import DataError

__all__ = ["KINDS", "Cells", "ColumnKind", "kinds_of"]

_ALL = (Hashed, Listed, Text, Vector, Calendar, Cycles, Since, Bucket)
KINDS: dict[str, type[ColumnKind]] = {kind.kind: kind for kind in _ALL}
"""By the name that a schema has for it."""


def kinds_of(schema: Mapping[str, Any]) -> dict[str, ColumnKind]:
    """Return what encodes the features of a schema that are neither plain numbers nor plain categories, by name.

    Raises:
        DataError: for a kind that this version does not know, and for what does not fit its kind.
    """
    found: dict[str, ColumnKind] = {}
    for feature, known in schema.get("kinds", {}).items():
        kind = KINDS.get(known.get("kind", "") if isinstance(known, Mapping) else "")
        if kind is None:
            raise DataError(
                f"Feature {feature!r} of the schema: expected a kind among {[*KINDS]}, found {known!r:.60}. It was "
                "fitted with a later version of mtl_lightning: install that."
            )
        try:
            found[feature] = kind(feature, known, schema["missing_values"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"Feature {feature!r} of the schema: expected a {kind.kind} column: {error!r}.") from error
    return found
