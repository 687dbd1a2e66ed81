"""What can be wrong with a suite."""

from shear_lit.mistakes import Mistake


class SuiteError(Mistake):
    """A suite, a task or a file of questions that cannot be used."""


class HarnessError(Mistake):
    """lm-evaluation-harness is not there."""


def check_harness() -> None:
    """Refuse to begin without lm-evaluation-harness, before anything is read.

    Raises:
        HarnessError: it is not installed.
    """
    from importlib.util import find_spec

    if find_spec("lm_eval") is None:
        raise HarnessError(
            "suite: lm-evaluation-harness (lm_eval) is not installed here, and it is what asks the questions. "
            "Install it: pip install 'shear-lit[eval]'."
        )
