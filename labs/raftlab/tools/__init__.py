"""The commands of `raftlab`, one module per command."""
