"""Rollouts on their way: who steps, who acts, how batches and weights travel."""
