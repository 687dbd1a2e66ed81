"""What can be wrong with a run as a whole."""


class RunError(ValueError):
    """A run whose settings are impossible, or whose parts do not fit together."""
