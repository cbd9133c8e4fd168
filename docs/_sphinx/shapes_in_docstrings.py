"""Docstrings write shapes as ``(B, *)``; reStructuredText takes the star for emphasis: it gets a backslash."""

from __future__ import annotations

import re
from typing import Any

STAR = re.compile(r"(?<![\w*\\])\*(?=\w*[)\],]|[.;:\s])")


def escape(app: Any, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001
    """Escape the stars of shapes, in place, but for those in literals."""
    parts = re.split(r"(``.*?``)", "\n".join(lines), flags=re.DOTALL)
    parts[::2] = [STAR.sub(r"\\*", part) for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", escape, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
