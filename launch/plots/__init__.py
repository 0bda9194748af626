"""Learning curves: read, grouped and drawn."""
