"""Taking submissions in: finding, copying and fingerprinting them, and reusing results of an earlier report."""
