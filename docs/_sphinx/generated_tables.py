"""Tables of the reference that are made of the code: ``{generated-table} balancing``."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

Row = list[str]


def summary(cls: type) -> str:
    """Return the first sentence of a docstring as Markdown; a link in it, of a paper say, is one word."""
    text = " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")
    text = re.sub(r":\w+:`~?([^`]+)`", lambda role: f"`{role[1].rpartition('.')[2]}`", text)
    text = re.sub(r"`([^`<]+?)\s*<([^>]+)>`_+", lambda link: f"[{link[1]}]({link[2].replace(' ', '')})", text)
    sentence = re.match(r"(?:\[[^\]]*\]\([^)]*\)|(?<=al)\.|\.(?!\s|$)|[^.])*", text)
    return (sentence[0] if sentence else text).rstrip(":; ").replace("|", r"\|")


def classes(package: str, base: str) -> Iterator[type]:
    """Yield the public classes of a package that can be made and are of a base, by name."""
    module = importlib.import_module(package)
    root = getattr(module, base)
    for name in sorted(module.__all__, key=str.lower):
        found = getattr(module, name)
        if inspect.isclass(found) and issubclass(found, root) and not inspect.isabstract(found):
            yield found


def link(package: str, cls: type) -> str:
    """Return a link to the class's own place in the reference."""
    return f"{{py:class}}`{cls.__name__} <{package}.{cls.__name__}>`"


def balancing() -> Iterator[Row]:
    """Yield what each method looks at, and whether it draws, keeps a state and weighs heads."""
    from mtl_lightning.balancing.tools.seeded_generator import SeededGenerator

    yield ["method", "looks at", "draws", "weighs heads", "what it does"]
    for cls in classes("mtl_lightning.balancing", "Balancer"):
        made: Any = cls(3)  # type: ignore[call-arg]
        looks = "losses" if not made.rows else "Gramian" if made.gramian else "gradients of features"
        looks = looks if not made.rows or made.gramian or made.level == "features" else "a gradient per task"
        draws = any(isinstance(part, SeededGenerator) for part in made.modules())
        heads = not made.rows or made.weight_heads
        words = ("no", "yes")
        yield [link("mtl_lightning.balancing", cls), looks, words[draws], words[bool(heads)], summary(cls)]


def of_package(name: str, *bases: str) -> Callable[[], Iterator[Row]]:
    """Return a table with the first sentence of each class of some bases."""

    def rows() -> Iterator[Row]:
        yield ["class", "what it is"]
        package = f"mtl_lightning.{name}"
        for base in bases:
            for cls in classes(package, base):
                yield [link(package, cls), summary(cls)]

    return rows


TABLES: dict[str, Callable[[], Iterator[Row]]] = {
    "architectures": of_package("architectures", "Architecture"),
    "balancing": balancing,
    "datamodules": of_package("data", "MultiTaskDataModule"),
    "encoders": of_package("architectures", "Encoder"),
    "heads": of_package("architectures", "Head"),
    "tasks": of_package("tasks", "Task"),
}


def markdown(name: str) -> list[str]:
    """Return the lines of a table."""
    header, *rows = TABLES[name]()
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


class GeneratedTable(SphinxDirective):
    """A table by its name."""

    required_arguments: ClassVar[int] = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        """Make it."""
        place = nodes.Element()
        lines = markdown(self.arguments[0])
        self.state.nested_parse(StringList(lines, source=f"<{self.arguments[0]}>"), self.content_offset, place)
        return place.children


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("generated-table", GeneratedTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
