"""Explaining failures: the failure itself, the rules of Raft, their likely causes, and the rendering as text and HTML."""
