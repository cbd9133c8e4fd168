"""What a network's outputs are worth: probabilities that are met as often as they say, and intervals that hold.

>>> import torch
>>> from mtl_lightning.calibration import temperature
>>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])  # right in three of four, but says 88 %
>>> round(temperature(logits, torch.tensor([0, 0, 1, 1])), 2)  # 2 / log(3): it then says 75 %
1.82

Each fit is a pure function of some rows on the CPU, in float64, with sample weights: :func:`temperature` for classes,
:func:`platt` or :func:`isotonic` for yes or no, :func:`half_widths` for numbers; :func:`fit` chooses among them by the
task. How outputs are changed then is :mod:`mtl_lightning.core.network.calibration`.

No other library is needed for it. One or two parameters of a convex loss are a dozen of Newton steps, the pool of
adjacent violators is a loop, and a conformal interval is one order statistic. netcal 1.4 has the first two, and brings
pyro, gpytorch and matplotlib; MAPIE 1.6 has the intervals, venn-abers 1.5 another calibration of yes or no: both bring
scikit-learn, and work on its estimators or on arrays of all rows. scikit-learn has Platt's line and isotonic
regression, and the tests compare with both. torchmetrics has the calibration error, but without sample weights:
:mod:`mtl_lightning.metrics` has one with, and is compared with it.
"""

from mtl_lightning.calibration.conformal import half_widths
from mtl_lightning.calibration.fit import Options, described, fit
from mtl_lightning.calibration.probabilities import NotCalibratedError, isotonic, platt, temperature
from mtl_lightning.calibration.sample import Rows, Sample

__all__ = [
    "NotCalibratedError",
    "Options",
    "Rows",
    "Sample",
    "described",
    "fit",
    "half_widths",
    "isotonic",
    "platt",
    "temperature",
]
