"""Multi-task learning for PyTorch Lightning: one network, many tasks, one YAML file.

>>> from mtl_lightning import MultiTaskModule
>>> from mtl_lightning.architectures import SharedBottom
>>> from mtl_lightning.balancing import UncertaintyWeighting
>>> from mtl_lightning.data import SyntheticRegression
>>> data = SyntheticRegression()
>>> module = MultiTaskModule(
...     tasks=data.tasks,
...     input_spec=data.input_spec,
...     architecture=SharedBottom,
...     balancer=UncertaintyWeighting,
... )
>>> module.sigmas()
{'y1': 1.0, 'y2': 1.0}

``Trainer().fit(module, data)`` trains it; ``mtl-lightning fit --config file.yaml`` does the same from the shell.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mtl_lightning.version import __version__

if TYPE_CHECKING:
    from mtl_lightning.core import Edge, MultiTaskModule, Network, NonFiniteError, Schedule
    from mtl_lightning.predictor import Predictor

__all__ = ["Edge", "MultiTaskModule", "Network", "NonFiniteError", "Predictor", "Schedule", "__version__"]

_HOMES = {
    **dict.fromkeys(("Edge", "MultiTaskModule", "Network", "NonFiniteError", "Schedule"), "mtl_lightning.core"),
    "Predictor": "mtl_lightning.predictor",
}


if not TYPE_CHECKING:  # which would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Import what is asked for, so that what needs neither torch nor lightning waits for neither (PEP 562)."""
        if name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            if name in _HOMES:
                globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
                return globals()[name]
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from error


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
