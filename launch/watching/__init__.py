"""Episodes step by step, on film, and what the agent remembers in them."""
