"""`raftgrade soak`: run suites and random scenarios for hours."""
