"""Host processes, which run student code and are not trusted. Nothing here decides a verdict.

- Process: the judge starts ``warm_host``, which forks (``fork_server``) one child for each contract check
  (``check_child``), simulated run (``sim_child``) or server on the real network (``rpyc_child``). ``compile_cache`` and
  ``warm_up`` make children fast. The prepared host (``prepared``) makes simulated runs faster still: it has already
  imported the submission for the servers of many runs, and forks the runs in place of the warm host.
- Both worlds: ``server`` connects a student's ``Raft`` to its peers, storage and service. ``loader`` finds the
  student's modules. ``output`` turns what the code prints into lines of the trace. ``student_frames`` names the code's
  lines in reports.
- Simulator: ``sim_host`` runs all servers (``sim_server``) in lock step with the judge. ``kernel`` schedules their threads
  in virtual time, ``preemption`` compiles switch points into student code, and ``primitives``, ``threads`` and ``stdlib``
  (with ``cpython_arguments``) let Python's own threading library run on the kernel.
- Real network: ``rpyc_server`` runs one server with Python's own threads.
"""
