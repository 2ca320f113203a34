"""Messages between judge and host: the protocol, their encoding, and the pipe or connection that carries them."""
