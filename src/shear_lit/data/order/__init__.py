"""Which sequence comes next."""
