"""Single runs: how they are performed, recorded and named. Scenarios: runs written as a list of commands."""
