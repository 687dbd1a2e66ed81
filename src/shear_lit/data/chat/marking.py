"""Which characters of a rendered conversation come from its messages, and which from the template.

A template is rendered twice: with the messages as they are, and with every character of their text moved into plane
15 of Unicode, which is for private use and which no template writes. What lies there in the second rendering is of a
message; two more private characters, of plane 16, say where each message begins and ends, inside the white space
around its text, so that a template may trim it. Moved back, the second rendering must be the first one: where a
template looks at the text of a message and does something else with it, it is not, and nothing is concluded.

White space stays where it is, and so do quotes, backslashes and control characters, which JSON writes otherwise, and
characters beyond the first plane: none of them tells a special token.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shear_lit.data.chat.messages import ASSISTANT, Conversation

_PLANE, _SIZE = 0xF0000, 0x10000
_BEGINS, _ENDS = 0x100000, 0x108000  # and the number of the message
MOST_MESSAGES = TOOLS = _ENDS - _BEGINS - 1
"""A conversation has fewer; its tools have this number."""
_STAYS = '"\\\x7f'  # and all that is no larger than a space
_PRIVATE = re.compile("[\U000f0000-\U0010ffff]")
_MARK = re.compile("[\U00100000-\U0010ffff]")
_MOVED = re.compile("[\U000f0000-\U000fffff]")


@dataclass(frozen=True)
class Region:
    """Where the text of a message lies in a rendered conversation."""

    message: int
    """Which message it is, from 0; ``TOOLS``, if it is none."""
    start: int
    """Where its first character lies that is no white space."""
    end: int
    """Behind its last one."""


@dataclass(frozen=True)
class Marked:
    """A rendered conversation of which every character is known to come from a message, or from the template."""

    moved: str
    """It, with the characters of messages in plane 15."""
    regions: list[Region]
    """Where the messages lie, in the order of the rendering."""

    @property
    def text(self) -> str:
        """It, as it is tokenised."""
        return moved_back(self.moved)

    def region(self, message: int) -> Region | None:
        """Where a message lies, if any of it does."""
        return next((region for region in self.regions if region.message == message), None)

    def before(self, region: Region) -> str:
        """What lies between a region and the one before it."""
        at = self.regions.index(region)
        return self.moved[self.regions[at - 1].end if at else 0 : region.start]

    def behind(self, region: Region) -> str:
        """What lies between a region and the next one."""
        at = self.regions.index(region) + 1
        return self.moved[region.end : self.regions[at].start if at < len(self.regions) else None]

    def tail(self) -> str:
        """What lies behind the last region."""
        return self.moved[self.regions[-1].end if self.regions else 0 :]


def is_private(text: str) -> bool:
    """Whether a text has characters of the planes for private use, which would be taken for marks."""
    return _PRIVATE.search(text) is not None


class _Moves(dict[int, int]):
    """Where each character goes, by its number; it fills up as they are met."""

    def __missing__(self, code: int) -> int:
        stays = code <= ord(" ") or code >= _SIZE or chr(code) in _STAYS or chr(code).isspace()
        self[code] = code if stays else code + _PLANE
        return self[code]


class _MovesBack(dict[int, int]):
    """Where each character came from."""

    def __missing__(self, code: int) -> int:
        self[code] = code - _PLANE if _PLANE <= code < _PLANE + _SIZE else code
        return self[code]


_MOVES, _MOVES_BACK = _Moves(), _MovesBack()


def moved(text: str) -> str:
    """``text`` with its characters in plane 15, but for those that stay."""
    return text.translate(_MOVES)


def moved_back(text: str) -> str:
    """What ``moved`` was given."""
    return text.translate(_MOVES_BACK)


def marked(conversation: Conversation, kept: Collection[str] = ()) -> Conversation:
    """A conversation with the text of its messages moved, and marked; strings in ``kept`` are not moved."""
    messages = [
        _marked_message(message, number, kept) for number, message in enumerate(conversation.messages)
    ]
    return Conversation(messages, _each(conversation.tools, _marker(TOOLS, kept), ("type",)))


def read_marked(rendered: str) -> Marked:
    """What a rendering of a marked conversation says."""
    plain, starts, ends = [], dict[int, int](), dict[int, int]()
    at = before = 0
    for found in _MARK.finditer(rendered):
        plain.append(rendered[before : found.start()])
        at, before, code = at + found.start() - before, found.end(), ord(found[0])
        if code >= _ENDS:
            ends[code - _ENDS] = at
        else:
            starts.setdefault(code - _BEGINS, at)
    plain.append(rendered[before:])
    text = "".join(plain)
    return Marked(text, _regions(text, starts, ends))


def _regions(text: str, starts: Mapping[int, int], ends: Mapping[int, int]) -> list[Region]:
    """Regions by their marks; where a template has cut off an end of a message, it begins or ends with what is left."""
    found: list[Region] = []
    places = sorted((ends.get(number, starts.get(number, 0)), number) for number in {*starts, *ends})
    for index, (_, number) in enumerate(places):
        previous = found[-1].end if found else 0
        start, end = starts.get(number), ends.get(number)
        if start is None and end is not None:
            first = _MOVED.search(text, previous, end)
            start = first.start() if first else end
        if end is None:
            follows = (starts.get(other, ends.get(other)) for _, other in places[index + 1 : index + 2])
            last = [
                match.end() for match in _MOVED.finditer(text, start or 0, next(follows, None) or len(text))
            ]
            end = last[-1] if last else start
        assert start is not None and end is not None
        found.append(Region(number, start, end))
    return found


def _marked_message(message: Mapping[str, Any], number: int, kept: Collection[str]) -> dict[str, Any]:
    mark = _marker(number, kept)
    found = dict(message)
    for name in ("content", "reasoning_content"):
        if name in found:
            found[name] = mark(found[name])
    for name in ("name", "tool_call_id"):  # of which a template may ask the length
        if name in found:
            found[name] = moved(found[name])
    if "tool_calls" in found:
        found["tool_calls"] = [_marked_call(call, mark) for call in found["tool_calls"]]
    return found


def _marked_call(call: Mapping[str, Any], mark: Callable[[str], str]) -> dict[str, Any]:
    identity = {"id": moved(call["id"])} if "id" in call else {}
    return {**call, **identity, "function": _each(call["function"], mark)}


def _marker(number: int, kept: Collection[str]) -> Callable[[str], str]:
    """What marks a text as of a message; a text of white space alone stays as it is."""
    parts = re.compile("|".join(map(re.escape, sorted(kept, key=len, reverse=True)))) if kept else None

    def mark(text: str) -> str:
        core = text.strip()
        if not core:
            return text
        inside = moved(core) if parts is None else _moved_around(parts, core)
        begins = text[: len(text) - len(text.lstrip())]
        return (
            f"{begins}{chr(_BEGINS + number)}{inside}{chr(_ENDS + number)}{text[len(begins) + len(core) :]}"
        )

    return mark


def _moved_around(parts: re.Pattern[str], text: str) -> str:
    out, before = [], 0
    for found in parts.finditer(text):
        out += [moved(text[before : found.start()]), found[0]]
        before = found.end()
    return "".join([*out, moved(text[before:])])


def _each(value: Any, change: Callable[[str], str], skipped: Sequence[str] = ()) -> Any:
    """JSON with its strings changed, but for keys and what stands under the keys ``skipped``."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {k: v if k in skipped else _each(v, change, skipped) for k, v in value.items()}
    return [_each(one, change, skipped) for one in value] if isinstance(value, list) else value


def strings_of(conversation: Conversation) -> tuple[list[str], list[str]]:
    """All texts of a conversation that a template may write: those that are moved, and others, such as keys."""
    texts: list[str] = []
    others: list[str] = []

    def collect(value: Any, *, moves: bool) -> None:
        if isinstance(value, str):
            (texts if moves else others).append(value)
        elif isinstance(value, Mapping):
            others.extend(value)
            for key, one in value.items():
                collect(one, moves=key != "type")
        elif isinstance(value, list):
            for one in value:
                collect(one, moves=moves)

    for message in conversation.messages:
        for name, value in message.items():
            if name != "role":
                collect(value, moves=True)
    collect(conversation.tools, moves=True)
    return texts, others


def answers_of(conversation: Conversation) -> list[int]:
    """The numbers of the messages that the assistant wrote."""
    return [n for n, message in enumerate(conversation.messages) if message["role"] == ASSISTANT]
