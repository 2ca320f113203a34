"""`raftgrade proof`: measure how reliably the suites catch known bugs."""
