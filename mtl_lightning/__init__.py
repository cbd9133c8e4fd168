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

from mtl_lightning.core import Edge, MultiTaskModule, Network, NonFiniteError, Schedule
from mtl_lightning.version import __version__

__all__ = ["Edge", "MultiTaskModule", "Network", "NonFiniteError", "Schedule", "__version__"]
