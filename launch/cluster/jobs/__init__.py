"""Trainings as jobs of a running Ray cluster, through its Jobs API: submitted, followed, stopped and fetched."""
