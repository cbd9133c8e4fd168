"""The version of this library, for packages and for checkpoints."""

__version__ = "0.2.0"
