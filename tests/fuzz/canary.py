"""A module that no checkpoint may import."""


class Canary:
    """What a hostile checkpoint names."""
