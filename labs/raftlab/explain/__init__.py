"""Explaining failures: what a failure says, the rules of Raft that it can name, and likely causes."""
