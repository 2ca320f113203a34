"""A student's submission: finding it, reading it, checking its contract, and generating the skeleton that students start
from."""
