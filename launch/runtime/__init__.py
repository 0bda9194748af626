"""What every command has: signals, supervision, progress lines, errors."""
