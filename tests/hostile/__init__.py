"""A bank of hostile and broken submissions, graded in one batch beside honest ones."""
