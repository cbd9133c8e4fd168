"""Several datasets as one, such as one for each task, or one for each domain.

>>> from mtl_lightning.data import PerTaskData, SyntheticRegression, UniformSampling
>>> near, far = SyntheticRegression(n=500), SyntheticRegression(n=2000)
>>> data = PerTaskData({"near": near, "far": far}, rename={"far": {"y1": "height", "y2": None}})
>>> list(data.tasks)
['y1', 'y2', 'height']

How many batches of each dataset come is for a :class:`Sampling` to say.
"""

from mtl_lightning.data.per_task.datamodule import PerTaskData
from mtl_lightning.data.per_task.loader import PerTaskLoader
from mtl_lightning.data.per_task.sampling import (
    ProportionalSampling,
    RoundRobinSampling,
    Sampling,
    TemperatureSampling,
    UniformSampling,
)

__all__ = [
    "PerTaskData",
    "PerTaskLoader",
    "ProportionalSampling",
    "RoundRobinSampling",
    "Sampling",
    "TemperatureSampling",
    "UniformSampling",
]
