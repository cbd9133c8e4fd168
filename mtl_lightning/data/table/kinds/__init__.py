"""What fits the kinds of columns beside numbers and categories.

``base`` says what a fitter is, ``declared`` which fitters the declaration of a table asks for.
"""

from mtl_lightning.data.table.kinds.base import KindFitter

__all__ = ["KindFitter"]
