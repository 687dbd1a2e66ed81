"""A conversation at a terminal, in which the same prompts go to one or several models."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from shear_lit.commands.chat.speaker import Conversation, Speaker
from shear_lit.commands.failures import INTERRUPTED
from shear_lit.mistakes import Mistake

_PROMPT = "> "
_COMMANDS = (
    ("/reset", "forget the conversation"),
    ("/system TEXT", "forget it, and begin one under this instruction; alone: under none"),
    ("/exit", "leave, as Ctrl-D does"),
)


@dataclass(frozen=True, kw_only=True)
class Left:
    """How a conversation ended."""

    exit_code: int = 0
    """130 where Ctrl-C ended it."""

    def __str__(self) -> str:
        return ""


@dataclass
class _Talk:
    """What is under way."""

    speakers: Sequence[Speaker]
    system: str | None
    conversations: list[Conversation] = field(default_factory=list)

    def begin(self) -> None:
        """Forget what was said."""
        self.conversations = [Conversation.under(self.system) for _ in self.speakers]

    def ask(self, text: str) -> None:
        """Let every model answer; what stops one of them stops those after it, and what it has written stays said."""
        for speaker, conversation in zip(self.speakers, self.conversations, strict=True):
            if len(self.speakers) > 1:
                _show(f"{speaker.name}:\n")
            try:
                speaker.answer(conversation, text, _show)
            except Mistake as error:
                _show(f"({error})")
            finally:
                _show("\n")


def talk(speakers: Sequence[Speaker], system: str | None) -> Left:
    """Read what a person types until they leave."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (lines can be edited)
    names = ", ".join(speaker.name for speaker in speakers)
    _show(f"Talking to {names}. Ctrl-C ends an answer, twice the program; /help lists commands.\n")
    state = _Talk(speakers=speakers, system=system)
    state.begin()
    interruptions = 0
    while interruptions < 2:
        # Nothing is said inside the handler: what an answer held ends with it, and a Ctrl-C that meets that is lost.
        try:
            line = input(_PROMPT)
            interruptions = 0
            if not _handled(line, state):
                return Left()
        except EOFError:
            _show("\n")
            return Left()
        except KeyboardInterrupt:
            interruptions += 1
        if interruptions:
            _show("\n(Ctrl-C once more leaves)\n" if interruptions == 1 else "\n")
    return Left(exit_code=INTERRUPTED)


def _handled(line: str, state: _Talk) -> bool:
    """Do what a line asks for; returns whether the conversation goes on."""
    word, _, rest = line.strip().partition(" ")
    if not word:
        return True
    if word == "/exit":
        return False
    if word == "/help":
        _show("".join(f"{name:<14} {what}\n" for name, what in _COMMANDS))
    elif word in ("/reset", "/system"):
        if word == "/system":
            state.system = rest.strip() or None
        state.begin()
        _show(f"(a new conversation{'' if state.system is None else ' under: ' + state.system})\n")
    elif word.startswith("/") and not word.startswith("//"):
        _show(f"({word} is no command: /help lists them; a message that begins with / begins with //)\n")
    else:
        state.ask(line[line.index("/") + 1 :] if word.startswith("//") else line)
    return True


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
