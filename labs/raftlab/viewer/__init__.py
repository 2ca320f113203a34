"""The viewer: turns a trace into one HTML page that shows the run."""
