"""raftlab: learn Raft by writing it. A student's ``raft.py`` imports from :mod:`raftlab.api` and nothing else."""

__version__ = "0.1.0"
