"""Training: the objects of a run, the loop, learners in a group, resuming, budgets and profiles."""
