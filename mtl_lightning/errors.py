"""What goes wrong: each error says what was expected, what was found, and what to do."""

from __future__ import annotations


class MtlLightningError(Exception):
    """Base of this library's errors; the command line shows one as a message without a traceback.

    One that a loader's worker process raised says what it said there: PyTorch hands it on with the worker's traceback
    for a message, which stays in ``args``.
    """

    def __str__(self) -> str:
        text = super().__str__()
        name = f"{type(self).__name__}: "
        return text.rpartition(name)[2].strip() if text.startswith("Caught ") and name in text else text


class MtlLightningWarning(UserWarning):
    """A run that works but will hardly learn, said in words; to filter with ``warnings.filterwarnings``."""


class ConfigurationError(MtlLightningError, ValueError):
    """A part was configured in a way that cannot be right; says what was expected, found, and what to do."""


class CheckpointError(ConfigurationError, RuntimeError):
    """A checkpoint file is damaged, of another kind, of the future, or names what it may not; says which file."""


class MissingCheckpointError(CheckpointError, FileNotFoundError):
    """There is no checkpoint file of that name."""


class DataError(MtlLightningError, ValueError):
    """A file of a dataset is missing, broken, or holds what it should not; says which file, and which row of it."""


class BatchError(MtlLightningError, ValueError):
    """A batch breaks the batch contract (:class:`~mtl_lightning.types.Batch`)."""


class TargetError(BatchError):
    """A target has the wrong dtype, shape or values for its task."""


class NotDescribableError(MtlLightningError, TypeError):
    """A part that plain data cannot rebuild: an instance, a lambda, a local class."""


class ExportError(ConfigurationError, RuntimeError):
    """A network cannot be exported, or an exported folder is damaged or does not fit; says which part, or file."""
