"""Host processes, which run student code and are not trusted. Nothing here decides a verdict.

- Process: ``warm_host`` is started by the judge and forks (``fork_server``) one child for each contract check
  (``check_child``), simulated run (``sim_child``) or server on the real network (``rpyc_child``). ``compile_cache`` and
  ``warm_up`` make children fast. Simulated runs are faster still if the prepared host forks them instead of the warm host:
  it has already imported the submission for the servers of many runs (``prepared``).
- Both worlds: ``server`` connects a student's ``Raft`` to its peers, storage and service; ``loader`` finds its modules;
  ``output`` turns what it prints into lines of the trace; ``student_frames`` names its lines in reports.
- Simulator: ``sim_host`` runs all servers (``sim_server``) in lock step with the judge. ``kernel`` schedules their threads
  in virtual time, ``preemption`` compiles switch points into student code, and ``primitives``, ``threads`` and ``stdlib``
  (with ``cpython_arguments``) let Python's own threading library run on the kernel.
- Real network: ``rpyc_server`` runs one server with Python's own threads.
"""
