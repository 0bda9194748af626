"""Rollouts from the environments to the learner, and weights back to the agents that act."""
