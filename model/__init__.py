"""Everything that turns one case into a predicted survival time."""

__version__ = "0.1.0"
