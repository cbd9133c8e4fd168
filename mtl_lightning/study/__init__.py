"""Many runs that answer one question: which way of training is better, and which settings are.

A comparison is a grid of cells, an entry of it and a seed each, whose trials are Optuna's; what they find is a table,
from which alone the report is made. Nothing here knows the command line: it hands in how a trial is run.

>>> from mtl_lightning.study.statistics import difference
>>> one, other = {0: 1.0, 1: 1.2, 2: 1.1}, {0: 2.0, 1: 2.1, 2: 2.2}  # a figure by seed, lower is better
>>> found = difference(one, other, confidence=0.95, comparisons=1)
>>> f"{found.mean:.2f} in {found.low:.2f} to {found.high:.2f}: {found.told_apart}"
'-1.00 in -1.25 to -0.75: True'
"""
