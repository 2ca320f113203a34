"""Reports in many formats: a module for each."""
