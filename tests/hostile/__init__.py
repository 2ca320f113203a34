"""Hostile and broken submissions, which are graded in batches together with honest ones."""
