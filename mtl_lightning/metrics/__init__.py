"""Metrics that a task does not have by default: how models compare, and whether what they say is to be believed.

:class:`DeltaM` and :class:`MeanRank` compare multi-task models with others
(:mod:`mtl_lightning.metrics.comparison`). :class:`ExpectedCalibrationError` and :class:`BrierScore` can be given to any
task with classes or yes-or-no labels, in YAML as ``metrics: {ece: ExpectedCalibrationError}``; the callback
``CalibrationMetrics`` adds them to every test, and :class:`IntervalCoverage` and :class:`IntervalWidth` of numbers
that are calibrated.
"""

from mtl_lightning.metrics.calibration import BrierScore, ExpectedCalibrationError, IntervalCoverage, IntervalWidth
from mtl_lightning.metrics.comparison import DeltaM, MeanRank, delta_m, mean_rank, relative_differences

__all__ = [
    "BrierScore",
    "DeltaM",
    "ExpectedCalibrationError",
    "IntervalCoverage",
    "IntervalWidth",
    "MeanRank",
    "delta_m",
    "mean_rank",
    "relative_differences",
]
