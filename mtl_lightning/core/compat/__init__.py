"""Everything that outwits Lightning, one file per trick; each names the symbol of Lightning that it relies on."""

from mtl_lightning.core.compat.checkpoint_path import checkpoint_path, part_file
from mtl_lightning.core.compat.direct import Direct
from mtl_lightning.core.compat.hook_calls import HookNames, with_signature, without_profile
from mtl_lightning.core.compat.onnx import Exports
from mtl_lightning.core.compat.process_group import destroy_at_exit
from mtl_lightning.core.compat.quiet import without_advice
from mtl_lightning.core.compat.termination import Termination
from mtl_lightning.core.compat.trainer_arguments import TrainerArguments, own_callbacks
from mtl_lightning.core.compat.trainer_data import build_for_data, check_declared, length_of
from mtl_lightning.core.compat.transfer import Transfers
from mtl_lightning.core.compat.validations import Validations, plan_validation

__all__ = [
    "Direct",
    "Exports",
    "HookNames",
    "Termination",
    "TrainerArguments",
    "Transfers",
    "Validations",
    "build_for_data",
    "check_declared",
    "checkpoint_path",
    "destroy_at_exit",
    "length_of",
    "own_callbacks",
    "part_file",
    "plan_validation",
    "with_signature",
    "without_advice",
    "without_profile",
]
