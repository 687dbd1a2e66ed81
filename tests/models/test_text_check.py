"""A text that a model has no tokens or no positions for is refused by one check for all commands."""

import pytest

from shear_lit.models.text_check import TextError, check_text
from tests import tiny


def check(**changes):
    asked = dict(model="m", text="d", vocabulary=tiny.VOCABULARY, sequence_length=64) | changes
    check_text(tiny.config(), **asked)


def test_text_that_fits_exactly_is_taken():
    check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(vocabulary=51),
            r"^data\.directory='d' holds token ids up to 50, and 'm' knows 50: .* Prepare it",
        ),
        (dict(vocabulary=51, key="text"), r"^text='d' holds"),
        (
            dict(sequence_length=65),
            r"^data\.directory='d' has sequences of 65 tokens.*sequence_length=64 or less",
        ),
    ],
    ids=str,
)
def test_text_that_does_not_fit_is_refused_with_its_repair(changes, message):
    with pytest.raises(TextError, match=message):
        check(**changes)
