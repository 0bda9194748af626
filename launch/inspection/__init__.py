"""What RTRL adds to the gradient of a trained agent."""
