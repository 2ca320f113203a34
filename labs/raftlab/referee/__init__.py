"""The referee: it watches every event of every run and ends the run when a rule of Raft is broken. One file per rule."""
