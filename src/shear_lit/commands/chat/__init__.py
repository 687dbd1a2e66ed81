"""Talking to models: at a terminal, line by line through a pipe, or through a server that others ask."""
