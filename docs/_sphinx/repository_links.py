"""Links of a page to files of the repository, which are right on the repository's own page, too.

``../CONTRIBUTING.md#where-to-look`` is the page ``contributing`` here, if there is one; other Markdown files beside the
site's, such as ``../benchmarks/README.md``, have no page, and are named only. MyST takes any other file, say
``../configs/qm9.yaml``, as a download, and warns where there is none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[\w./-]+)\.md((?:#[\w-]+)?)\)")


def to_pages(app: Any, name: str, content: list[str]) -> None:
    """Turn links to Markdown files outside of the site into links to their pages, in the text of a page."""
    source = Path(app.srcdir).resolve()
    here = (source / name).parent

    def page(match: re.Match[str]) -> str:
        file = (here / f"{match[2]}.md").resolve()
        if source in file.parents or not file.is_file():
            return match[0]
        own = f"{file.stem.lower()}.md"
        if file.parent == source.parent and (source / own).is_file():
            return f"[{match[1]}]({'../' * name.count('/')}{own}{match[3]})"
        return match[1]

    content[0] = OUTSIDE.sub(page, content[0])


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", to_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
