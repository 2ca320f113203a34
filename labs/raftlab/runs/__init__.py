"""Single runs: making one, recording it, naming it, and scenarios (runs written as a list of commands)."""
