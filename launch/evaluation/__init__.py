"""Evaluation: what is to be played, who plays it, and what is written."""
