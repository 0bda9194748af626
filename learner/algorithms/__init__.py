"""Algorithms: targets and losses of an update."""
