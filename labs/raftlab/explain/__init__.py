"""Explain failures: the failure as data, the rules of Raft, likely causes, and rendering as text and HTML."""
