"""The command line: one ``LightningCLI``, behind the ``mtl-lightning`` script.

Importing the packages of the parts is what makes short class names work: the parser finds a class by its name among the
imported subclasses of the type that an option asks for.
"""

from mtl_lightning.cli.command_line import MultiTaskCLI
from mtl_lightning.cli.program import main
from mtl_lightning.cli.table import metrics_table

__all__ = ["MultiTaskCLI", "main", "metrics_table"]
