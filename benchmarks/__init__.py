"""Benchmarks, which are run by hand and never in CI.

They print numbers and assert almost nothing, because the numbers depend on the machine and its load. ``python -m pytest
-n 0 -s benchmarks`` runs those that are tests. :mod:`benchmarks.page` runs them all and writes
``handouts/benchmarks.md``.
"""
