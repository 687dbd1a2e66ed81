"""Family tables, counts and configs, against live stock models."""
