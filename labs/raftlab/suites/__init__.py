"""The staged tests of each lab, one module per lab. These test students' code; the framework's own tests are in `tests/`."""
