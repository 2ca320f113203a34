"""The two worlds in which servers run: the simulator and the real network over rpyc."""
