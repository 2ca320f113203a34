"""Measurements, run by hand: ``python -m pytest tests/benchmarks``. They print figures and assert next to nothing."""
