"""What a model is worth: its loss per domain."""
