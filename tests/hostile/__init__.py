"""Hostile and broken submissions, graded in one batch together with honest ones."""
