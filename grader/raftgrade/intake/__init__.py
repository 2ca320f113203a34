"""Find and copy submissions, and reuse results of an earlier report."""
