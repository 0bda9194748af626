"""Ray clusters: joining one, jobs on one, and files that set one up."""
