"""Benchmarks, run by hand and never in CI.

They print figures and assert almost nothing, because figures depend on the machine and on what else it does:
``python -m pytest -n 0 -s benchmarks``. :mod:`benchmarks.page` measures and writes ``handouts/benchmarks.md``.
"""
