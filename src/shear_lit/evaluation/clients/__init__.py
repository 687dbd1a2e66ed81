"""Clients: programs of others that load what this one writes, each in its own interpreter."""
