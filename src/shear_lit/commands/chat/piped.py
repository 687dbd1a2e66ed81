"""Answers through a pipe: each line is a prompt of its own, and its answer is one line."""

import sys
from collections.abc import Sequence

from shear_lit.commands.chat.speaker import Conversation, Speaker
from shear_lit.commands.failures import UsageError
from shear_lit.mistakes import Mistake


def answer_lines(speakers: Sequence[Speaker], system: str | None) -> None:
    """Answer every line of what is piped in; of several models each has a line, behind its name and a tab.

    A line break inside an answer is written as a backslash and an n, and a backslash as two.

    Raises:
        UsageError: a line is no UTF-8, or cannot be answered.
    """
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            prompt = line.decode("utf-8").strip("\r\n")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"line {number} of the input is no UTF-8 ({error.reason}). Convert it."
            ) from error
        for speaker in speakers:
            sys.stdout.write(f"{speaker.name}\t" if len(speakers) > 1 else "")
            sys.stdout.write(f"{_in_a_line(_answer(speaker, prompt, number, system))}\n")
            sys.stdout.flush()


def _answer(speaker: Speaker, prompt: str, number: int, system: str | None) -> str:
    """The answer to a prompt; none to an empty line, so that lines stay beside each other."""
    if not prompt.strip():
        return ""
    try:
        return speaker.answer(Conversation.under(system), prompt, lambda text: None)
    except Mistake as error:
        raise UsageError(f"line {number} of the input: {error}") from error


def _in_a_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\r", "\\r").replace("\n", "\\n")
