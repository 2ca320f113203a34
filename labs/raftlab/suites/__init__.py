"""The tests of each lab, one module per lab. They test students' code; the framework's own tests are in ``tests/``."""
