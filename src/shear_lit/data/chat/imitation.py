"""Text of messages that looks like what a template writes: special tokens, and delimiters that are plain text.

Special tokens of a message can become none (see ``rendering``), but a reader takes ``[/INST]`` for the end of a
question wherever it stands. Both are refused, unless the user says that messages may have them.
"""

import json
import re
from collections.abc import Collection, Iterable

from tokenizers import Tokenizer

SPECIAL = "text that is a special token ({})"
"""The reason for text such as ``<|im_end|>``."""
DELIMITER = "text that is a delimiter of the template ({})"
"""The reason for text such as ``[/INST]``."""

_MOST_WORDS = 3  # a longer line of a template is prose, such as a system message of its own
_TAG = re.compile(r"[<\[{(|].*[>\]})|]")


def special_names(tokenizer: Tokenizer) -> dict[str, int]:
    """The special tokens of a tokenizer, and their ids."""
    added = tokenizer.get_added_tokens_decoder()
    return {token.content: index for index, token in added.items() if token.special}


def other_names(tokenizer: Tokenizer) -> list[str]:
    """Tokens that were added to a tokenizer and are not special, such as ``<think>``; none of white space."""
    added = tokenizer.get_added_tokens_decoder().values()
    return [token.content for token in added if not token.special and token.content.strip()]


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """The token that a tokenizer gives for what it does not know, if it has one."""
    model = json.loads(tokenizer.to_str())["model"]
    name = model.get("unk_token")
    return model.get("unk_id") if name is None else tokenizer.token_to_id(name)


def any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Finds names as a tokenizer does: the first one, and of several that begin there the longest."""
    longest_first = sorted(filter(None, names), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def delimiters(literals: Iterable[str], special: re.Pattern[str], others: Collection[str]) -> set[str]:
    """What in the text of a template tells its parts apart, and is no special token.

    Args:
        literals: The text that it writes between messages.
        special: Finds its special tokens.
        others: Tokens that were added to the tokenizer, and are not special.

    Returns:
        Such tokens; and of short lines those that are not words alone (``user``, behind a special token, is one): the
        tags in them (``[INST]``, ``<|user|>``), or where there are none, the line (``### Response:``).
    """
    found: set[str] = set()
    for literal in literals:
        found |= {name for name in others if name in literal}
        for line in "\n".join(special.split(literal)).splitlines():
            words = line.split()
            if len(words) > _MOST_WORDS or all(map(str.isalnum, words)):
                continue
            tags = {word for word in words if len(word) > 2 and _TAG.fullmatch(word)}
            found |= tags or {line.strip()}
    return found


class Imitations:
    """Finds what a template writes in the texts of messages."""

    def __init__(self, special: Collection[str], plain: Collection[str], allowed: Collection[str]) -> None:
        """Take the special tokens and the delimiters of plain text; texts may have those in ``allowed``."""
        self._special, self._allowed = frozenset(special), frozenset(allowed)
        self._names = any_of({*special, *plain})
        self._any_special = any_of(special)

    def reason(self, texts: Iterable[str], others: Iterable[str]) -> str:
        """Why texts cannot be used; empty if they can. In ``others``, such as keys, no special token is allowed."""
        for text in texts:
            for found in self._names.finditer(text):
                if found[0] not in self._allowed and _is_apart(text, found):
                    return self._reason(found[0])
        for text in others:
            if special := self._any_special.search(text):
                return self._reason(special[0])
        return ""

    def has_special(self, texts: Iterable[str]) -> bool:
        """Whether one of the texts has a special token."""
        return any(self._any_special.search(text) for text in texts)

    def _reason(self, name: str) -> str:
        return (SPECIAL if name in self._special else DELIMITER).format(name)


def _is_apart(text: str, found: re.Match[str]) -> bool:
    """Whether it is no part of a longer word: ``USER:`` is one of ``SUPERUSER:``."""
    before = text[found.start() - 1 : found.start()]
    return not (before.isalnum() and found[0][0].isalnum())
