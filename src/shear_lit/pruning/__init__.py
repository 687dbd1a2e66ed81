"""Three verbs on a live model: give it gates, attach them, carve what they leave."""
