"""Helpers that several suites share: scripted leaders, followers and voters, and checks with their own failure messages."""
