"""From raw text, or the packed sequences of others, to prepared data."""
