"""The referee: one file per rule of Raft. Each rule watches every event of every run."""
