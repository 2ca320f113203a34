"""The sandbox for processes that run student code: its levels, the restrictions, and a probe that tests them."""
