"""``trainer.detect_anomaly``: what it finds is a number of the run, and no fault of the program."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from shear_lit.mistakes import Mistake


class AnomalyError(Mistake):
    """A gradient that is not finite, in the operation that gave it."""

    exit_code = 1


@contextmanager
def anomalies_named() -> Iterator[None]:
    """Let the error of torch's anomaly mode be one of the run's.

    Raises:
        AnomalyError: torch found a gradient that is no number.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.match(r"Function '(\w+)' returned nan values", str(error))
        if found is None:
            raise
        raise AnomalyError(
            f"trainer.detect_anomaly: {found[1]} returned a gradient that is not a number; above is the line of the "
            f"forward pass that it belongs to. The run stops here. Resume from the last checkpoint with a lower "
            f"model.optimizer.weights_learning_rate, or look at the data."
        ) from error
