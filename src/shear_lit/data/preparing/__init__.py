"""Raw text to prepared data: the stages, and the run that goes through them."""
