"""The untrusted side: everything that runs in the same process as student code.

``kernel`` schedules threads in virtual time, ``stdlib`` dresses Python's own threading modules in it, ``weave`` puts
switch points into student code, ``loader`` loads a submission, ``server`` joins one Raft to its peers, storage and
service, and ``main`` is the process itself. Nothing here decides a verdict.
"""
