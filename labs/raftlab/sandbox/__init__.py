"""The sandbox around processes that run student code: its levels, what a process gives up, and the probe that tests it."""
