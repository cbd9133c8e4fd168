"""Everything that outwits Lightning, one file per trick; each names the symbol of Lightning that it relies on."""

from mtl_lightning.core.compat.checkpoint_path import as_text, checkpoint_path, part_file
from mtl_lightning.core.compat.process_group import destroy_at_exit
from mtl_lightning.core.compat.termination import Termination
from mtl_lightning.core.compat.trainer_arguments import TrainerArguments, replacements, the_one
from mtl_lightning.core.compat.trainer_data import check_declared, first_batch, length_of
from mtl_lightning.core.compat.validations import Validations, plan_validation

__all__ = [
    "Termination",
    "TrainerArguments",
    "Validations",
    "as_text",
    "check_declared",
    "checkpoint_path",
    "destroy_at_exit",
    "first_batch",
    "length_of",
    "part_file",
    "plan_validation",
    "replacements",
    "the_one",
]
