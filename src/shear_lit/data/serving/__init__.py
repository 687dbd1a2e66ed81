"""From prepared data to micro-batches."""
