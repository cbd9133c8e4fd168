"""A learning rate for each group of parameters, from a sweep of each while the others are held.

>>> from mtl_lightning.lr_find import RateFinder
>>> finder = RateFinder(updates=60, lowest=1e-5, highest=10.0)

``finder.find(module, data)`` sweeps on a copy of the module and returns :class:`FoundRates`: ``suggested``, a
``table()``, a ``plot()``, a YAML ``fragment()``, and ``write(folder)`` for all of them. On the command line it is
``mtl-lightning lr-find --config <the fit's>``.
"""

from mtl_lightning.lr_find.finder import RateFinder
from mtl_lightning.lr_find.result import FoundRates
from mtl_lightning.lr_find.suggestion import Suggestion, suggest
from mtl_lightning.lr_find.sweep import Sweep

__all__ = ["FoundRates", "RateFinder", "Suggestion", "Sweep", "suggest"]
