"""One gradient per task, combined by the balancer: of all shared parameters, or of something cheaper.

What the rows are gradients of is the *level*: :mod:`~mtl_lightning.core.update.gradients.parameters`,
:mod:`~mtl_lightning.core.update.gradients.features` or :mod:`~mtl_lightning.core.update.gradients.last_layer`.
"""

from mtl_lightning.core.update.gradients.base import GradientLevel
from mtl_lightning.core.update.gradients.features import FeatureLevel
from mtl_lightning.core.update.gradients.jacobian import RowMemory
from mtl_lightning.core.update.gradients.last_layer import LastLayerLevel
from mtl_lightning.core.update.gradients.parameters import ParameterLevel

LEVELS: dict[str, type[GradientLevel]] = {
    "parameters": ParameterLevel,
    "features": FeatureLevel,
    "last_layer": LastLayerLevel,
}

__all__ = ["LEVELS", "FeatureLevel", "GradientLevel", "LastLayerLevel", "ParameterLevel", "RowMemory"]
