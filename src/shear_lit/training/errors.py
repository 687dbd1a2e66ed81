"""What can be wrong with a run as a whole."""

from shear_lit.mistakes import Mistake


class RunError(Mistake):
    """A run whose settings are impossible, or whose parts do not fit together."""
