"""What a person wants to see of prepared data, and of what a run would draw from it."""
