"""Ten seconds of talk with the demo's source and its result, as ``shear-lit chat`` has it."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from shear_lit.commands.chat.speaker import Conversation, Enough, Speaker, open_speakers
from shear_lit.models.answering import Sampling

QUESTION = "Why is the sky blue?"
SECONDS_EACH = 5.0
"""After which an answer is cut off."""


def talked(models: Mapping[str, Path]) -> dict[str, str]:
    """What each model answers to ``QUESTION``, which is shown while it is written; by name."""
    sampling = Sampling(temperature=0.0, max_new_tokens=200)
    places = [str(path) for path in models.values()]
    speakers = open_speakers(places, sampling, template=None, system=None, dtype="float32", device="cpu")
    return {name: _answer(name, speaker) for name, speaker in zip(models, speakers, strict=True)}


def _answer(name: str, speaker: Speaker) -> str:
    end = time.monotonic() + SECONDS_EACH
    _show(f"> {QUESTION}\n{name}: ")

    def show(piece: str) -> None:
        _show(piece)
        if time.monotonic() > end:
            raise Enough

    try:
        return speaker.answer(Conversation.under(None), QUESTION, show)
    finally:
        _show("\n")


def _show(text: str) -> None:
    sys.stderr.write(text)  # beside what the demo says; the report is all of its output
    sys.stderr.flush()
