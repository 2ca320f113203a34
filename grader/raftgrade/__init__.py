"""raftgrade: grades submissions with raftlab's suites. :mod:`raftgrade.cli` is where to start reading."""

from raftlab import __version__

__all__ = ["__version__"]
