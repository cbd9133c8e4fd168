"""Names in a file, and the classes and functions that they may stand for: checked before anything is imported."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable
from typing import Any

from mtl_lightning.errors import NotDescribableError

__all__ = ["ALLOWED", "Trust", "TrustAll"]

ALLOWED = ("mtl_lightning", "torch.nn", "torch.optim", "torchmetrics", "torchjd", "timm", "transformers")
"""Packages whose classes any checkpoint may name."""


class Trust:
    """What a checkpoint may name: classes of :data:`ALLOWED`, classes and functions of modules that a caller names.

    Args:
        names: modules or packages, such as ``mypackage`` or ``mypackage.networks``, which the caller trusts.
        caller: a class of the caller's, whose module is trusted as well: it runs already.
    """

    def __init__(self, names: Iterable[str] = (), caller: type | None = None) -> None:
        own = () if caller is None or caller.__module__.startswith("mtl_lightning.") else (caller.__module__,)
        self.names = (*((names,) if isinstance(names, str) else names), *own)

    def the_class(self, path: Any) -> type:
        """Return the class that a dotted path leads to.

        Raises:
            NotDescribableError: for other names, before importing anything, and for what is no class.
        """
        found = self._found(path, (*ALLOWED, *self.names))
        if not inspect.isclass(found):
            raise NotDescribableError(f"Expected a class, found {path!r}, which is none.")
        return found

    def the_function(self, path: Any) -> Any:
        """Return the function, or class, that a dotted path leads to; functions only where the caller trusts them.

        Raises:
            NotDescribableError: as :meth:`the_class` does.
        """
        found = self._found(path, self.names)
        if not callable(found):
            raise NotDescribableError(f"Expected a function, found {path!r}, which is none.")
        return found

    def _found(self, path: Any, names: tuple[str, ...]) -> Any:
        self._check(path, path, names)
        module, _, name = path.rpartition(".")
        try:
            found = getattr(self._module(module), name)
        except Exception as error:  # whatever the import of a module raises
            raise NotDescribableError(f"Expected to find {path}: {type(error).__name__}: {error}.") from error
        home = getattr(found, "__module__", None)
        if not isinstance(home, str):
            raise NotDescribableError(f"Expected a class or function, found {path!r}, which is none.")
        self._check(path, f"{home}.{name}", names)  # others' things lie in it, too
        return found

    def _check(self, path: Any, place: Any, names: tuple[str, ...]) -> None:
        parts = place.split(".") if isinstance(place, str) else []
        if len(parts) < 2 or not all(part.isidentifier() for part in parts):
            raise NotDescribableError(f"Expected a dotted path of a class or function, found {path!r:.100}.")
        if not self._allows(place, names):
            also = "" if place == path else f" (it is {place})"
            raise NotDescribableError(
                f"Expected a class of {', '.join(ALLOWED)}, or of a module that you name, found {path}{also}, which "
                f"has not been imported. If you trust the file: trusted=[{place.rpartition('.')[0]!r}]."
            )

    def _allows(self, place: str, names: tuple[str, ...]) -> bool:
        return any(place == name or place.startswith(f"{name}.") for name in names)

    def _module(self, name: str) -> Any:
        return importlib.import_module(name)


class TrustAll(Trust):
    """What the running program has: its own classes and functions, those of a script or notebook excepted."""

    def _allows(self, place: str, names: tuple[str, ...]) -> bool:
        if place.startswith("__main__."):
            raise NotDescribableError(
                f"Expected a class or function of a module, which another program can import, found {place}, of a "
                "script or notebook."
            )
        return True

    def _module(self, name: str) -> Any:
        return sys.modules.get(name)  # what a part is made of has been imported
