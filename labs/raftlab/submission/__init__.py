"""A student's submission: finding it, reading it, checking its contract, and making the skeleton that it starts from."""
