"""How much each unit of a model matters: criteria by axis, measured in one place, and scores on disk."""
