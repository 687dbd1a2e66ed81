"""What can go wrong in the demo itself."""

from shear_lit.mistakes import Mistake


class DemoError(Mistake):
    """A demo that cannot start, or one of whose runs has failed."""

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        """What the process ends with: that of the run that has failed, if one has."""
