"""The study: what `experiments/` describes, trained, recorded and written as a page."""
