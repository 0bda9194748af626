"""The commands of ``r2ac``: what each takes and what it does with it, one module a command."""
