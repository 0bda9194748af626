"""Sweeps: many trainings with other seeds and settings, as trials of Ray Tune."""
