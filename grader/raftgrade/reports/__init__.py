"""Reports in many formats, one module per format."""
