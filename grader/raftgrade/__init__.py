"""raftgrade: grades submissions with raftlab's suites. ``raftgrade run PATH`` is the front door
(:mod:`raftgrade.cli`)."""

from raftlab import __version__

__all__ = ["__version__"]
