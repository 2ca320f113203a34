"""Single runs: making, recording and naming them. Scenarios: runs written as a list of commands."""
